"""Folds the shippers' small statistics rows into one row per quarter hour and link, or source.

Shippers only ever append to `click_stats_new`, so that none waits for another's counter; this job is the one writer of
`click_stats_by_link` and `click_stats_by_source`. Readers see the sums of new and folded rows (the views of schema.sql),
so how often it runs changes no figure.
"""

from tracker.storage.postgres import Connection

EVERY_SECONDS = 10.0
"""At 10,000 clicks/s spread wide, 60,000 rows wait: a report reads them in 0.1 s. At half, twice the updates."""
FOLD_ROWS = 20_000
"""Rows in one transaction: about 0.2 s. At double, a lock on a report's row is held as much longer."""

# Sorted, so that two folders (one of them hung and come back) cannot deadlock; each row is deleted by one of them only.
_FOLD = """
    WITH taken AS (
        DELETE FROM click_stats_new WHERE ctid = ANY (ARRAY(SELECT ctid FROM click_stats_new LIMIT $1)) RETURNING *
    ), folded_links AS (
        INSERT INTO click_stats_by_link AS s (bucket, link_id, kind, clicks)
        SELECT bucket, link_id, kind, sum(clicks) FROM taken WHERE link_id IS NOT NULL
         GROUP BY link_id, bucket, kind ORDER BY link_id, bucket, kind
        ON CONFLICT (link_id, bucket, kind) DO UPDATE SET clicks = s.clicks + excluded.clicks
    ), folded_sources AS (
        INSERT INTO click_stats_by_source AS s
               (bucket, program_id, partner_id, kind, channel, country, device, clicks)
        SELECT bucket, program_id, partner_id, kind, channel, country, device, sum(clicks) FROM taken WHERE link_id IS NULL
         GROUP BY partner_id, program_id, bucket, kind, channel, country, device
         ORDER BY partner_id, program_id, bucket, kind, channel, country, device
        ON CONFLICT (partner_id, program_id, bucket, kind, channel, country, device)
        DO UPDATE SET clicks = s.clicks + excluded.clicks
    )
    SELECT count(*) FROM taken
"""


async def fold_statistics(connection: Connection, *, batch_rows: int = FOLD_ROWS) -> int:
    """Fold what is there now, in transactions of `batch_rows`; how many rows that was. PostgresError; safe to repeat.

    Two at once take rows out of each other's batches: each counts once, and some may be left to the next run.
    """
    folded = 0
    while True:
        rows = int(await connection.fetchval(_FOLD, batch_rows))
        folded += rows
        if rows < batch_rows:
            return folded
