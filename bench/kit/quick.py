"""The check for CI: is CPU per click, against nginx's in the same minute, about what the committed results say?

Ratios of one short round scatter, and a busy neighbour can double one. So a change fails only when the ratio is worse than
1.5 times the committed one three tries running: noise must never block a good change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from bench.kit.database import database, work_folder
from bench.kit.kept import clicks_kept
from bench.kit.machine import RESULTS, need_tools
from bench.kit.nginx import nginx
from bench.kit.results import read
from bench.kit.rounds import run_once
from bench.kit.servers import edge
from bench.kit.traffic import plain_clicks, rich_clicks
from bench.kit.wrk import CONNECTIONS, load

TOLERANCE: Final = 1.5
TRIES: Final = 3
SECONDS: Final = 3
BENCH: Final = "redirects"
KEYS: Final = {"plain": "plain: CPU to nginx", "rich": "rich: CPU to nginx"}

Ratios = Mapping[str, float]      # by load


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the tries gave. `worse`: the loads whose ratio was too high in every one of them."""

    tries: list[Ratios]
    worse: list[str]


def check(folder: Path = RESULTS) -> None:
    """Measure, print the ratios beside the committed ones. Raises click.ClickException when one is worse in every try."""
    known = committed(folder)
    with ExitStack() as servers:
        outcome = judge(known, _measuring(servers))
    for load_name in KEYS:
        told = f"{known[load_name]:.2f}" if load_name in known else "nothing"
        click.echo(f"CPU per click against nginx, {load_name} load: "
                   f"{', '.join(f'{one[load_name]:.2f}' for one in outcome.tries)}; committed: {told}")
    if outcome.worse:
        loads = ", ".join(outcome.worse)
        raise click.ClickException(f"worse than {TOLERANCE} times the committed ratio, {TRIES} tries running: {loads}")


def committed(folder: Path) -> Ratios:
    """The ratios of the results in the folder; empty when there are none."""
    findings = read(folder).get(BENCH, {}).get("findings", {})
    return {load_name: findings[key]["value"] for load_name, key in KEYS.items() if key in findings}


def judge(known: Ratios, measure: Callable[[], Ratios]) -> Outcome:
    """Try until every load has once been within the tolerance, three times at most."""
    tries: list[Ratios] = []
    worse: Sequence[str] = list(KEYS)
    while worse and len(tries) < TRIES:
        tries.append(measure())
        worse = [name for name in worse if name in known and tries[-1][name] > TOLERANCE * known[name]]
    return Outcome(tries, list(worse))


def _measuring(servers: ExitStack) -> Callable[[], Ratios]:
    """Start tracker and nginx; what is returned measures both under both loads, in turn, and checks that nothing is lost."""
    need_tools("wrk", "nginx", "taskset")
    folder = servers.enter_context(work_folder())
    stored = servers.enter_context(database(folder))
    tracker = servers.enter_context(edge(folder, stored.dsn))
    front = servers.enter_context(nginx(folder))
    loads = {"plain": plain_clicks(), "rich": rich_clicks()}
    completed = load(tracker.port, loads["rich"], seconds=1).completed      # caches fill, code is warm
    runs = 1

    def measure() -> Ratios:
        nonlocal completed, runs
        found = {}
        for name, requests in loads.items():
            ours, theirs = (
                run_once(server, lambda: load(server.port, requests, seconds=SECONDS)) for server in (tracker, front)  # noqa: B023
            )
            found[name] = ours.cpu_each / theirs.cpu_each
            completed, runs = completed + ours.completed, runs + 1
        clicks_kept([tracker], stored, completed=completed, under_way=runs * CONNECTIONS)
        return found

    return measure
