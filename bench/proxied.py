"""Behind nginx with kept-alive upstream connections: clicks alone, and with 5 % other requests on the same connections.

    python -m bench.proxied [--seconds 5] [--rounds 5]

A proxy shares its connections among all visitors. Were a connection lost to the fast lane once something else had come over
it, soon none would be left: that is what this measures. Others are of four kinds (traffic.py), half of them refused; a third
load has new sales only, the dearest request there is, so that what they cost shows as well.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import click

from bench.machine import LOAD_CORE, need_tools
from bench.options import Plan, command
from bench.report import Bar, Report, median_ratio
from bench.servers import Edge, Server, click_tokens, database, edge, nginx, work_folder
from bench.traffic import mixed, others, postbacks, rich_clicks
from bench.wrk import SERIAL, load

SHARE = 0.05
# Four times the usual: a postback waits for two disks (50 to 150 ms here), and with 64 connections those waits alone, not
# anybody's work, would hold the clicks behind them to some 10,000 a second.
CONNECTIONS = 256
LEAST_OF_CLICKS_ALONE = 0.7
_CLICKS = 'tracker_clicks_total{kind="click"}'
_POSTBACKS = "tracker_postbacks_total{"
_RECORDED, _QUEUED, _REFUSED = (f'{_POSTBACKS}result="{result}"}}' for result in ("recorded", "queued", "refused"))
ALONE, OTHERS, SALES = "clicks alone", "with 5 % other requests", "with 5 % new sales"


def measure(plan: Plan) -> Report:
    """Redirects a second behind nginx: clicks alone, with 5 % other requests, with 5 % new sales, on the same connections."""
    need_tools("wrk", "nginx", "taskset")
    rates: dict[str, list[float]] = {}
    cpu: dict[str, list[float]] = {}
    recorded = queued = 0.0
    with work_folder() as folder, database(folder) as dsn:
        with edge(folder, dsn, TRACKER_TRUSTED_PROXIES="127.0.0.0/8") as tracker, \
                nginx(folder, upstream=tracker.port, core=LOAD_CORE) as front:
            clicks, tokens = rich_clicks(), click_tokens(tracker, 200)
            loads = {
                ALONE: clicks,
                OTHERS: mixed(clicks, others(tokens, SERIAL), share=SHARE),
                SALES: mixed(clicks, postbacks(tokens, SERIAL), share=SHARE),
            }
            if not plan.smoke:
                load(front.port, clicks, seconds=1, connections=CONNECTIONS)      # caches fill, code is warm
            for _ in range(plan.rounds):
                for name, requests in loads.items():
                    run = _measure_one(tracker, front, requests, plan.seconds)
                    rates.setdefault(name, []).append(run.redirects / run.seconds)
                    cpu.setdefault(name, []).append(run.cpu_seconds / run.redirects * 1e6)
                    recorded, queued = recorded + run.recorded, queued + run.queued
        # The edge has ended in order: what it had taken is recorded.
        kept = tracker.fetch("SELECT count(*) FROM conversions")
    if not 0 < recorded <= kept <= recorded + queued + CONNECTIONS * len(loads) * plan.rounds:
        raise click.ClickException(f"{recorded:.0f} new sales were answered, {kept} conversions are in PostgreSQL")
    ratios = {name: median_ratio(rates[name], rates[ALONE]) for name in loads}
    report = Report(
        "proxied", "Redirects a second behind nginx, upstream connections kept alive",
        {"seconds": plan.seconds, "rounds": plan.rounds, "connections": CONNECTIONS, "share_of_others": SHARE},
        ["load", "redirects/s", "of clicks alone", "tracker's CPU µs a redirect"],
        [
            [name, f"{statistics.median(rates[name]):,.0f}", "" if name == ALONE else f"{ratios[name]:.2f}",
             f"{statistics.median(cpu[name]):.1f}"] for name in loads
        ],
        {"Redirects a second": rates, "tracker's CPU a redirect, µs": cpu},
        notes=[f"All kept: {recorded:.0f} new sales answered, {kept} conversions in PostgreSQL."],
    )
    if not plan.smoke:
        report.bars.append(Bar(f"redirects {OTHERS} against clicks alone", ratios[OTHERS], LEAST_OF_CLICKS_ALONE))
    return report


@dataclass(frozen=True, slots=True)
class _Run:
    """What tracker did under one load."""

    redirects: float
    recorded: float
    queued: float
    seconds: float
    cpu_seconds: float


def _measure_one(tracker: Edge, front: Server, requests: Sequence[bytes], seconds: int) -> _Run:
    before, used = tracker.settle(), tracker.cpu_seconds()
    seen = load(front.port, requests, seconds=seconds, connections=CONNECTIONS, refusals=True)
    used = tracker.cpu_seconds() - used
    after = tracker.settle()
    told = {name: after[name] - before[name] for name in after if name == _CLICKS or name.startswith(_POSTBACKS)}
    answered = sum(told.values()) - told[_REFUSED] + seen.refused      # wrk's count of refusals holds the unknown paths as well
    if not seen.completed <= answered <= seen.completed + CONNECTIONS:
        raise click.ClickException(f"{seen.completed} answers, {seen.refused} of them refusals, but tracker counted {told}")
    return _Run(told[_CLICKS], told[_RECORDED], told[_QUEUED], seen.seconds, used)


main = command(measure)

if __name__ == "__main__":
    main()
