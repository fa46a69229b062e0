"""Commands that need one database session: opened for the command, mistakes said in a sentence. No command lives here."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import click

from tracker.cli.config import read_settings
from tracker.cli.database import database
from tracker.storage.postgres import Connection, PostgresError, Unavailable, connect

T = TypeVar("T")

_NO_TABLE = "42P01"
_PATIENCE_SECONDS = 3600.0  # adding everything up takes as long as it takes


def with_session(data: Path | None, work: Callable[[Connection], Awaitable[T]]) -> T:
    """What `work` gives for a session with the database that is meant. Raises UsageError, ClickException."""
    with database(data) as dsn:
        return run_asking(_work(dsn, work))


def run_asking(asking: Awaitable[T]) -> T:
    """Run something that asks PostgreSQL; ClickException says what went wrong there."""

    async def main() -> T:
        return await asking

    try:
        return asyncio.run(main())
    except PostgresError as exc:
        if exc.sqlstate == _NO_TABLE:
            raise click.ClickException("this database has no tables of Tracker: run `tracker db init`") from exc
        raise click.ClickException(f"PostgreSQL: {exc}") from exc
    except Unavailable as exc:
        raise click.ClickException(f"PostgreSQL cannot be reached: {str(exc) or type(exc).__name__}") from exc


def spool_dir(data: Path | None) -> Path:
    """Where the spools are that belong to the database that is meant: of `tracker dev`'s folder, else of the settings."""
    return data / "spool" if data else read_settings("tool").spool_dir


async def _work(dsn: str, work: Callable[[Connection], Awaitable[T]]) -> T:
    connection = await connect(dsn, command_timeout=_PATIENCE_SECONDS)
    try:
        return await work(connection)
    finally:
        connection.terminate()
