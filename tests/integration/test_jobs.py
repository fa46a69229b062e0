"""Control's jobs change no sum: partitions and strays, the statistics' fold."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from shipping import DAY_MS, assert_conserved, click_id, click_row, database, live_spool, now_ms

from tracker.jobs.partitions import keep_partitions
from tracker.jobs.statistics import fold_statistics

PARTITIONS = "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = 'clicks'::regclass"


async def statistics(db: Any) -> list[Any]:
    links = await db.fetch("SELECT * FROM click_statistics ORDER BY 1, 2, 3")
    return [*links, *await db.fetch("SELECT * FROM click_source_statistics ORDER BY 1, 2, 3, 4, 5, 6, 7")]


async def test_partitions_are_made_for_thirty_days_to_come(dsn: str) -> None:
    """A day without a partition makes strays of all its clicks."""
    async with database(dsn) as db:
        for day in await db.fetch(PARTITIONS):
            await db.execute(f"DROP TABLE {day['name']}")
        report = await keep_partitions(db)
        assert (32, 0, 0) == (report.made, report.moved, report.left)
        last = max(day["name"] for day in await db.fetch(PARTITIONS))
        today = await db.fetchval("SELECT (now() AT TIME ZONE 'UTC')::date")
        assert f"clicks_{today + timedelta(days=30):%Y%m%d}" == last
        assert 0 == (await keep_partitions(db)).made


async def test_a_new_day_waits_for_no_reader_and_no_click_for_it(dsn: str) -> None:
    """Danger: a dump holds the table for hours; the job would queue behind it, and every click behind the job."""
    async with database(dsn) as db, database(dsn) as dump:
        last = max(day["name"] for day in await db.fetch(PARTITIONS))
        await db.execute(f"DROP TABLE {last}; SET lock_timeout = '1s'")
        async with dump.transaction():
            await dump.fetch("SELECT FROM clicks LIMIT 1")
            assert 1 == (await keep_partitions(db)).made
        assert last == max(day["name"] for day in await db.fetch(PARTITIONS))


@pytest.mark.fault(12)
async def test_strays_are_moved_in_and_counted_once_their_day_exists(dsn: str, tmp_path: Path) -> None:
    """A stray must come to count exactly as if its partition had been there, whichever way it goes in."""
    async with live_spool(tmp_path) as spool, database(dsn) as db:
        day = now_ms() // DAY_MS + 60
        edges = [day * DAY_MS, (day + 1) * DAY_MS - 1, day * DAY_MS + 900_000 - 1, day * DAY_MS + 900_000]
        rows = [
            click_row(click_id(when), flags=flags, channel=channel, country=b"DE" if flags % 3 else None)
            for when in edges for flags in range(16) for channel in (b"x", None)
        ]
        spool.append([*rows, click_row(click_id((day + 1) * DAY_MS)), click_row()])
        assert await spool.shipper(dsn).drain(10)
        assert 0 == (await keep_partitions(db)).moved
        await db.execute("SELECT ensure_click_partitions((now() AT TIME ZONE 'UTC')::date + 60, 1)")
        report = await keep_partitions(db)
        assert (len(rows), 1) == (report.moved, report.left)
        cursor = await assert_conserved(db, spool.spool_id, len(rows) + 2)
        assert len(rows) + 1 == cursor["rows_stray"]
        moved_in = await statistics(db)
        await db.execute("TRUNCATE clicks, clicks_stray, click_stats_new")
        await db.execute("DELETE FROM spool_cursors")
        assert await spool.shipper(dsn).drain(10)
        assert await statistics(db) == moved_in


async def test_a_stray_that_is_in_clicks_already_is_not_counted_again(dsn: str, tmp_path: Path) -> None:
    """A replay after a lost cursor may have put it there meanwhile."""
    async with live_spool(tmp_path) as spool, database(dsn) as db:
        spool.append([click_row(click_id(now_ms() + 60 * DAY_MS))])
        assert await spool.shipper(dsn).drain(10)
        await db.execute("SELECT ensure_click_partitions((now() AT TIME ZONE 'UTC')::date + 60, 1)")
        await db.execute("DELETE FROM spool_cursors")
        assert await spool.shipper(dsn).drain(10)
        assert 1 == (await keep_partitions(db)).moved
        cursor = await assert_conserved(db, spool.spool_id, 1)
        assert (1, 0) == (cursor["rows_stored"], await db.fetchval("SELECT count(*) FROM clicks_stray"))


async def test_folding_changes_no_sum(dsn: str, tmp_path: Path) -> None:
    """Reports read the sum of both tables at any moment; two folders at once are possible and must not count twice."""
    async with live_spool(tmp_path) as spool, database(dsn) as db, database(dsn) as other:
        shipper = spool.shipper(dsn, max_rows=97)
        for _ in range(3):
            spool.append([click_row(link=n % 5 + 1, flags=n % 16, channel=None if n % 7 else b"y") for n in range(400)])
            assert await shipper.drain(20)
            before = await statistics(db)
            folded = await asyncio.gather(fold_statistics(db, batch_rows=50), fold_statistics(other, batch_rows=30))
            assert sum(folded) > 0
            assert before == await statistics(db)
            await fold_statistics(db)       # two who meet take rows from each other's batches, and may leave some for later
            assert before == await statistics(db)
        assert 0 == await db.fetchval("SELECT count(*) FROM click_stats_new")
        folded_rows = "SELECT (SELECT count(*) FROM click_stats_by_link) + (SELECT count(*) FROM click_stats_by_source)"
        assert len(before) == await db.fetchval(folded_rows)
        await assert_conserved(db, spool.spool_id, 1200)
