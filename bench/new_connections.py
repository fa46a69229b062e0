"""A new connection for every click, as from visitors who were never here before: tracker, nginx, bare aiohttp.

    python -m bench.new_connections [--seconds 5] [--rounds 5]

Opening and closing costs both kernels more than the redirect does. See kit/newcomers.py for why the client closes, and why
rates are seldom valid here.
"""

from __future__ import annotations

from bench.kit.database import database, work_folder
from bench.kit.kept import clicks_kept
from bench.kit.machine import need_tools
from bench.kit.newcomers import arrive
from bench.kit.nginx import nginx
from bench.kit.plan import Plan, command
from bench.kit.progress import in_turn
from bench.kit.report import Report
from bench.kit.rounds import Series, rate_ratio, ratio, run_once
from bench.kit.servers import Server, bare_aiohttp, edge
from bench.kit.traffic import plain_clicks
from bench.kit.wrk import CONNECTIONS


def measure(plan: Plan) -> Report:
    """A new connection for every click: tracker, nginx, bare aiohttp."""
    need_tools("nginx", "taskset")
    requests = plain_clicks()
    with work_folder() as folder, database(folder) as stored, edge(folder, stored.dsn) as tracker, nginx(folder) as front, \
            bare_aiohttp(folder) as bare:
        contenders: list[Server] = [tracker, front, bare]
        completed = 0
        for server in contenders if not plan.smoke else ():
            answered = arrive(server.port, requests, seconds=1).completed      # caches fill, code is warm
            completed += answered if server is tracker else 0
        found = {server.name: Series() for server in contenders}
        for server in in_turn("new connections", plan.rounds, contenders, lambda server: server.name):
            once = run_once(server, lambda: arrive(server.port, requests, seconds=plan.seconds),  # noqa: B023 - called at once
                            stored if server is tracker else None)
            found[server.name].runs.append(once)
            completed += once.completed if server is tracker else 0
        note = clicks_kept([tracker], stored, completed=completed, under_way=0)
    ours, theirs = found[tracker.name], found[front.name]
    by_cpu = ratio(theirs.values("cpu_each"), ours.values("cpu_each"))
    rate = rate_ratio(ours, theirs)
    return Report(
        "new_connections", "A new connection for every click",
        {"seconds": plan.seconds, "rounds": plan.rounds, "at_a_time": CONNECTIONS},
        ["server", "clicks/s", "load's core", "CPU µs each", "PostgreSQL µs", "p99 ms"],
        [[name, f"{one.median('rate'):,.0f}", f"{one.median('load_busy'):.0%}", f"{one.median('cpu_each'):.1f}",
          f"{one.median('database'):.1f}", f"{one.median('p99_ms'):.1f}"] for name, one in found.items()],
        findings={
            "rate to nginx": rate.noted(f"by CPU {by_cpu.value:.2f} ×"),
            "CPU to nginx": ratio(ours.values("cpu_each"), theirs.values("cpu_each")),
        },
        rounds={"Clicks a second, each over a new connection": {name: one.values("rate") for name, one in found.items()}},
        parts={"CPU µs a click over a new connection, by part": {name: one.parts() for name, one in found.items()}},
        notes=[note],
    )


main = command(measure)

if __name__ == "__main__":
    main()
