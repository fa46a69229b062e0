"""Catching up: how fast the real shipper empties a spool that has filled while PostgreSQL was away, against a plain COPY.

    python -m bench.ship [--rounds 5] [--full]

Must be well above the rate of clicks, or a worker never catches up. Both get the same rows, made of the rich load, into the
same empty table: the shipper from segments it reads, in batches that each move a cursor and append statistics; the plain COPY
from memory, all in one.
"""

from __future__ import annotations

import io
import os
import secrets
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import uvloop

from bench.kit.database import Database, database, work_folder
from bench.kit.machine import SERVER_CORE
from bench.kit.plan import Plan, command
from bench.kit.progress import in_turn
from bench.kit.report import Report
from bench.kit.rounds import ratio
from bench.kit.traffic import rich_clicks
from bench.redirect_path import IN_ONE_ITERATION, LastRows, lane_into
from tracker.storage.clicks.rows import CLICK_COLUMNS
from tracker.storage.clicks.shipper import Shipper
from tracker.storage.postgres import connect
from tracker.storage.spool.reader import LogReader
from tracker.storage.spool.spool import Spool

ROWS = 200_000           # 110 MB of spool
FULL_ROWS = 1_000_000
SMOKE_ROWS = 20_000
SHIPPED, COPIED = "shipped", "plain COPY"
_COPY_HEAD, _COPY_END = b"PGCOPY\n\xff\r\n\0" + bytes(8), b"\xff\xff"


def measure(plan: Plan) -> Report:
    """Rows a second from a full spool into PostgreSQL, against a plain COPY of the same."""
    rows = SMOKE_ROWS if plan.smoke else FULL_ROWS if plan.full else ROWS
    rates: dict[str, list[float]] = {SHIPPED: [], COPIED: []}
    client: dict[str, list[float]] = {SHIPPED: [], COPIED: []}      # this process's CPU, µs a row
    server: dict[str, list[float]] = {SHIPPED: [], COPIED: []}      # PostgreSQL's
    with work_folder() as folder, database(folder) as stored:
        os.sched_setaffinity(0, {SERVER_CORE})      # the database was started beside; this process is now the worker
        filled: _Filled | None = None
        for way in in_turn("catching up", plan.rounds, [SHIPPED, COPIED]):
            filled = filled or uvloop.run(_fill(folder / secrets.token_hex(4), rows))
            used = stored.cpu()
            seconds, worked = uvloop.run((_ship if way == SHIPPED else _copy)(filled, stored.dsn))
            server[way].append((stored.cpu() - used).total / rows * 1e6)
            rates[way].append(rows / seconds)
            client[way].append(worked / rows * 1e6)
            _empty(stored, rows)
            if way == COPIED:
                filled.spool.close()
                filled = None
    return Report(
        "ship", f"Catching up: {rows:,} rows from a full spool", {"rounds": plan.rounds, "rows": rows},
        ["way", "rows/s", "CPU µs a row", "PostgreSQL µs a row"],
        [[way, f"{statistics.median(rates[way]):,.0f}", f"{statistics.median(client[way]):.2f}",
          f"{statistics.median(server[way]):.2f}"] for way in rates],
        findings={"rate to COPY": ratio(rates[SHIPPED], rates[COPIED])},
        rounds={"Rows a second": rates},
        parts={"CPU µs a row by part": {
            way: {"worker": statistics.median(client[way]), "PostgreSQL": statistics.median(server[way])} for way in rates
        }},
        notes=["Every row of every round was in PostgreSQL."],
    )


@dataclass(frozen=True, slots=True)
class _Filled:
    """A spool with so many rows, and the same rows as one COPY."""

    spool_id: int
    spool: Spool
    rows: int
    copied: bytes


async def _ship(filled: _Filled, dsn: str) -> tuple[float, float]:
    """Ship the spool; the seconds that took and how many of them this process worked."""
    spool = filled.spool
    reader = LogReader(spool.path, "clicks", spool_id=filled.spool_id, log=spool.clicks)
    shipper = Shipper(dsn, filled.spool_id, reader, confirmed=spool.clicks.confirmed)
    began, used = time.monotonic(), time.process_time()
    whole = await shipper.drain(300)
    began, used = time.monotonic() - began, time.process_time() - used
    if not whole or shipper.counts.rows != filled.rows:
        raise click.ClickException(f"{shipper.counts.rows} of {filled.rows} rows were shipped")
    return began, used


async def _copy(filled: _Filled, dsn: str) -> tuple[float, float]:
    """COPY all in one; the same two figures."""
    connection = await connect(dsn, command_timeout=300, statement_timeout="0")
    try:
        began, used = time.monotonic(), time.process_time()
        columns = [column.name for column in CLICK_COLUMNS]
        await connection.copy_to_table("clicks", source=io.BytesIO(filled.copied), columns=columns, format="binary")
        return time.monotonic() - began, time.process_time() - used
    finally:
        await connection.close()


def _empty(stored: Database, rows: int) -> None:
    """Check that all rows came; then the next finds the table as the last did."""
    if (found := stored.number("SELECT count(*) FROM clicks")) != rows:
        raise click.ClickException(f"{found} of {rows} rows are in PostgreSQL")
    stored.execute("TRUNCATE clicks")
    stored.execute("CHECKPOINT")


async def _fill(root: Path, rows: int) -> _Filled:
    spool_id = secrets.randbits(62) + 1
    spool = Spool.create(root, spool_id=spool_id, worker=1, clicks=CLICK_COLUMNS, max_bytes=10 << 30, sync="off")
    return _Filled(spool_id, spool, rows, b"".join([_COPY_HEAD, *fill(spool, rich_clicks(), rows), _COPY_END]))


def fill(spool: Spool, requests: Sequence[bytes], rows: int) -> list[bytes]:
    """Append what the lane makes of the requests, over and over, in frames as they come under load. Returns the rows."""
    log = LastRows()
    lane, desk = lane_into(log)
    written: list[bytes] = []
    while len(written) < rows:
        first = len(written) % len(requests)
        for request in requests[first:first + min(IN_ONE_ITERATION, rows - len(written))]:
            lane.data_received(request)
        desk.flush()
        spool.clicks.append(log.rows)
        written += log.rows
    return written


main = command(measure)

if __name__ == "__main__":
    main()
