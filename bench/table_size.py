"""50 million clicks in the table against 1 million: CPU per click, and latency of postbacks to clicks all over the table.

    python -m bench.table_size [--seconds 5] [--rounds 5] [--full]

Without `--full`: 5 million against 1 million.
"""

from __future__ import annotations

import statistics
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

SIZES = (1_000_000, 5_000_000)
FULL_SIZES = (1_000_000, 10_000_000, 50_000_000)
SMOKE_SIZES = (20_000, 40_000)


def measure(plan: Plan) -> Report:
    """CPU per click and postback latency in a large table against a small one."""
    need_tools("wrk", "taskset")
    sizes = SMOKE_SIZES if plan.smoke else FULL_SIZES if plan.full else SIZES
    worlds = []
    with work_folder() as folder, database(folder) as stored, ExitStack() as edges:
        for size in sizes:
            own = stored.another(f"clicks_{size}")
            server = edges.enter_context(edge(folder, own.dsn, name=f"tracker {size}"))
            tokens = grow(own, server, size)
            worlds.append(World(f"{size:,} clicks", server, own, plain_clicks(), tokens))
        notes = growth.run("table size", worlds, plan)
    report = growth.report("table_size", "clicks in the table", worlds, plan, notes)
    note = "" if plan.full else f"{sizes[-1] / sizes[0]:.0f} times the rows, not 50"
    report.findings = growth.findings(worlds[0], worlds[-1], "table", note)
    report.curves = {
        "millions of clicks in the table: CPU µs a redirect": {
            "tracker": [(size / 1e6, world.series.median("cpu_each")) for size, world in zip(sizes, worlds, strict=True)],
            "PostgreSQL": [(size / 1e6, world.series.median("database")) for size, world in zip(sizes, worlds, strict=True)],
        },
        "millions of clicks in the table: latency of postbacks, ms": {
            percentile: [(size / 1e6, statistics.median(getattr(one, f"{percentile}_ms") for one in world.latencies))
                         for size, world in zip(sizes, worlds, strict=True)] for percentile in ("p50", "p99")
        },
    }
    return report


main = command(measure)

if __name__ == "__main__":
    main()
