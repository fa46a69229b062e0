"""Behind nginx, with and without TLS, upstream connections kept alive: clicks alone, and with 5 % other requests on the same.

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

from bench.kit.database import database, work_folder
from bench.kit.machine import need_tools
from bench.kit.nginx import proxy
from bench.kit.plan import Plan, command
from bench.kit.progress import in_turn
from bench.kit.report import Report
from bench.kit.rounds import LOAD_BUSY_LIMIT, ratio, too_busy
from bench.kit.servers import CLICKS, Edge, Server, click_tokens, edge
from bench.kit.traffic import mixed, others, postbacks, rich_clicks
from bench.kit.wrk import SERIAL, load

SHARE = 0.05
# Four times the usual: a postback waits for two disks (50 to 150 ms here), and with 64 connections those waits alone, not
# anybody's work, would hold the clicks behind them to some 10,000 a second.
CONNECTIONS = 256
_POSTBACKS = "tracker_postbacks_total{"
_RECORDED, _QUEUED, _REFUSED = (f'{_POSTBACKS}result="{result}"}}' for result in ("recorded", "queued", "refused"))
ALONE, OTHERS, SALES = "clicks alone", "with 5 % other requests", "with 5 % new sales"


def measure(plan: Plan) -> Report:
    """Redirects behind nginx, with and without TLS: clicks alone, with 5 % other requests, with 5 % new sales."""
    need_tools("wrk", "nginx", "taskset", "openssl")
    found: dict[tuple[str, str], list[_Run]] = {}
    with work_folder() as folder, database(folder) as stored:
        with edge(folder, stored.dsn, TRACKER_TRUSTED_PROXIES="127.0.0.0/8") as tracker, \
                proxy(folder, upstream=tracker.port) as http, proxy(folder, upstream=tracker.port, tls=True) as https:
            clicks, tokens = rich_clicks(), click_tokens(tracker, 200)
            loads = {
                ALONE: clicks,
                OTHERS: mixed(clicks, others(tokens, SERIAL), share=SHARE),
                SALES: mixed(clicks, postbacks(tokens, SERIAL), share=SHARE),
            }
            fronts = {"HTTP": http, "TLS": https}
            for kind, front in fronts.items() if not plan.smoke else ():
                load(front.port, clicks, seconds=1, connections=CONNECTIONS, tls=kind == "TLS")      # caches fill, code is warm
            turns = [(kind, name) for kind in fronts for name in loads]
            for kind, name in in_turn("behind nginx", plan.rounds, turns, lambda turn: f"{turn[0]}, {turn[1]}"):
                run = _measure_one(tracker, fronts[kind], loads[name], plan.seconds, tls=kind == "TLS")
                found.setdefault((kind, name), []).append(run)
        # The edge has ended in order: what it had taken is recorded.
        kept = stored.number("SELECT count(*) FROM conversions")
    runs = [run for series in found.values() for run in series]
    recorded, queued = sum(run.recorded for run in runs), sum(run.queued for run in runs)
    if not 0 < recorded <= kept <= recorded + queued + CONNECTIONS * len(runs):
        raise click.ClickException(f"{recorded:.0f} new sales were answered, {kept} conversions are in PostgreSQL")
    report = Report(
        "proxied", "Redirects behind nginx, upstream connections kept alive",
        {"seconds": plan.seconds, "rounds": plan.rounds, "connections": CONNECTIONS, "share_of_others": SHARE},
        ["front and load", "redirects/s", "of clicks alone", "load's core", "tracker's CPU µs a redirect"],
        notes=[f"All kept: {recorded:.0f} new sales answered, {kept} conversions in PostgreSQL.",
               "nginx shares the load's core: where that was full, rates are nginx's. CPU counts the others' with the redirects."],
    )
    rates = {f"{kind}, {name}": [run.redirects / run.seconds for run in series] for (kind, name), series in found.items()}
    cpu = {f"{kind}, {name}": [run.cpu_seconds / run.redirects * 1e6 for run in series] for (kind, name), series in found.items()}
    for (kind, name), series in found.items():
        label = f"{kind}, {name}"
        of_alone = ratio(rates[label], rates[f"{kind}, {ALONE}"])
        report.rows.append([label, f"{statistics.median(rates[label]):,.0f}", "" if name == ALONE else f"{of_alone.value:.2f}",
                            f"{statistics.median(run.load_busy for run in series):.0%}", f"{statistics.median(cpu[label]):.1f}"])
    report.rounds = {"Redirects a second behind nginx": rates, "tracker's CPU a redirect behind nginx, µs": cpu}
    full = too_busy(statistics.median(run.load_busy for run in runs), LOAD_BUSY_LIMIT, "load generator's")
    for kind in fronts:
        of_alone = ratio(rates[f"{kind}, {OTHERS}"], rates[f"{kind}, {ALONE}"], void=full)
        more = ratio(cpu[f"{kind}, {ALONE}"], cpu[f"{kind}, {OTHERS}"])
        report.findings[f"{kind}: others to clicks alone"] = of_alone.noted(f"by CPU {more.value:.2f} ×")
    return report


@dataclass(frozen=True, slots=True)
class _Run:
    """What tracker did under one load."""

    redirects: float
    recorded: float
    queued: float
    seconds: float
    cpu_seconds: float
    load_busy: float


def _measure_one(tracker: Edge, front: Server, requests: Sequence[bytes], seconds: int, *, tls: bool) -> _Run:
    before, used = tracker.settle(), _total(tracker)
    seen = load(front.port, requests, seconds=seconds, connections=CONNECTIONS, refusals=True, tls=tls)
    after = tracker.settle()
    used = _total(tracker) - used
    told = {name: after[name] - before[name] for name in after if name == CLICKS or name.startswith(_POSTBACKS)}
    answered = sum(told.values()) - told[_REFUSED] + seen.refused      # wrk's count of refusals holds the unknown paths as well
    if not seen.completed <= answered <= seen.completed + CONNECTIONS:
        raise click.ClickException(f"{seen.completed} answers, {seen.refused} of them refusals, but tracker counted {told}")
    return _Run(told[CLICKS], told[_RECORDED], told[_QUEUED], seen.seconds, used, seen.load_busy)


def _total(tracker: Edge) -> float:
    """CPU seconds of all its processes."""
    return sum(part.total for part in tracker.cpu().values())


main = command(measure)

if __name__ == "__main__":
    main()
