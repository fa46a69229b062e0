"""`tracker spool`: look into spools, ship them without serving, check every record."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click

from tracker.cli.database import data_option, database
from tracker.cli.output import json_option, show_rows
from tracker.cli.session import run_asking, spool_dir
from tracker.storage.clicks.dead_spools import TRY_SECONDS, ship_dead_spool
from tracker.storage.conversions.recorder import apply_journal
from tracker.storage.spool import dead_spool
from tracker.storage.spool.dead_spool import DeadSpool, find_spools, read_about
from tracker.storage.spool.log import SpoolError

_directory = click.argument(
    "directory", metavar="[DIR]", required=False, type=click.Path(path_type=Path, file_okay=False, exists=True)
)


@click.group()
def spool() -> None:
    """Spools: what workers have on this machine's disk. DIR is one of them or the folder of all (TRACKER_SPOOL_DIR).

    \b
    Example:
      tracker spool status /var/lib/tracker/spool
    """


@spool.command()
@_directory
@data_option
@json_option
def status(directory: Path | None, data: Path | None, as_json: bool) -> None:
    """List the spools: whose they are, whether they are in use, how many rows their files hold. Needs no database.

    \b
    Example:
      tracker spool status
    """
    show_rows(
        [_describe(path) for path in _spools(directory, data)],
        ["spool", "state", "worker", "created", "clicks", "journal", "bytes"],
        as_json=as_json,
    )


@spool.command()
@_directory
@data_option
@click.option("--seconds", type=click.FloatRange(min=0.1), default=TRY_SECONDS, show_default=True,
              help="How long to try, each spool.")
def ship(directory: Path | None, data: Path | None, seconds: float) -> None:
    """Ship what dead spools hold, clicks and journal, without serving. Exit code 1: not all of it is in PostgreSQL.

    Spools in use, or being shipped by another process, are left to it. The files stay; workers remove them in time.

    \b
    Example:
      tracker spool ship /mnt/old-disk/spool
    """
    left = 0
    paths = _spools(directory, data)
    with database(data) as dsn:
        for path in paths:
            outcome = run_asking(_ship(dsn, path, seconds))
            left += outcome != "shipped"
            click.echo(f"{path.name}  {outcome}")
    if left:
        raise SystemExit(1)


@spool.command()
@_directory
@data_option
@json_option
def verify(directory: Path | None, data: Path | None, as_json: bool) -> None:
    """Read every record of the spools; exit code 1 when something is damaged. Needs no database, changes nothing.

    \b
    Example:
      tracker spool verify
    """
    rows: list[dict[str, Any]] = []
    for path in _spools(directory, data):
        for report in dead_spool.verify(path):
            gaps = [f"{gap.first_seq}–{gap.next_seq - 1} ({gap.where})" for gap in report.gaps]
            rows.append({
                "spool": path.name, "log": report.kind, "segments": report.segments, "first": report.first_seq,
                "end": report.end_seq, "rows": report.rows, "bytes": report.row_bytes, "lost": gaps,
                "unreadable": list(report.unreadable),
            })  # fmt: skip
    show_rows(rows, list(rows[0]) if rows else [], as_json=as_json)
    if any(row["lost"] or row["unreadable"] for row in rows):
        raise SystemExit(1)


def _spools(directory: Path | None, data: Path | None) -> list[Path]:
    """The spools that are meant; UsageError when there are none."""
    root = directory or spool_dir(data)
    found = find_spools(root) or [one for one in find_spools(root.absolute().parent) if one.name == root.absolute().name]
    if not found:
        raise click.UsageError(f"there is no spool in {root}")
    return found


def _describe(path: Path) -> dict[str, Any]:
    about = read_about(path)
    opened = DeadSpool.open(path)
    state = "in use" if opened is None else "dead"
    if opened is not None:
        state = "copy" if opened.copied else state
        opened.close()
    reports = {report.kind: report for report in dead_spool.verify(path)}
    return {
        "spool": path.name, "state": state, "worker": about.get("worker"), "created": about.get("created"),
        "hostname": about.get("hostname"), "clicks": reports["clicks"].end_seq, "journal": reports["journal"].end_seq,
        "bytes": sum(report.row_bytes for report in reports.values()),
    }  # fmt: skip


async def _ship(dsn: str, path: Path, seconds: float) -> str:
    opened = await asyncio.to_thread(DeadSpool.open, path)
    if opened is None:
        return "in use, or shipped by another process"

    async def journal(dead: DeadSpool) -> bool:
        return await apply_journal(dsn, dead.spool_id, dead.journal, seconds=seconds)

    try:
        shipped = await ship_dead_spool(dsn, opened, journal, seconds=seconds)
    except SpoolError as exc:
        return str(exc)
    finally:
        opened.close()
    return "shipped" if shipped else f"not all of it in {seconds:g} s"
