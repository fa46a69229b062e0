"""What a click takes on PostgreSQL's disk: heap, indexes, statistics and write-ahead log, on the rich load.

    python -m bench.disk [--seconds 5]

The differences of all our tables' sizes, and of the log's position, over a load, until everything is shipped and, as a
control process does every ten seconds, its statistics are folded.
"""

from __future__ import annotations

import asyncio

from bench.kit.database import Database, database, work_folder
from bench.kit.kept import clicks_kept
from bench.kit.machine import need_tools
from bench.kit.plan import Plan, command
from bench.kit.progress import steps
from bench.kit.report import Report
from bench.kit.rounds import Finding, spread
from bench.kit.servers import edge
from bench.kit.traffic import rich_clicks
from bench.kit.wrk import CONNECTIONS, load
from tracker.jobs.statistics import fold_statistics
from tracker.storage.postgres import connect

# Tables with their TOAST and maps; what statistics take is one figure, since they exist for the rows' sake.
_SIZES = """
    SELECT CASE WHEN relname LIKE 'click_stats%' THEN 'statistics' ELSE 'heap' END AS part,
           sum(pg_table_size(oid))::bigint AS table_bytes, sum(pg_indexes_size(oid))::bigint AS index_bytes
      FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace GROUP BY 1
"""
_WAL = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint"
PARTS = ("heap", "indexes", "statistics", "WAL")


def measure(plan: Plan) -> Report:
    """Bytes a click in PostgreSQL: heap, indexes, statistics, and its log."""
    need_tools("wrk", "taskset")
    requests = rich_clicks()
    found: dict[str, list[float]] = {part: [] for part in PARTS}
    with work_folder() as folder, database(folder) as stored, edge(folder, stored.dsn) as tracker:
        completed = rows = 0
        for _ in steps("disk", range(1, plan.rounds + 1), lambda number: f"round {number}"):
            before = _sizes(stored)
            completed += load(tracker.port, requests, seconds=plan.seconds).completed
            tracker.settle()
            asyncio.run(_fold(stored.dsn))
            stored.execute("VACUUM click_stats_new")
            after = _sizes(stored)
            fresh, rows = stored.number("SELECT count(*) FROM clicks") - rows, stored.number("SELECT count(*) FROM clicks")
            for part in PARTS:
                found[part].append((after[part] - before[part]) / fresh)
        note = clicks_kept([tracker], stored, completed=completed, under_way=plan.rounds * CONNECTIONS)
    row = [sum(one) for one in zip(found["heap"], found["indexes"], found["statistics"], strict=True)]
    return Report(
        "disk", "Bytes a click on PostgreSQL's disk, rich load", {"seconds": plan.seconds, "rounds": plan.rounds},
        ["part", "bytes a click", "least", "most"],
        [_told(part, values) for part, values in [*found.items(), ("heap, indexes and statistics", row)]],
        findings={"row": spread(row), "WAL": spread(found["WAL"])},
        parts={"Bytes a click": {"on disk": {part: spread(found[part]).value for part in PARTS[:3]},
                                 "in the log": {"WAL": spread(found["WAL"]).value}}},
        notes=[note],
    )


async def _fold(dsn: str) -> None:
    connection = await connect(dsn)
    try:
        await fold_statistics(connection)
    finally:
        await connection.close()


def _sizes(stored: Database) -> dict[str, int]:
    """Bytes by part."""
    rows = {row["part"]: row for row in stored.fetch(_SIZES)}
    statistics = rows["statistics"]
    return {
        "heap": rows["heap"]["table_bytes"], "indexes": rows["heap"]["index_bytes"],
        "statistics": statistics["table_bytes"] + statistics["index_bytes"], "WAL": stored.number(_WAL),
    }


def _told(part: str, values: list[float]) -> list[str]:
    one: Finding = spread(values)
    return [part, f"{one.value:.1f}", f"{one.least:.1f}", f"{one.most:.1f}"]


main = command(measure)

if __name__ == "__main__":
    main()
