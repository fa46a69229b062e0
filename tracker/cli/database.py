"""Commands that need the database: which one they mean, and how what goes wrong there is said.

TRACKER_DATABASE_URL, or --data for the embedded database of `tracker dev`, also while that runs. No command lives here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

import click

from tracker.cli.config import read_settings
from tracker.domain.addresses import Network
from tracker.domain.mistakes import Conflict, Invalid, NotFound
from tracker.storage.embedded.server import EmbeddedPostgresError, database_at
from tracker.storage.entities.store import Store
from tracker.storage.postgres import PostgresError, Unavailable, create_pool

T = TypeVar("T")

data_option = click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="The folder of `tracker dev`, in place of TRACKER_DATABASE_URL.",
)


class WrongValues(click.ClickException):
    """Values that cannot be taken: one line each on stderr, exit code 2."""

    exit_code = 2

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(self.message, file=file, err=file is None)


@contextmanager
def database(data: Path | None) -> Iterator[str]:
    """The DSN of the database that is meant, for the time of a command. Raises UsageError, ClickException."""
    if data is not None:
        try:
            with database_at(data) as dsn:
                yield dsn
        except EmbeddedPostgresError as exc:
            raise click.ClickException(str(exc)) from exc
        return
    url = read_settings("tool").database_url
    if url is None:
        raise click.UsageError("give TRACKER_DATABASE_URL, or --data with the folder of `tracker dev`")
    yield url


def with_store(data: Path | None, work: Callable[[Store], Awaitable[T]]) -> T:
    """What `work` gives, run with the store; mistakes become sentences and exit codes (2 wrong values, 1 the rest)."""
    with database(data) as dsn:
        try:
            return asyncio.run(_work(dsn, work, read_settings("tool").outbox_networks))
        except Invalid as exc:
            raise WrongValues("\n".join(str(mistake) for mistake in exc.mistakes)) from exc
        except (NotFound, Conflict) as exc:
            raise click.ClickException(str(exc)) from exc
        except PostgresError as exc:
            if getattr(exc, "sqlstate", None) == "42P01":
                raise click.ClickException("this database has no tables of Tracker: run `tracker db init`") from exc
            raise click.ClickException(f"PostgreSQL: {exc}") from exc
        except Unavailable as exc:
            raise click.ClickException(f"PostgreSQL cannot be reached: {str(exc) or type(exc).__name__}") from exc


async def _work(dsn: str, work: Callable[[Store], Awaitable[T]], outbox_networks: Sequence[Network]) -> T:
    pool = await create_pool(dsn, max_size=1)
    try:
        return await work(Store(pool, outbox_networks=outbox_networks))
    finally:
        pool.terminate()
