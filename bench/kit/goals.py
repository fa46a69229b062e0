"""The project's goals of speed, each with the benchmark that measures it, and what was reached: honest also where nothing was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

State = Literal["reached", "missed", "void", "not measured"]


@dataclass(frozen=True, slots=True)
class Goal:
    """`asked` is the most, or with `at_least` the least, of the finding `key` in the results of `bench`."""

    number: str      # the issue's; –: a promise that is older
    what: str
    asked: float
    bench: str
    key: str
    unit: str = "×"
    at_least: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a goal; `told` is for the table's cell."""

    goal: Goal
    state: State
    told: str


GOALS: Final = (
    Goal("1", "redirect, plain load: CPU against nginx", 1.5, "redirects", "plain: CPU to nginx"),
    Goal("1", "redirect, rich load: CPU against nginx", 1.8, "redirects", "rich: CPU to nginx"),
    Goal("1", "redirect, plain load: rate against bare aiohttp", 2.2, "redirects", "plain: rate to bare aiohttp", at_least=True),
    Goal("1", "redirect, rich load: rate against bare aiohttp", 1.8, "redirects", "rich: rate to bare aiohttp", at_least=True),
    Goal("1", "a new connection per click: rate against nginx", 0.9, "new_connections", "rate to nginx", at_least=True),
    Goal("–", "behind nginx with TLS, 5 % other requests: redirects against clicks alone", 0.7, "proxied",
         "TLS: others to clicks alone", at_least=True),
    Goal("2", "tracker and PostgreSQL, plain load: CPU against bare aiohttp", 0.7, "redirects",
         "plain: CPU with database to bare aiohttp"),
    Goal("2", "tracker and PostgreSQL, rich load: CPU against bare aiohttp", 1.0, "redirects",
         "rich: CPU with database to bare aiohttp"),
    Goal("3", "open loop, 5,000/s: p50 against nginx", 2.0, "latency", "5000/s: p50 to nginx"),
    Goal("3", "open loop, 5,000/s: p99 against nginx", 3.0, "latency", "5000/s: p99 to nginx"),
    Goal("3", "open loop, 10,000/s: p50 against nginx", 2.0, "latency", "10000/s: p50 to nginx"),
    Goal("3", "open loop, 10,000/s: p99 against nginx", 3.0, "latency", "10000/s: p99 to nginx"),
    Goal("3", "TRACKER_SYNC=always: p99 more than with 50ms, in its own fdatasyncs", 2.0, "latency", "always: syncs more",
         unit="syncs"),
    Goal("–", "the same against the p99 of two fdatasyncs in a row, as clicks meet them", 1.0, "latency",
         "always: p99 more to two flushes"),
    Goal("3", "PostgreSQL away: p99 against before", 1.25, "outage", "away: p99 to before"),
    Goal("4", "postbacks: rate against the usual design", 4.0, "postbacks", "rate to usual design", at_least=True),
    Goal("4", "postbacks at half that rate: p99 against the usual design's unloaded", 3.0, "postbacks",
         "p99 to usual design's unloaded"),
    Goal("5", "catching up, edge idle: rows/s against a plain COPY", 0.7, "ship", "rate to COPY", at_least=True),
    Goal("5", "catching up at 10,000 clicks/s: p99 against before", 1.25, "outage", "catching up: p99 to before"),
    Goal("6", "50 million clicks against 1 million: CPU per click", 1.15, "table_size", "table: CPU"),
    Goal("6", "50 million clicks against 1 million: postback latency", 1.15, "table_size", "table: postback p50"),
    Goal("6", "400 partitions against 30: CPU per click", 1.15, "partitions", "partitions: CPU"),
    Goal("6", "400 partitions against 30: postback latency", 1.15, "partitions", "partitions: postback p50"),
    Goal("6", "1 million links against 1,000: CPU per click", 1.05, "many_links", "links: CPU"),
    Goal("6", "1 million links: memory a link and worker", 1.0, "many_links", "links: KB each", unit="KB"),
    Goal("6", "1 million links: start-up", 10.0, "many_links", "links: start-up", unit="s"),
    Goal("6", "2 workers against 1: CPU per click", 1.15, "two_workers", "workers: CPU"),
    Goal("7", "memory of a worker, full load: end against beginning", 1.05, "memory", "full load"),
    Goal("7", "memory of a worker, PostgreSQL away: end against beginning", 1.05, "memory", "outage"),
    Goal("8", "disk a click, rich load: heap, indexes, statistics", 350, "disk", "row", unit="bytes"),
    Goal("8", "WAL a click, rich load", 700, "disk", "WAL", unit="bytes"),
)


def judge(goal: Goal, findings: Mapping[str, Mapping[str, Any]]) -> Verdict:
    """`findings` of the goal's benchmark, as its results hold them; empty when it was not run."""
    found = findings.get(goal.key)
    if found is None:
        return Verdict(goal, "not measured", "not measured")
    note = f" ({found['note']})" if found["note"] else ""
    figure = f"{_short(found['value'])} {goal.unit}"
    if found["least"] != found["most"]:
        figure += f" ({_short(found['least'])} to {_short(found['most'])})"
    if found["void"]:
        return Verdict(goal, "void", f"void: {found['void']}; it showed {figure}{note}")
    well = found["value"] >= goal.asked if goal.at_least else found["value"] <= goal.asked
    return Verdict(goal, "reached" if well else "missed", figure + note)


def table(results: Mapping[str, Mapping[str, Any]], goals: Sequence[Goal] = GOALS) -> str:
    """The goals as a Markdown table; `results`: a document for each benchmark that was run."""
    lines = ["| goal | what | asked | reached | |", "|---|---|---|---|---|"]
    for goal in goals:
        document = results.get(goal.bench, {})
        verdict = judge(goal, document.get("findings", {}))
        asked = f"{'≥' if goal.at_least else '≤'} {_short(goal.asked)} {goal.unit}"
        where = f"`{goal.bench}` {document['commit']}" if document else f"`{goal.bench}`"
        state = {"reached": "yes, ", "missed": "**no**, "}.get(verdict.state, "")      # void and not measured say so themselves
        lines.append(f"| {goal.number} | {goal.what} | {asked} | {verdict.told} | {state}{where} |")
    return "\n".join(lines) + "\n"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}".rstrip("0").rstrip(".")
