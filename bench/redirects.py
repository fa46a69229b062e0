"""Redirects on one core, side by side: tracker with every field on, nginx, a bare aiohttp Application, the usual designs.

    python -m bench.redirects [--seconds 5] [--rounds 5]

All get the same requests in turn, again and again, over connections that are kept alive. Tracker parses, stores, syncs and
ships every click; nginx and bare aiohttp do nothing but answer; the usual designs INSERT each click before they answer.
Afterwards every answer of those who store must be a row.
"""

from __future__ import annotations

from bench.kit.database import database, work_folder
from bench.kit.kept import clicks_kept, rows_kept
from bench.kit.machine import need_tools
from bench.kit.nginx import nginx
from bench.kit.plan import Plan, command
from bench.kit.progress import in_turn
from bench.kit.report import Report
from bench.kit.rounds import Series, rate_ratio, ratio, run_once
from bench.kit.servers import Server, bare_aiohttp, edge, fastapi, usual_design
from bench.kit.traffic import plain_clicks, rich_clicks
from bench.kit.wrk import CONNECTIONS, load


def measure(plan: Plan) -> Report:
    """Redirects on one core: tracker, nginx, bare aiohttp and the usual designs in turn."""
    need_tools("wrk", "nginx", "taskset")
    loads = {"plain": plain_clicks(), "rich": rich_clicks()}
    with work_folder() as folder, database(folder) as stored, edge(folder, stored.dsn) as tracker, nginx(folder) as front, \
            bare_aiohttp(folder) as bare, usual_design(folder, stored.dsn) as usual, fastapi(folder, stored.dsn) as fast:
        contenders: list[Server] = [tracker, front, bare, usual, fast]
        keeps = {server.name: 0 for server in (tracker, usual, fast)}
        runs = 0
        for server in contenders if not plan.smoke else ():
            answered = load(server.port, loads["rich"], seconds=1).completed      # caches fill, code is warm
            if server.name in keeps:
                keeps[server.name] += answered
        runs += not plan.smoke
        found = {(name, server.name): Series() for name in loads for server in contenders}
        turns = [(name, server) for name in loads for server in contenders]
        for name, server in in_turn("redirects", plan.rounds, turns, lambda turn: f"{turn[0]} load, {turn[1].name}"):
            once = run_once(server, lambda: load(server.port, loads[name], seconds=plan.seconds),  # noqa: B023 - called at once
                            stored if server.name in keeps else None)
            found[name, server.name].runs.append(once)
            if server.name in keeps:
                keeps[server.name] += once.completed
        runs += plan.rounds * len(loads)
        notes = [clicks_kept([tracker], stored, completed=keeps[tracker.name], under_way=runs * CONNECTIONS)]
        notes.append(rows_kept(stored, "usual designs", "SELECT count(*) FROM usual.clicks", under_way=2 * runs * CONNECTIONS,
                               completed=keeps[usual.name] + keeps[fast.name]))
    report = Report(
        "redirects", "Redirects on one core, connections kept alive",
        {"seconds": plan.seconds, "rounds": plan.rounds, "connections": CONNECTIONS, "sync": "50ms", "workers": 1},
        ["load", "server", "redirects/s", "load's core", "CPU µs each", "PostgreSQL µs", "p99 ms", "tracker's CPU is",
         "with PostgreSQL"],
        notes=notes,
    )
    for name in loads:
        _add(report, name, {server.name: found[name, server.name] for server in contenders})
    return report


def _add(report: Report, name: str, series: dict[str, Series]) -> None:
    """One load's rows, plots and findings; the first of the series is tracker's."""
    ours = next(iter(series.values()))
    for server, theirs in series.items():
        against = [ratio(ours.values("cpu_each"), theirs.values("cpu_each")),
                   ratio(ours.values("with_database"), theirs.values("with_database"))]
        report.rows.append([
            name, server, f"{theirs.median('rate'):,.0f}", f"{theirs.median('load_busy'):.0%}", f"{theirs.median('cpu_each'):.1f}",
            f"{theirs.median('database'):.1f}", f"{theirs.median('p99_ms'):.1f}",
            *("" if theirs is ours else f"{one.value:.2f} ×" for one in against),
        ])
    report.rounds[f"Redirects a second, {name} load"] = {server: one.values("rate") for server, one in series.items()}
    report.parts[f"CPU µs a redirect by part, {name} load"] = {server: one.parts() for server, one in series.items()}
    nginx_series, bare = series["nginx"], series["bare aiohttp"]
    report.findings |= {
        f"{name}: CPU to nginx": ratio(ours.values("cpu_each"), nginx_series.values("cpu_each")),
        f"{name}: rate to nginx": rate_ratio(ours, nginx_series),
        f"{name}: rate to bare aiohttp": rate_ratio(ours, bare),
        f"{name}: CPU to bare aiohttp": ratio(ours.values("cpu_each"), bare.values("cpu_each")),
        f"{name}: CPU with database to bare aiohttp": ratio(ours.values("with_database"), bare.values("cpu_each")),
        f"{name}: CPU with database to usual design":
            ratio(ours.values("with_database"), series["usual design"].values("with_database")),
    }


main = command(measure)

if __name__ == "__main__":
    main()
