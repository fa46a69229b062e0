"""Which click ids have a partition of `clicks` to go to. Read from PostgreSQL's catalog, never from a table's name.

There is no DEFAULT partition (schema.sql says why), so a row outside these bounds must be put into `clicks_stray`.
Making partitions is the job's business (jobs/partitions.py).
"""

import re
from bisect import bisect_right

from tracker.storage.postgres import Connection

Bounds = tuple[list[int], list[int]]
"""Lower (included) and upper (excluded) ends of the partitions as 128-bit numbers, both ascending, of equal length."""

_BOUNDS = """
    SELECT pg_get_expr(c.relpartbound, c.oid) AS bound
      FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
     WHERE i.inhparent = 'clicks'::regclass AND NOT i.inhdetachpending
"""
_RANGE = re.compile(r"FOR VALUES FROM \((?:'([0-9a-f-]{36})'|MINVALUE)\) TO \((?:'([0-9a-f-]{36})'|MAXVALUE)\)")


async def partition_bounds(connection: Connection) -> Bounds:
    """The bounds as they are now. ValueError for a kind of partition that schema.sql does not make."""
    ranges = []
    for record in await connection.fetch(_BOUNDS):
        match = _RANGE.fullmatch(record["bound"])
        if match is None:
            raise ValueError(f"clicks has a partition that is not a range: {record['bound']}")
        lower, upper = match.groups()
        ranges.append((_number(lower) if lower else 0, _number(upper) if upper else 1 << 128))
    ranges.sort()
    return [lower for lower, _ in ranges], [upper for _, upper in ranges]


def _number(uuid: str) -> int:
    return int(uuid.replace("-", ""), 16)


def covers(bounds: Bounds, click_id: int) -> bool:
    """Whether a click id, as a number, has a partition."""
    lowers, uppers = bounds
    at = bisect_right(lowers, click_id) - 1
    return at >= 0 and click_id < uppers[at]
