"""How a cost grows: the same loads on a small world and on a large one, in turn, each with an edge of its own."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.kit.database import Database
from bench.kit.kept import Account, account, clicks_kept
from bench.kit.pacer import Latencies, paced
from bench.kit.plan import Plan
from bench.kit.progress import in_turn
from bench.kit.report import Report
from bench.kit.rounds import Finding, Series, pacer_too_busy, ratio, run_once
from bench.kit.servers import Edge
from bench.kit.traffic import postbacks
from bench.kit.wrk import CONNECTIONS, SERIAL, load

POSTBACK_RATE = 100      # a second, each answered after its commit: far from what would make them queue
COLUMNS = ("world", "redirects/s", "CPU µs each", "PostgreSQL µs", "postback p50 ms", "p99 ms")


@dataclass(slots=True)
class World:
    """An edge on its database, with clicks to send and tokens of clicks that were sold to (none: no postbacks)."""

    name: str
    edge: Edge
    stored: Database
    clicks: Sequence[bytes]
    tokens: Sequence[str] = ()
    series: Series = field(default_factory=Series)
    latencies: list[Latencies] = field(default_factory=list)

    def row(self) -> list[str]:
        """As COLUMNS has it."""
        p50, p99 = (
            f"{statistics.median(getattr(one, name) for one in self.latencies):.1f}" if self.latencies else ""
            for name in ("p50_ms", "p99_ms")
        )
        one = self.series
        return [self.name, f"{one.median('rate'):,.0f}", f"{one.median('cpu_each'):.1f}", f"{one.median('database'):.1f}", p50, p99]


def run(what: str, worlds: Sequence[World], plan: Plan) -> list[str]:
    """Load all in turn; afterwards every click must be a row. Returns the sentences for the report."""
    before = {world.name: account([world.edge], world.stored) for world in worlds}
    warm = {world.name: 0 if plan.smoke else load(world.edge.port, world.clicks, seconds=1).completed for world in worlds}
    for world in in_turn(what, plan.rounds, worlds, lambda world: world.name):
        world.series.runs.append(
            run_once(world.edge, lambda: load(world.edge.port, world.clicks, seconds=plan.seconds), world.stored)  # noqa: B023
        )
        if world.tokens:
            sales = postbacks(list(world.tokens), SERIAL)
            world.latencies.append(paced(world.edge.port, sales, rate=POSTBACK_RATE, seconds=plan.seconds, connections=32))
    return [_kept(world, before[world.name], warm[world.name], plan) for world in worlds]


def findings(small: World, large: World, name: str, note: str = "") -> dict[str, Finding]:
    """What the larger costs more, by the goals' keys."""
    found = {
        f"{name}: CPU": ratio(large.series.values("cpu_each"), small.series.values("cpu_each"), note=note),
        f"{name}: PostgreSQL's CPU": ratio(large.series.values("database"), small.series.values("database"), note=note),
    }
    if large.latencies:
        void = pacer_too_busy([*small.latencies, *large.latencies])
        for percentile in ("p50", "p99"):
            ours, theirs = ([getattr(one, f"{percentile}_ms") for one in world.latencies] for world in (large, small))
            found[f"{name}: postback {percentile}"] = ratio(ours, theirs, void=void, note=note)
    return found


def report(name: str, title: str, worlds: Sequence[World], plan: Plan, notes: list[str], **settings: int) -> Report:
    """Table and plots; findings are the caller's."""
    return Report(
        name, title, {"seconds": plan.seconds, "rounds": plan.rounds, "postbacks_per_second": POSTBACK_RATE, **settings}, COLUMNS,
        [world.row() for world in worlds], notes=notes,
        parts={f"CPU µs a redirect by part: {title}": {world.name: world.series.parts() for world in worlds}},
    )


def _kept(world: World, before: Account, warm: int, plan: Plan) -> str:
    completed = warm + sum(run.completed for run in world.series.runs)
    return f"{world.name}: " + clicks_kept([world.edge], world.stored, completed=completed, before=before,
                                           under_way=(plan.rounds + 1) * CONNECTIONS)
