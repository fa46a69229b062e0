"""Redirects a second on one core, side by side: tracker with every field on, a bare aiohttp Application, nginx.

    python -m bench.redirects [--seconds 5] [--rounds 5]

All three get the same requests in turn, again and again. Tracker parses, stores, syncs and ships every click while the
others do nothing; afterwards every answer must be a row.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

import click

from bench.machine import need_tools
from bench.options import Plan, command
from bench.report import Bar, Report, median_ratio
from bench.servers import Edge, Server, bare_aiohttp, database, edge, nginx, work_folder
from bench.traffic import plain_clicks, rich_clicks
from bench.wrk import CONNECTIONS, load

LEAST_AGAINST_AIOHTTP = 1.6


@dataclass(slots=True)
class Series:
    """One contender under one load, a value a round."""

    rates: list[float] = field(default_factory=list)      # requests/s
    cpu: list[float] = field(default_factory=list)        # µs of its process for each request
    p99: list[float] = field(default_factory=list)        # ms


def measure(plan: Plan) -> Report:
    """Redirects a second on one core: tracker, a bare aiohttp Application, nginx, in turn."""
    need_tools("wrk", "nginx", "taskset")
    loads = {"rich": rich_clicks(), "plain": plain_clicks()}
    with work_folder() as folder, database(folder) as dsn, edge(folder, dsn) as tracker, bare_aiohttp(folder) as bare, \
            nginx(folder) as front:
        contenders: list[Server] = [tracker, bare, front]
        found = {(load_name, server.name): Series() for load_name in loads for server in contenders}
        completed = runs = 0
        for server in contenders if not plan.smoke else ():
            answered = load(server.port, loads["rich"], seconds=1).completed      # caches fill, code is warm
            if server is tracker:
                completed, runs = answered, 1
        for _ in range(plan.rounds):
            for load_name, requests in loads.items():
                for server in contenders:
                    tracker.settle()
                    answered = _measure_one(server, requests, plan.seconds, found[load_name, server.name])
                    if server is tracker:
                        completed, runs = completed + answered, runs + 1
        note = check_kept(tracker, completed=completed, under_way=runs * CONNECTIONS)
    report = Report(
        "redirects", "Redirects a second on one core",
        {"seconds": plan.seconds, "rounds": plan.rounds, "connections": CONNECTIONS, "sync": "50ms", "workers": 1},
        ["load", "server", "requests/s", "CPU µs each", "p99 ms", "tracker is", "by CPU"], notes=[note],
    )
    for load_name in loads:
        ours = found[load_name, tracker.name]
        for server in contenders:
            series = found[load_name, server.name]
            ratios = [median_ratio(ours.rates, series.rates), median_ratio(series.cpu, ours.cpu)]
            report.rows.append([
                load_name, server.name, f"{statistics.median(series.rates):,.0f}", f"{statistics.median(series.cpu):.1f}",
                f"{statistics.median(series.p99):.1f}", *("" if server is tracker else f"{ratio:.2f} ×" for ratio in ratios),
            ])
        report.plots[f"Requests a second, {load_name} load"] = {one.name: found[load_name, one.name].rates for one in contenders}
        report.plots[f"CPU a request, µs, {load_name} load"] = {one.name: found[load_name, one.name].cpu for one in contenders}
    for load_name in loads if not plan.smoke else ():
        against = median_ratio(found[load_name, tracker.name].rates, found[load_name, bare.name].rates)
        report.bars.append(Bar(f"redirects against a bare aiohttp Application, {load_name} load", against, LEAST_AGAINST_AIOHTTP))
    return report


def _measure_one(server: Server, requests: Sequence[bytes], seconds: int, series: Series) -> int:
    before = server.cpu_seconds()
    seen = load(server.port, requests, seconds=seconds)
    series.cpu.append((server.cpu_seconds() - before) / seen.completed * 1e6)
    series.rates.append(seen.per_second)
    series.p99.append(seen.p99_ms)
    return seen.completed


def check_kept(tracker: Edge, *, completed: int, under_way: int) -> str:
    """Every redirect is exactly one row. wrk does not count what was under way when it stopped, `under_way` at most.

    Raises click.ClickException when a row is missing, or one too many; returns the sentence for the report.
    """
    counts = tracker.settle()
    redirects = sum(value for name, value in counts.items() if name.startswith("tracker_clicks_total"))
    rows = tracker.fetch("SELECT count(*) FROM clicks")
    sums = f"{completed} answers seen by wrk, {redirects:.0f} redirects counted, {rows} rows in PostgreSQL"
    if rows != redirects or not completed <= rows <= completed + under_way or counts["tracker_clicks_unlogged_total"]:
        raise click.ClickException(f"clicks are not accounted for: {sums}")
    return f"All kept: {sums}."


main = command(measure)

if __name__ == "__main__":
    main()
