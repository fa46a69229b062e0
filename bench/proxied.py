"""Behind nginx with kept-alive upstream connections: clicks alone, and clicks with 5 % postbacks on the same connections.

    python -m bench.proxied [--seconds 5] [--rounds 5]

A proxy shares its connections among all visitors. Were a connection lost to the fast lane once a postback had come over
it, soon none would be left: that is what this measures, together with what the postbacks themselves cost.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import click

from bench.machine import LOAD_CORE, need_tools
from bench.options import Plan, command
from bench.report import Bar, Report, median_ratio
from bench.servers import Edge, Server, click_tokens, database, edge, nginx, work_folder
from bench.traffic import mixed, postbacks, rich_clicks
from bench.wrk import SERIAL, load

SHARE = 0.05
# Four times the usual: a postback waits for two disks (50 to 150 ms here), and with 64 connections those waits alone, not
# anybody's work, would hold the clicks behind them to some 10,000 a second.
CONNECTIONS = 256
LEAST_OF_CLICKS_ALONE = 0.7
_COUNTERS = (
    'tracker_clicks_total{kind="click"}', 'tracker_postbacks_total{result="recorded"}', 'tracker_postbacks_total{result="queued"}',
)


def measure(plan: Plan) -> Report:
    """Redirects a second behind nginx: clicks alone, and with 5 % postbacks on the same connections."""
    need_tools("wrk", "nginx", "taskset")
    rates: dict[str, list[float]] = {}
    cpu: dict[str, list[float]] = {}
    sales = 0.0
    with work_folder() as folder, database(folder) as dsn:
        with edge(folder, dsn, TRACKER_TRUSTED_PROXIES="127.0.0.0/8") as tracker, \
                nginx(folder, upstream=tracker.port, core=LOAD_CORE) as front:
            clicks = rich_clicks()
            others = postbacks(click_tokens(tracker, 200), SERIAL)
            loads = {"clicks alone": clicks, "with 5 % postbacks": mixed(clicks, others, share=SHARE)}
            if not plan.smoke:
                load(front.port, clicks, seconds=1, connections=CONNECTIONS)      # caches fill, code is warm
            for _ in range(plan.rounds):
                for name, requests in loads.items():
                    redirects, answered, seconds, used = _measure_one(tracker, front, requests, plan.seconds)
                    rates.setdefault(name, []).append(redirects / seconds)
                    cpu.setdefault(name, []).append(used / redirects * 1e6)
                    sales += answered
        # The edge has ended in order: what it had taken is recorded.
        kept = tracker.fetch("SELECT count(*) FROM conversions")
    if not 0 < sales <= kept <= sales + CONNECTIONS * plan.rounds:
        raise click.ClickException(f"{sales:.0f} postbacks were answered, {kept} conversions are in PostgreSQL")
    by_cpu = median_ratio(cpu["clicks alone"], cpu["with 5 % postbacks"])
    report = Report(
        "proxied", "Redirects a second behind nginx, upstream connections kept alive",
        {"seconds": plan.seconds, "rounds": plan.rounds, "connections": CONNECTIONS, "share_of_postbacks": SHARE},
        ["load", "redirects/s", "tracker's CPU µs a redirect"],
        [[name, f"{statistics.median(rates[name]):,.0f}", f"{statistics.median(cpu[name]):.1f}"] for name in loads],
        {"Redirects a second": rates, "tracker's CPU a redirect, µs": cpu},
        notes=[f"All kept: {sales:.0f} postbacks answered, {kept} conversions in PostgreSQL.",
               f"By tracker's CPU alone, that of the postbacks included, the ratio is {by_cpu:.2f}."],
    )
    if not plan.smoke:
        ratio = median_ratio(rates["with 5 % postbacks"], rates["clicks alone"])
        report.bars.append(Bar("redirects with 5 % postbacks against clicks alone", ratio, LEAST_OF_CLICKS_ALONE))
    return report


def _measure_one(tracker: Edge, front: Server, requests: Sequence[bytes], seconds: int) -> tuple[float, float, float, float]:
    """One run: redirects, sales, seconds, and seconds of tracker's CPU."""
    before, used = tracker.settle(), tracker.cpu_seconds()
    seen = load(front.port, requests, seconds=seconds, connections=CONNECTIONS)
    used = tracker.cpu_seconds() - used
    after = tracker.settle()
    redirects, recorded, queued = (after[name] - before[name] for name in _COUNTERS)
    sales = recorded + queued
    if not seen.completed <= redirects + sales <= seen.completed + CONNECTIONS:
        raise click.ClickException(f"{seen.completed} answers are not {redirects:.0f} redirects and {sales:.0f} postbacks")
    return redirects, sales, seen.seconds, used


main = command(measure)

if __name__ == "__main__":
    main()
