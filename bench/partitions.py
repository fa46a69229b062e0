"""400 daily partitions against 30: CPU per click and latency of postbacks.

    python -m bench.partitions [--seconds 5] [--rounds 5]
"""

from __future__ import annotations

from contextlib import ExitStack

from bench.kit import growth
from bench.kit.big_table import grow
from bench.kit.database import database, work_folder
from bench.kit.growth import World
from bench.kit.machine import need_tools
from bench.kit.plan import Plan, command
from bench.kit.report import Report
from bench.kit.servers import edge
from bench.kit.traffic import plain_clicks

FEW, MANY = 30, 400
DAYS_SOLD = {FEW: 2, MANY: 30}      # an empty database has 32 partitions: yesterday, today, 30 days ahead
_PAST = "SELECT ensure_click_partitions((now() AT TIME ZONE 'UTC')::date - $1::int, $1::int)"
_COUNT = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'clicks'::regclass"


def measure(plan: Plan) -> Report:
    """CPU per click and postback latency with 400 partitions against 30."""
    need_tools("wrk", "taskset")
    worlds = []
    with work_folder() as folder, database(folder) as stored, ExitStack() as edges:
        for wanted in (FEW, MANY):
            own = stored.another(f"partitions_{wanted}")
            server = edges.enter_context(edge(folder, own.dsn, name=f"tracker {wanted}"))
            tokens = grow(own, server, 0, days=DAYS_SOLD[wanted])
            own.fetch(_PAST, DAYS_SOLD[wanted] - 1 + max(0, wanted - own.number(_COUNT)))
            worlds.append(World(f"{own.number(_COUNT)} partitions", server, own, plain_clicks(), tokens))
        notes = growth.run("partitions", worlds, plan)
    report = growth.report("partitions", "partitions of the table", worlds, plan, notes)
    report.findings = growth.findings(worlds[0], worlds[1], "partitions", f"{worlds[1].name} to {worlds[0].name}")
    return report


main = command(measure)

if __name__ == "__main__":
    main()
