"""Latency of redirects while PostgreSQL is away, and while the spool catches up afterwards, against the same round before.

    python -m bench.outage [--seconds 5] [--rounds 5]

Open loop at 10,000 requests a second throughout. During the outage wrk adds clicks as fast as it can, so that there is
something to catch up with; the second figure is taken while that is shipped, and is void where the spool was empty too soon.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import click

from bench.kit.database import Database, database, work_folder
from bench.kit.kept import clicks_kept
from bench.kit.machine import need_tools
from bench.kit.pacer import COLUMNS, CONNECTIONS, Latencies, paced, told
from bench.kit.plan import Plan, command
from bench.kit.progress import steps
from bench.kit.report import Report
from bench.kit.rounds import pacer_too_busy, ratio
from bench.kit.servers import Edge, backlog, edge
from bench.kit.traffic import plain_clicks
from bench.kit.wrk import CONNECTIONS as WRK_CONNECTIONS
from bench.kit.wrk import load

RATE = 10_000
SMOKE_RATE = 2_000
BACKLOG_SECONDS = 20      # of wrk: some 700,000 clicks, which take longer to ship beside the load than a round lasts
SHIPPING_SECONDS = 60
WHEN = ("before", "away", "catching up")


@dataclass(frozen=True, slots=True)
class _Round:
    latencies: dict[str, Latencies]
    answers: int
    left: float      # clicks in the spool when the last load ended


def measure(plan: Plan) -> Report:
    """Latency of redirects before a PostgreSQL outage, during it, and while catching up."""
    need_tools("wrk", "taskset")
    rate = SMOKE_RATE if plan.smoke else RATE
    with work_folder() as folder, database(folder) as stored, edge(folder, stored.dsn) as tracker:
        # Warm-up, or the first figure would be that of a cold start.
        warm = 0 if plan.smoke else load(tracker.port, plain_clicks(), seconds=2).completed
        numbers = steps("outage", range(1, plan.rounds + 1), lambda number: f"round {number}")
        rounds = [_one_round(tracker, stored, rate, plan) for _ in numbers]
        note = clicks_kept([tracker], stored, completed=warm + sum(one.answers for one in rounds),
                           under_way=(plan.rounds + 1) * WRK_CONNECTIONS)
    series = {when: [one.latencies[when] for one in rounds] for when in WHEN}
    report = Report(
        "outage", f"Latency of redirects at {rate:,}/s while PostgreSQL is away and while catching up",
        {"seconds": plan.seconds, "rounds": plan.rounds, "rate": rate, "connections": CONNECTIONS},
        ["PostgreSQL", *COLUMNS], notes=[note],
    )
    for when, seen in series.items():
        report.rows.append([when, *told(seen)])
        report.rounds.setdefault("p99 of redirects, ms", {})[when] = [one.p99_ms for one in seen]
    for when in WHEN[1:]:
        reason = pacer_too_busy([*series["before"], *series[when]])
        if when == "catching up" and not all(one.left for one in rounds):
            reason = reason or "the spool was empty before the load ended"
        report.findings[f"{when}: p99 to before"] = ratio(
            [one.p99_ms for one in series[when]], [one.p99_ms for one in series["before"]], void=reason,
            note=f"{statistics.median(one.p99_ms for one in series[when]):.2f} ms",
        )
    return report


def _one_round(tracker: Edge, stored: Database, rate: int, plan: Plan) -> _Round:
    requests = plain_clicks()
    tracker.settle()
    latencies = {"before": paced(tracker.port, requests, rate=rate, seconds=plan.seconds)}
    tracker.settle()
    stored.stop()
    latencies["away"] = paced(tracker.port, requests, rate=rate, seconds=plan.seconds)
    more = load(tracker.port, requests, seconds=1 if plan.smoke else BACKLOG_SECONDS)
    stored.start()
    _wait_until_shipping(tracker)
    # The spool empties at some 80,000 rows a second beside this load.
    latencies["catching up"] = paced(tracker.port, requests, rate=rate, seconds=min(plan.seconds, 5))
    left = backlog(tracker.metrics())
    tracker.settle()
    return _Round(latencies, more.completed + sum(one.sent for one in latencies.values()), left)


def _wait_until_shipping(tracker: Edge) -> None:
    """The edge tries again every second or so."""
    waiting = most = backlog(tracker.metrics())
    deadline = time.monotonic() + SHIPPING_SECONDS
    while waiting >= most > 0:
        if time.monotonic() > deadline:
            raise click.ClickException(f"PostgreSQL is back for {SHIPPING_SECONDS} s and nothing is shipped")
        time.sleep(0.05)
        waiting = backlog(tracker.metrics())


main = command(measure)

if __name__ == "__main__":
    main()
