"""`tracker journal replay` and `tracker postbacks list|retry`: postbacks that were taken, or turned away, and played again."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from tracker.cli.config import read_settings
from tracker.cli.database import data_option, with_store
from tracker.cli.output import json_option, show_rows
from tracker.domain.click_id import Keyring
from tracker.domain.postback import Postback
from tracker.domain.postback_message import parse_ts
from tracker.domain.refusal import CURABLE, Reason
from tracker.jobs.postback_retry import retry_refusals
from tracker.settings import Settings
from tracker.storage.conversions.journal import BadJournalRowError, read_journal
from tracker.storage.conversions.replay import replay
from tracker.storage.conversions.session import open_session
from tracker.storage.embedded.server import EmbeddedPostgresError, database_at
from tracker.storage.entities.store import Store
from tracker.storage.entities.table import PAGE_LIMIT, Page
from tracker.storage.postgres import PostgresError, Unavailable, connect
from tracker.storage.spool.dead_spool import find_spools

_AGO = re.compile(r"(\d{1,6})([smhd])", re.ASCII)
_UNIT_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


class Since(click.ParamType[int]):
    """A moment: 90m, 24h, 7d (ago), RFC 3339 with a zone, or Unix time; becomes ms since the epoch."""

    name = "time"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        if match := _AGO.fullmatch(value):
            return time.time_ns() // 1_000_000 - int(match[1]) * _UNIT_MS[match[2]]
        try:
            return parse_ts(value)
        except (ValueError, OverflowError):
            self.fail("give 90m, 24h or 7d (ago), or a time such as 2026-11-01T00:00:00Z", param, ctx)


_DATA = click.option(
    "--data", type=click.Path(path_type=Path, file_okay=False, exists=True), help="The folder of `tracker dev`."
)


@click.group()
def journal() -> None:
    """The journal: every authenticated postback of the last seven days, on this machine's disk.

    \b
    Example:
      tracker journal replay --since 24h
    """


@journal.command("replay")
@click.option("--since", type=Since(), required=True, help="90m, 24h, 7d (ago), or a time with its zone.")
@_DATA
def replay_journal(since: int, data: Path | None) -> None:
    """Apply the postbacks in the journals under TRACKER_SPOOL_DIR again, after a restore that lost the newest commits.

    Harmless at any time: what is recorded already stays as it is. Exit code 1: something could not be applied.

    \b
    Example:
      tracker journal replay --since 2026-11-01T00:00:00Z
    """
    with _place(data) as (settings, dsn):
        bad: list[BadJournalRowError] = []
        try:
            tally = asyncio.run(_replay(dsn, _messages(settings.spool_dir, since, bad)))
        except (*Unavailable, PostgresError) as exc:
            raise click.ClickException(f"PostgreSQL: {type(exc).__name__}: {exc}; run it again") from exc
    for error in bad:
        click.echo(str(error), err=True)
    _report(tally)
    if bad or "locked" in tally:
        raise SystemExit(1)


@click.group()
def postbacks() -> None:
    """Postbacks: what came of each, and a second try for what was refused.

    \b
    Example:
      tracker postbacks list --outcome refused
    """


@postbacks.command("list")
@click.option("--program", metavar="SLUG", help="Only this program's.")
@click.option("--outcome", metavar="WORD", help="recorded, updated, duplicate, conflict, pending_click, refused or quarantined.")
@click.option("--conversion", "conversion_id", metavar="ID", help="Only about this conversion.")
@click.option("--limit", type=click.IntRange(1, PAGE_LIMIT), default=100, show_default=True, help="The newest so many.")
@data_option
@json_option
def list_postbacks(limit: int, data: Path | None, as_json: bool, **filters: str | None) -> None:
    """List what came in, newest first, and what became of it.

    \b
    Example:
      tracker postbacks list --program shop --outcome conflict
    """

    async def read(store: Store) -> Page:
        return await store.records.postbacks(**filters, limit=limit)

    columns = ("message_id", "received_at", "outcome", "reason", "program", "conversion_id")
    show_rows(with_store(data, read).rows, columns, as_json=as_json)


@postbacks.command()
@click.option("--since", type=Since(), default="7d", show_default=True, help="90m, 24h, 7d (ago), or a time.")
@click.option("--reason", "reasons", multiple=True, type=click.Choice(sorted(reason.value for reason in CURABLE)),
              help="Only refusals with this reason; may be repeated.  [default: all of them]")
@_DATA
def retry(since: int, reasons: tuple[str, ...], data: Path | None) -> None:
    """Play kept refusals again after a mistake was mended: a token's programs, a missing program, link or key.

    Tokens are not kept. A message is taken when its sender had proven to speak for the program, or when the credential
    it came with covers the program now. A wrong token, a forged click id or a wrong address is never taken.

    \b
    Example:
      tracker postbacks retry --since 24h --reason wrong_program
    """
    with _place(data) as (settings, dsn):
        if not settings.secret_keys:
            raise click.UsageError("TRACKER_SECRET_KEYS is needed to verify the click ids again")
        keyring = Keyring(settings.secret_keys)
        chosen = frozenset(map(Reason, reasons)) or CURABLE
        try:
            tally = asyncio.run(_retry(dsn, keyring, since, chosen))
        except (*Unavailable, PostgresError) as exc:
            raise click.ClickException(f"PostgreSQL: {type(exc).__name__}: {exc}; run it again") from exc
    _report(tally)
    if "locked" in tally:
        raise SystemExit(1)


@contextmanager
def _place(data: Path | None) -> Iterator[tuple[Settings, str]]:
    """Settings and database: the environment's, or those of a `tracker dev` folder, which may be running."""
    if data is None:
        settings = read_settings("tool")
        if settings.database_url is None:
            raise click.UsageError("give TRACKER_DATABASE_URL, or --data with the folder of `tracker dev`")
        yield settings, settings.database_url
        return
    try:
        secrets = json.loads((data / "secrets.json").read_text())["environ"]
    except FileNotFoundError as exc:
        raise click.UsageError(f"{data} is no folder of `tracker dev`") from exc
    try:
        with database_at(data) as dsn:
            place = {"TRACKER_DATABASE_URL": dsn, "TRACKER_SPOOL_DIR": str((data / "spool").absolute())}
            yield read_settings("tool", {**os.environ, **secrets, **place}), dsn
    except EmbeddedPostgresError as exc:
        raise click.ClickException(str(exc)) from exc


def _messages(spool_dir: Path, since_ms: int, bad: list[BadJournalRowError]) -> Iterator[Postback]:
    for directory in find_spools(spool_dir):
        for found in read_journal(directory, since_ms=since_ms):
            if isinstance(found, BadJournalRowError):
                bad.append(found)
            else:
                yield found


async def _replay(dsn: str, messages: Iterable[Postback]) -> dict[str, int]:
    session = await open_session(dsn)
    try:
        return await replay(session, messages)
    finally:
        session.terminate()


async def _retry(dsn: str, keyring: Keyring, since_ms: int, reasons: frozenset[Reason]) -> dict[str, int]:
    writer = await open_session(dsn)
    reader = await connect(dsn, idle_in_transaction_session_timeout="0")   # it waits in its cursor for the writer
    try:
        return await retry_refusals(reader, writer, keyring, since_ms=since_ms, reasons=reasons)
    finally:
        reader.terminate()
        writer.terminate()


def _report(tally: dict[str, int]) -> None:
    for outcome, count in sorted(tally.items()):
        click.echo(f"{count:>8}  {outcome}")
    if not tally:
        click.echo("nothing to play again")
