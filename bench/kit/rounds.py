"""What a round of a contender gave, and what the rounds give together: medians, spreads, ratios, and what makes one void."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from bench.kit.cpu import Cpu
from bench.kit.database import Database
from bench.kit.servers import Server

LOAD_BUSY_LIMIT: Final = 0.9     # above it the load generator may be what limits a rate
PACER_BUSY_LIMIT: Final = 0.7    # above it the pacer may send late


@dataclass(frozen=True, slots=True)
class Finding:
    """A figure of a benchmark: the median of its rounds, the least and the most. `void` says why it means nothing."""

    value: float
    least: float
    most: float
    void: str = ""
    note: str = ""       # what a reader of the goals must know, for example that a table was smaller than the goal's

    def noted(self, note: str) -> Finding:
        return replace(self, note=note)


class Load(Protocol):
    """What a load generator tells of one run."""

    @property
    def completed(self) -> int: ...
    @property
    def seconds(self) -> float: ...
    @property
    def p50_ms(self) -> float: ...
    @property
    def p99_ms(self) -> float: ...
    @property
    def load_busy(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Run:
    """One contender under one load, once. `cpu`: µs for each answer, by part; PostgreSQL's is `database`."""

    completed: int
    rate: float
    p50_ms: float
    p99_ms: float
    load_busy: float
    cpu: dict[str, float]
    database: float

    @property
    def cpu_each(self) -> float:
        """Of all the server's processes, database apart: what decides."""
        return sum(self.cpu.values())

    @property
    def with_database(self) -> float:
        return self.cpu_each + self.database


def run_once(server: Server, load: Callable[[], Load], database: Database | None = None) -> Run:
    """Put one load on a server, and account for all it had to do for it, what it puts off included."""
    server.settle()
    before, stored = server.cpu(), database.cpu() if database else Cpu()
    seen = load()
    server.settle()
    after, stored = server.cpu(), (database.cpu() if database else Cpu()) - stored
    parts: dict[str, float] = {}
    for part, used in after.items():
        used -= before[part]
        parts |= {f"{part}, user": used.user, f"{part}, kernel": used.system}
    each = {part: seconds / seen.completed * 1e6 for part, seconds in parts.items()}
    return Run(seen.completed, seen.completed / seen.seconds, seen.p50_ms, seen.p99_ms, seen.load_busy, each,
               stored.total / seen.completed * 1e6)


@dataclass(slots=True)
class Series:
    """The rounds of one contender under one load."""

    runs: list[Run] = field(default_factory=list)

    def values(self, name: str) -> list[float]:
        """One field of every round: rate, cpu_each, with_database, database, p50_ms, p99_ms, load_busy."""
        return [getattr(run, name) for run in self.runs]

    def median(self, name: str) -> float:
        return statistics.median(self.values(name))

    def parts(self) -> dict[str, float]:
        """Medians of CPU µs by part, PostgreSQL last where there is any."""
        found = {part: statistics.median(run.cpu[part] for run in self.runs) for part in self.runs[0].cpu}
        return found | ({"PostgreSQL": self.median("database")} if any(self.values("database")) else {})


def rate_ratio(ours: Series, theirs: Series) -> Finding:
    """Of the rates, void when the load generator's core was too busy in the median round of either side."""
    busiest = max(ours.median("load_busy"), theirs.median("load_busy"))
    return ratio(ours.values("rate"), theirs.values("rate"), void=too_busy(busiest, LOAD_BUSY_LIMIT, "load generator's"))


def ratio(ours: Sequence[float], theirs: Sequence[float], *, void: str = "", note: str = "") -> Finding:
    """The median of the ratios of each round: what disturbs the machine for a while then disturbs both sides."""
    return spread([one / other if other else float("inf") for one, other in zip(ours, theirs, strict=True)], void=void, note=note)


def spread(values: Sequence[float], *, void: str = "", note: str = "") -> Finding:
    return Finding(statistics.median(values), min(values), max(values), void, note)


def too_busy(busy: float, limit: float, whose: str) -> str:
    """Why a figure is void, or nothing."""
    return f"the {whose} core was {busy:.0%} busy" if busy > limit else ""


def pacer_too_busy(loads: Sequence[Load]) -> str:
    """Why latencies at a fixed rate are void, or nothing: the pacer's core was so busy that it may have sent late."""
    return too_busy(statistics.median(one.load_busy for one in loads), PACER_BUSY_LIMIT, "pacer's")
