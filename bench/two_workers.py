"""Two workers against one, on the same core: what it costs that there are several.

    python -m bench.two_workers [--seconds 5] [--rounds 5]

How rates scale is not measured here: that takes a core for each worker and two more, for load and PostgreSQL.
"""

from __future__ import annotations

from contextlib import ExitStack

from bench.kit import growth
from bench.kit.database import database, work_folder
from bench.kit.growth import World
from bench.kit.machine import CORES, need_tools
from bench.kit.plan import Plan, command
from bench.kit.report import Report
from bench.kit.servers import edge
from bench.kit.traffic import plain_clicks


def measure(plan: Plan) -> Report:
    """CPU per click of two workers against one."""
    need_tools("wrk", "taskset")
    with work_folder() as folder, database(folder) as stored, ExitStack() as edges:
        worlds = []
        for workers in (1, 2):
            own = stored.another(f"workers_{workers}")
            server = edges.enter_context(edge(folder, own.dsn, name=f"tracker {workers}", workers=workers))
            worlds.append(World("1 worker" if workers == 1 else f"{workers} workers", server, own, plain_clicks()))
        notes = growth.run("workers", worlds, plan)
    report = growth.report("two_workers", "workers of an edge", worlds, plan, notes)
    report.findings = growth.findings(worlds[0], worlds[1], "workers", f"on one core; rate scaling not measured on {CORES} cores")
    return report


main = command(measure)

if __name__ == "__main__":
    main()
