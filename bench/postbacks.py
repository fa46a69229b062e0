"""Postbacks a second through the door: every one a new sale, journalled, recorded in PostgreSQL, then answered.

    python -m bench.postbacks [--seconds 5] [--rounds 5]

Durability is on (journal synced, synchronous_commit on), so this measures the disk as well.
"""

from __future__ import annotations

import statistics

import click

from bench.machine import need_tools
from bench.options import Plan, command
from bench.report import Report
from bench.servers import click_tokens, database, edge, work_folder
from bench.traffic import postbacks
from bench.wrk import SERIAL, load

CONCURRENCY = 64
CLICKS = 1000


def measure(plan: Plan) -> Report:
    """Postbacks a second through the door, every one a new sale."""
    need_tools("wrk", "taskset")
    rates: list[float] = []
    cpu: list[float] = []
    latencies: list[tuple[float, float]] = []
    completed = runs = 0
    with work_folder() as folder, database(folder) as dsn:
        with edge(folder, dsn) as tracker:
            requests = postbacks(click_tokens(tracker, CLICKS), SERIAL)
            tracker.settle()
            if not plan.smoke:
                completed, runs = load(tracker.port, requests, seconds=1, connections=CONCURRENCY).completed, 1      # code is warm
            for _ in range(plan.rounds):
                used = tracker.cpu_seconds()
                seen = load(tracker.port, requests, seconds=plan.seconds, connections=CONCURRENCY)
                cpu.append((tracker.cpu_seconds() - used) / seen.completed * 1e6)
                rates.append(seen.per_second)
                latencies.append((seen.p50_ms, seen.p99_ms))
                completed, runs = completed + seen.completed, runs + 1
        # The edge has ended in order: what it had taken is recorded.
        rows = tracker.fetch("SELECT count(*) FROM conversions")
        entries = tracker.fetch("SELECT count(*) FROM ledger")
    if not completed <= rows <= completed + CONCURRENCY * runs or entries != rows:
        raise click.ClickException(f"{completed} answers, {rows} conversions, {entries} ledger entries: not accounted for")
    return Report(
        "postbacks", "Postbacks a second, every one a new sale",
        {"seconds": plan.seconds, "rounds": plan.rounds, "concurrency": CONCURRENCY},
        ["postbacks/s", "CPU µs each", "p50 ms", "p99 ms"],
        [[f"{statistics.median(rates):,.0f}", f"{statistics.median(cpu):.0f}",
          f"{statistics.median(p50 for p50, _ in latencies):.1f}", f"{statistics.median(p99 for _, p99 in latencies):.1f}"]],
        {"Postbacks a second": {"tracker": rates}, "CPU a postback, µs": {"tracker": cpu}},
        notes=[f"All kept: {completed} answers seen by wrk, {rows} conversions and as many ledger entries in PostgreSQL."],
    )


main = command(measure)

if __name__ == "__main__":
    main()
