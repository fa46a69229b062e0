"""Postbacks, every one a new sale and answered after its commit: tracker, the usual design, the same with FastAPI.

    python -m bench.postbacks [--seconds 5] [--rounds 5]

Durability is on everywhere (synchronous_commit; tracker syncs its journal as well), so this measures the disk too. First as
many as 64 and as 1,024 clients can have (closed loop; each design's rate is its better one), then latency at fixed rates: tracker
at half of what it was asked to reach against the usual design, the usual design with hardly any load.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import click

from bench.kit.database import Database, database, work_folder
from bench.kit.fdatasync import fdatasync_ms
from bench.kit.kept import rows_kept
from bench.kit.machine import need_tools
from bench.kit.pacer import Latencies, paced, told
from bench.kit.plan import Plan, command
from bench.kit.progress import in_turn
from bench.kit.report import Report
from bench.kit.rounds import Series, pacer_too_busy, rate_ratio, ratio, run_once
from bench.kit.servers import Server, click_tokens, edge, fastapi, usual_design
from bench.kit.traffic import postbacks
from bench.kit.wrk import SERIAL, load

FEW_CLIENTS, MANY_CLIENTS = 64, 1024
CLICKS = 1000
UNLOADED = 50                # a second: no two meet, and there are 250 to take a percentile of in five seconds
TIMES = 4                    # the usual design's rate: the goal, and half of it what latency is measured at
FEW, HALF, ASKED, OWN = "unloaded", "at half of the usual design's rate", "at half of the goal's rate", "at half of its own rate"
_QUEUED = 'tracker_postbacks_total{result="queued"}'
_TRACKERS = "SELECT count(*) FROM conversions JOIN conversion_state USING (conversion_id) JOIN ledger USING (conversion_id)"


def measure(plan: Plan) -> Report:
    """Postbacks, every one a new sale: tracker, the usual design, FastAPI, in turn."""
    need_tools("wrk", "taskset")
    found: dict[tuple[str, int], Series] = {}     # by contender and number of clients
    paces: dict[str, list[Latencies]] = {}
    with work_folder() as folder, database(folder) as stored:
        with edge(folder, stored.dsn) as tracker, usual_design(folder, stored.dsn) as usual, fastapi(folder, stored.dsn) as fast:
            contenders: list[Server] = [tracker, usual, fast]
            sales = {server.name: postbacks(click_tokens(server, CLICKS), SERIAL) for server in contenders}
            answered = _warm_up(contenders, sales, plan)
            crowds = [(server, clients) for clients in (FEW_CLIENTS, MANY_CLIENTS) for server in contenders]
            for server, clients in in_turn("postbacks", plan.rounds, crowds, lambda turn: f"{turn[0].name}, {turn[1]:,} clients"):
                once = run_once(server, lambda: load(server.port, sales[server.name], seconds=plan.seconds,  # noqa: B023
                                                     connections=clients), stored)  # noqa: B023
                found.setdefault((server.name, clients), Series()).runs.append(once)
                answered[server.name] += once.completed
            best = {server.name: _best(found, server.name) for server in contenders}
            rates = _rates(best[usual.name].median("rate"), best[tracker.name].median("rate"), plan)
            paced_turns = [*((usual, when) for when in (FEW, HALF)), *((tracker, when) for when in rates)]
            for server, when in in_turn("postbacks", plan.rounds, paced_turns, lambda turn: f"{turn[0].name} {turn[1]}"):
                seen = paced(server.port, sales[server.name], rate=rates[when], seconds=plan.seconds)
                paces.setdefault(f"{server.name} {when}: {rates[when]:,}/s", []).append(seen)
                answered[server.name] += seen.completed
            queued = tracker.metrics().get(_QUEUED, 0.0)
            sync_ms = fdatasync_ms(folder)[0]
        # The edge has ended in order: what it had taken is recorded.
        notes = _check(stored, answered, FEW_CLIENTS + sum(clients * len(found[tracker.name, clients].runs)
                                                           for clients in (FEW_CLIENTS, MANY_CLIENTS)))
    notes.append(f"{queued:.0f} of {answered[tracker.name]:,} postbacks to tracker were answered `queued`: in its journal, not "
                 f"yet committed. A page and its fdatasync took {sync_ms:.2f} ms.")
    early = f"{queued:.0f} were answered before their commit" if queued else ""
    return _report(plan, found, list(best.values()), paces, notes, early)


def _warm_up(contenders: Sequence[Server], sales: dict[str, list[bytes]], plan: Plan) -> dict[str, int]:
    """Code is warm, statements are prepared; how many were answered."""
    return {
        server.name: 0 if plan.smoke else load(server.port, sales[server.name], seconds=1, connections=FEW_CLIENTS).completed
        for server in contenders
    }


def _best(found: Mapping[tuple[str, int], Series], name: str) -> Series:
    """The contender's rounds with so many clients as it serves fastest."""
    return max((series for (one, _), series in found.items() if one == name), key=lambda series: series.median("rate"))


