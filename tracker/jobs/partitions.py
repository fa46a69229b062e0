"""Keeps a partition of `clicks` ready for every day to come, and moves strays in once theirs exists.

It exists because a click whose day has no partition can only be put aside (`clicks_stray`): made 30 days ahead,
partitions survive a control process that nobody missed for a month. Dropping old days is retention's business, not
done here.
"""

from dataclasses import dataclass
from uuid import UUID

from tracker.storage.clicks.partitions import partition_bounds
from tracker.storage.postgres import Connection

DAYS_AHEAD = 30
EVERY_SECONDS = 600.0
"""A stray waits this long at most for its statistics; a new day's partition was made a month before."""
MOVE_ROWS = 5_000
"""Rows moved in one transaction: about 0.1 s. At half, twice the commits; at double, twice the work a cut undoes."""

_ENSURE = "SELECT ensure_click_partitions((now() AT TIME ZONE 'UTC')::date - 1, $1 + 2)"
_LEFT = "SELECT count(*) FROM (SELECT 1 FROM clicks_stray LIMIT 100000) AS s"
# One statement, so that a row is in one of the two tables and counted, or in the other and not.
_MOVE = """
    WITH batch AS (
        SELECT * FROM clicks_stray WHERE click_id >= $1 AND click_id < $2 ORDER BY click_id LIMIT $3 FOR UPDATE
    ), landed AS (
        INSERT INTO clicks SELECT * FROM batch ON CONFLICT DO NOTHING
        RETURNING click_id, link_id, program_id, partner_id, flags, channel, country, device
    ), counted AS (
        INSERT INTO click_stats_new (bucket, kind, link_id, program_id, partner_id, channel, country, device, clicks)
        SELECT bucket, kind, link_id, program_id, partner_id, channel, country, device, count(*)
          FROM (SELECT date_bin('15 minutes', click_time(click_id), '2000-01-01 00:00:00+00') AS bucket,
                       CASE WHEN flags & 8 <> 0 THEN 'test' WHEN flags & 4 <> 0 THEN 'head' WHEN flags & 2 <> 0 THEN 'prefetch'
                            WHEN flags & 1 <> 0 THEN 'bot' ELSE 'click' END AS kind,
                       link_id, program_id, partner_id,
                       coalesce(channel, '') AS channel, coalesce(country, '') AS country, coalesce(device, '') AS device
                  FROM landed) AS l
         GROUP BY bucket, kind, GROUPING SETS ((link_id), (program_id, partner_id, channel, country, device))
    )
    DELETE FROM clicks_stray USING batch WHERE clicks_stray.click_id = batch.click_id
"""


@dataclass(frozen=True, slots=True)
class PartitionsReport:
    """What a run did: partitions made, strays moved in; and `left`, strays without a day yet (counted to 100,000)."""

    made: int
    moved: int
    left: int


async def keep_partitions(connection: Connection) -> PartitionsReport:
    """Make what is missing from yesterday to DAYS_AHEAD from now, move in what fits. PostgresError; safe to repeat."""
    made = int(await connection.fetchval(_ENSURE, DAYS_AHEAD))
    moved = await move_strays(connection)
    return PartitionsReport(made, moved, int(await connection.fetchval(_LEFT)))


async def move_strays(connection: Connection) -> int:
    """Move every stray whose day has a partition by now into `clicks`, and count it; how many rows left the strays."""
    moved = 0
    for lower, upper in _merged(*await partition_bounds(connection)):
        while True:
            status = await connection.execute(_MOVE, _uuid(lower), _uuid(upper), MOVE_ROWS)
            rows = int(status.removeprefix("DELETE "))
            moved += rows
            if rows < MOVE_ROWS:
                break
    return moved


def _merged(lowers: list[int], uppers: list[int]) -> list[tuple[int, int]]:
    """Days that follow each other as one range: a year of partitions is one look at the strays, not 365."""
    merged: list[tuple[int, int]] = []
    for lower, upper in zip(lowers, uppers, strict=True):
        if merged and merged[-1][1] == lower:
            merged[-1] = (merged[-1][0], upper)
        else:
            merged.append((lower, upper))
    return merged


def _uuid(number: int) -> UUID:
    return UUID(int=min(number, (1 << 128) - 1))
