"""Shipping: how fast the real shipper empties a spool that has filled while PostgreSQL was away.

    python -m bench.ship [--rounds 5] [--rows 200000]

Must be well above the rate of clicks, or a worker never catches up. The rows are those of the rich load.
"""

from __future__ import annotations

import os
import secrets
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click
import uvloop

from bench.machine import SERVER_CORE
from bench.options import SMOKE, Plan, perform
from bench.redirect_path import IN_ONE_ITERATION, LastRows, lane_into
from bench.report import Report
from bench.servers import database, work_folder
from bench.traffic import rich_clicks
from tracker.storage.clicks.rows import CLICK_COLUMNS
from tracker.storage.clicks.shipper import Shipper
from tracker.storage.spool.reader import LogReader
from tracker.storage.spool.spool import Spool

SMOKE_ROWS = 20_000


def measure(plan: Plan, rows: int) -> Report:
    """Rows a second from a full spool into PostgreSQL."""
    rates: list[float] = []
    cpu: list[float] = []
    with work_folder() as folder, database(folder) as dsn:
        os.sched_setaffinity(0, {SERVER_CORE})      # the database was started beside; this process is now the worker
        for number in range(plan.rounds):
            seconds, used = uvloop.run(_ship(folder / str(number), dsn, rows))
            rates.append(rows / seconds)
            cpu.append(used / rows * 1e6)
    return Report(
        "ship", f"Shipping {rows:,} rows from a full spool", {"rounds": plan.rounds, "rows": rows},
        ["rows/s", "CPU µs a row"], [[f"{statistics.median(rates):,.0f}", f"{statistics.median(cpu):.2f}"]],
        {"Rows a second": {"tracker": rates}, "The worker's CPU a row, µs": {"tracker": cpu}},
        notes=["Every row of every round is in PostgreSQL."],
    )


async def _ship(root: Path, dsn: str, rows: int) -> tuple[float, float]:
    """Fill a spool, ship it; the seconds that took and how many of them this process worked."""
    spool_id = secrets.randbits(62) + 1
    spool = Spool.create(root, spool_id=spool_id, worker=1, clicks=CLICK_COLUMNS, max_bytes=10 << 30, sync="off")
    try:
        fill(spool, rich_clicks(), rows)
        reader = LogReader(spool.path, "clicks", spool_id=spool_id, log=spool.clicks)
        shipper = Shipper(dsn, spool_id, reader, confirmed=spool.clicks.confirmed)
        began, used = time.monotonic(), time.process_time()
        whole = await shipper.drain(300)
        began, used = time.monotonic() - began, time.process_time() - used
        if not whole or shipper.counts.rows != rows:
            raise click.ClickException(f"{shipper.counts.rows} of {rows} rows were shipped")
        return began, used
    finally:
        spool.close()


def fill(spool: Spool, requests: Sequence[bytes], rows: int) -> None:
    """Append what the lane makes of the requests, over and over, in frames as they come under load."""
    log = LastRows()
    lane, desk = lane_into(log)
    written = 0
    while written < rows:
        first = written % len(requests)
        for request in requests[first:first + min(IN_ONE_ITERATION, rows - written)]:
            lane.data_received(request)
        desk.flush()
        spool.clicks.append(log.rows)
        written += len(log.rows)


@click.command(help="Rows a second from a full spool into PostgreSQL.")
@click.option("--seconds", type=int, default=0, help="Not used: a round ends when the spool is empty.")
@click.option("--rounds", type=click.IntRange(1, 100), default=5, show_default=True)
@click.option("--rows", type=click.IntRange(1), default=200_000, show_default=True, help="Rows in the spool: 200,000 are 110 MB.")
@click.option("--smoke", is_flag=True, help="Only whether it works.")
def main(seconds: int, rounds: int, rows: int, smoke: bool) -> None:
    plan = SMOKE if smoke else Plan(seconds, rounds)
    sys.exit(perform(lambda plan: measure(plan, SMOKE_ROWS if smoke else rows), plan))


if __name__ == "__main__":
    main()