def _rates(usual: float, ours: float, plan: Plan) -> dict[str, int]:
    """A second, by when; the usual design's rate and tracker's own, as just measured."""
    if plan.smoke:
        return dict.fromkeys((FEW, HALF, ASKED, OWN), UNLOADED)
    return {FEW: UNLOADED, HALF: int(usual / 2), ASKED: int(usual * TIMES / 2), OWN: int(ours / 2)}


def _check(stored: Database, answered: dict[str, int], under_way: int) -> list[str]:
    """Each sale that was answered is in the database, once; those `under_way` when wrk stopped may be."""
    ours, *others = answered.values()
    conversions = stored.number("SELECT count(*) FROM conversions")
    if conversions != stored.number(_TRACKERS):
        raise click.ClickException("a sale of tracker's lacks its state or its entry in the ledger")
    return [
        rows_kept(stored, "tracker", "SELECT count(*) FROM conversions", completed=ours, under_way=under_way),
        rows_kept(stored, "usual designs", "SELECT count(*) FROM usual.conversions", completed=sum(others),
                  under_way=under_way * len(others)),
    ]


def _report(
    plan: Plan, found: dict[tuple[str, int], Series], best: list[Series], paces: dict[str, list[Latencies]], notes: list[str],
    early: str,
) -> Report:
    ours, usual, fast = best
    few_ours, few_usual, _ = (one for (_, clients), one in found.items() if clients == FEW_CLIENTS)
    few = ratio(few_ours.values("rate"), few_usual.values("rate"))
    report = Report(
        "postbacks", "Postbacks, every one a new sale, answered after its commit",
        {"seconds": plan.seconds, "rounds": plan.rounds, "concurrency": f"{FEW_CLIENTS} and {MANY_CLIENTS}"},
        ["server", "postbacks/s", "load's core", "CPU µs each", "PostgreSQL µs", "p50 ms", "p99 ms"],
        notes=notes,
    )
    for (name, clients), one in found.items():
        report.rows.append([
            f"{name}, {clients:,} clients", f"{one.median('rate'):,.0f}", f"{one.median('load_busy'):.0%}",
            f"{one.median('cpu_each'):.0f}", f"{one.median('database'):.0f}", f"{one.median('p50_ms'):.1f}",
            f"{one.median('p99_ms'):.1f}",
        ])
    for name, seen in paces.items():
        p50, p99, _, _, _, busy, _ = told(seen)
        report.rows.append([name, "", busy, "", "", p50, p99])
    unloaded, _, _, half, asked, own = paces.values()
    against = [one.p99_ms for one in unloaded]
    report.findings = {
        "rate to usual design": rate_ratio(ours, usual).noted(
            f"{ours.median('rate'):,.0f}/s to {usual.median('rate'):,.0f}; with {FEW_CLIENTS} clients {few.value:.2f} ×"),
        "rate to FastAPI": rate_ratio(ours, fast),
        "CPU to usual design": ratio(ours.values("cpu_each"), usual.values("cpu_each")),
        "CPU with database to usual design": ratio(ours.values("with_database"), usual.values("with_database")),
        **{f"p99{when} to usual design's unloaded": ratio(
            [one.p99_ms for one in seen], against, void=pacer_too_busy([*seen, *unloaded]) or early,
            note=f"{statistics.median(one.p99_ms for one in seen):.1f} ms to {statistics.median(against):.1f}",
        ) for when, seen in (("", asked), (f" {HALF}", half), (f" {OWN}", own))},
    }
    crowds = {f"{name}, {clients:,} clients": one for (name, clients), one in found.items()}
    report.rounds = {"Postbacks a second": {name: one.values("rate") for name, one in crowds.items()},
                     "p99 of postbacks at fixed rates, ms": {name: [one.p99_ms for one in seen] for name, seen in paces.items()}}
    report.parts = {"CPU µs a postback by part": {name: one.parts() for name, one in crowds.items()}}
    return report


main = command(measure)

if __name__ == "__main__":
    main()
