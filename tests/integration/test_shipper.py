"""Rows go from a spool into PostgreSQL exactly once, whatever the rows or the server are like."""

import asyncio
import uuid
from pathlib import Path
from typing import Any

import pytest
from shipping import DAY_MS, assert_conserved, click_id, click_row, database, eventually, live_spool, now_ms, nul_row

from tracker.storage.clicks import shipper as shipper_module
from tracker.storage.clicks.rows import CLICK_COLUMNS
from tracker.storage.spool.segments import Column


async def test_rows_arrive_as_they_were_spooled(dsn: str, tmp_path: Path) -> None:
    """A column out of place would store an address as a device, for ever."""
    async with live_spool(tmp_path) as spool, database(dsn) as db:
        one = click_id()
        spool.append([click_row(one, link=5, flags=2, country=b"DE")])
        assert await spool.shipper(dsn).drain(10)
        row = await db.fetchrow("SELECT * FROM clicks")
        assert uuid.UUID(bytes=one) == row["click_id"]
        assert (99, 5, 1, 11, 13, 2) == tuple(row)[1:7]
        assert ("facebook", "DE", "mobile") == (row["channel"], row["country"], row["device"])
        assert "192.0.2.0/24" == str(row["ip"])
        assert '{"a": "b"}' == row["query"]
        link = await db.fetchrow("SELECT * FROM click_statistics")
        assert (5, "prefetch", 1) == tuple(link)[1:]
        source = await db.fetchrow("SELECT * FROM click_source_statistics")
        assert (11, 13, "prefetch", "facebook", "DE", "mobile", 1) == tuple(source)[1:]
        assert [int.from_bytes(one[:6], "big") // 8 // 900_000 * 900] * 2 == [row["bucket"].timestamp() for row in (link, source)]
        await assert_conserved(db, spool.spool_id, 1)


async def test_a_row_is_in_clicks_soon_after_it_was_appended(dsn: str, tmp_path: Path) -> None:
    """Somebody clicks and looks: the row must come without a full batch and without a drain."""
    async with live_spool(tmp_path) as spool, database(dsn) as db:
        shipper = spool.shipper(dsn)
        running = asyncio.create_task(shipper.run())
        for expected in (1, 2, 3):
            spool.append([click_row()])
            await eventually(lambda: shipper.next_seq == expected, seconds=5)  # noqa: B023 - used at once
        assert 3 == await db.fetchval("SELECT count(*) FROM clicks")
        assert 3 == shipper.counts.rows
        await shipper.stop()
        await running


async def test_it_lingers_unless_a_full_batch_is_there(dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small batches cost more a row; but who lingers while a full one waits falls behind."""
    monkeypatch.setattr(shipper_module, "LINGER_SECONDS", 60.0)
    async with live_spool(tmp_path) as spool, database(dsn) as db:
        spool.append([click_row() for _ in range(399)])
        shipper = spool.shipper(dsn, max_rows=100)
        running = asyncio.create_task(shipper.run())
        await eventually(lambda: shipper.next_seq >= 300)
        await shipper.stop()
        await running
        assert (300, 3) == (shipper.next_seq, shipper.counts.batches)
        assert 300 == await db.fetchval("SELECT count(*) FROM clicks")


async def test_many_rows_over_several_segments_and_batches(dsn: str, tmp_path: Path) -> None:
    """Borders of batches, segments and frames: an error of one at any of them loses or doubles a row."""
    async with live_spool(tmp_path) as spool, database(dsn) as db:
        total = 0
        for size in (1, 2, 700, 3000, 1, 999, 5000):
            spool.append([click_row(link=link % 9 + 1, flags=link % 64) for link in range(size)])
            total += size
        shipper = spool.shipper(dsn, max_rows=1000)
        assert await shipper.drain(30)
        assert total == shipper.counts.rows == await db.fetchval("SELECT count(*) FROM clicks")
        await assert_conserved(db, spool.spool_id, total)


async def test_poisoned_rows_are_put_aside_and_their_neighbours_stored(dsn: str, tmp_path: Path) -> None:
    """One row that PostgreSQL refuses must not hold up or take with it any other row."""
    async with live_spool(tmp_path) as spool, database(dsn) as db:
        bad = {0, 17, 18, 99}
        rows = [nul_row() if n in bad else click_row() for n in range(100)]
        rows[18] = rows[18][:-3]  # torn: PostgreSQL reads on into its neighbour, 22P04 or 08P01
        spool.append(rows)
        shipper = spool.shipper(dsn)
        assert await shipper.drain(20)
        cursor = await assert_conserved(db, spool.spool_id, 100)
        assert (96, 4) == (cursor["rows_stored"], cursor["rows_quarantined"])
        kept = await db.fetch("SELECT seq, record, reason FROM quarantine ORDER BY seq")
        assert [(n, rows[n]) for n in sorted(bad)] == [(r["seq"], r["record"]) for r in kept]
        assert kept[0]["reason"].startswith("22021")
        assert 4 == shipper.counts.quarantined


async def test_more_than_ten_poisoned_rows_hold_the_batch(dsn: str, tmp_path: Path) -> None:
    """A table or a server gone wrong refuses every row: quarantining them all would empty the spool into a drawer."""
    async with live_spool(tmp_path) as spool, database(dsn) as db:
        spool.append([nul_row() for _ in range(11)] + [click_row()])
        shipper = spool.shipper(dsn)
        assert not await shipper.drain(1.5)
        assert shipper.counts.retries >= 1
        await assert_conserved(db, spool.spool_id, 0)
        assert 0 == await db.fetchval("SELECT count(*) FROM quarantine")


async def test_rows_without_a_partition_become_strays(dsn: str, tmp_path: Path) -> None:
    """A clock a year off, or a job that did not run, must stop nobody; the statistics wait until they are moved in."""
    async with live_spool(tmp_path) as spool, database(dsn) as db:
        strays = {3: click_id(now_ms() + 400 * DAY_MS), 7: click_id(now_ms() - 400 * DAY_MS)}
        spool.append([nul_row() if n == 5 else click_row(strays.get(n)) for n in range(10)])
        assert await spool.shipper(dsn).drain(10)
        cursor = await assert_conserved(db, spool.spool_id, 10)
        assert (7, 2, 1) == (cursor["rows_stored"], cursor["rows_stray"], cursor["rows_quarantined"])
        found = {r["click_id"].bytes for r in await db.fetch("SELECT click_id FROM clicks_stray")}
        assert set(strays.values()) == found


async def test_a_lost_cursor_lets_each_row_in_once(dsn: str, tmp_path: Path) -> None:
    """A restored database may know the rows and not the mark, or half of either: replay counts what is new, only."""
    async with live_spool(tmp_path) as spool, database(dsn) as db:
        far = click_id(now_ms() + 400 * DAY_MS)
        spool.append([click_row(far)] + [click_row() for _ in range(499)])
        assert await spool.shipper(dsn, max_rows=100).drain(20)
        await db.execute("DELETE FROM spool_cursors")
        spool.append([nul_row()] + [click_row() for _ in range(99)])
        shipper = spool.shipper(dsn, max_rows=70)
        assert await shipper.drain(20)
        cursor = await assert_conserved(db, spool.spool_id, 600)
        assert (598, 1, 1) == (cursor["rows_stored"], cursor["rows_stray"], cursor["rows_quarantined"])
        assert 500 == shipper.counts.duplicates
        assert 598 == await db.fetchval("SELECT count(*) FROM clicks")
        assert 1 == await db.fetchval("SELECT count(*) FROM clicks_stray")


async def test_a_mark_that_went_back_is_followed(dsn: str, tmp_path: Path) -> None:
    """A failover that loses the last commits takes rows and mark together: what is kept on disk fills the hole."""
    async with live_spool(tmp_path) as spool, database(dsn) as db:
        spool.append([click_row() for _ in range(50)])
        shipper = spool.shipper(dsn, confirmed=spool.spool.clicks.confirmed)
        assert await shipper.drain(10)
        assert 50 == spool.spool.clicks.confirmed_seq
        await db.execute("TRUNCATE clicks, click_stats_new")
        await db.execute("UPDATE spool_cursors SET next_seq = 0, rows_stored = 0")
        await db.execute("ALTER TABLE clicks RENAME TO clicks_away")
        assert not await shipper.drain(1)
        assert 0 == spool.spool.clicks.confirmed_seq  # nothing that is to be sent again may be pruned meanwhile
        await db.execute("ALTER TABLE clicks_away RENAME TO clicks")
        assert await shipper.drain(10)
        assert 50 == spool.spool.clicks.confirmed_seq
        await assert_conserved(db, spool.spool_id, 50)
        assert 0 == shipper.counts.duplicates


async def test_other_columns_are_filled_up_or_held(dsn: str, tmp_path: Path) -> None:
    """A table that changed refuses every row of an old segment: halving would quarantine them all."""
    async with database(dsn) as db:
        await db.execute("ALTER TABLE clicks ADD COLUMN newer text")
        async with live_spool(tmp_path / "older") as spool:
            spool.append([click_row()])
            assert await spool.shipper(dsn).drain(10)
            assert [None] == [r["newer"] for r in await db.fetch("SELECT newer FROM clicks")]
        for name, sql in {
            "type": "ALTER TABLE clicks ALTER COLUMN newer TYPE integer USING null",
            "gone": "ALTER TABLE clicks DROP COLUMN newer",
            "needed": "DELETE FROM clicks; ALTER TABLE clicks ADD COLUMN more integer NOT NULL",
        }.items():
            await db.execute(sql)
            columns = CLICK_COLUMNS if name == "needed" else (*CLICK_COLUMNS, Column("newer", 25))
            async with live_spool(tmp_path / name, columns=columns) as spool:
                row = click_row() if name == "needed" else b"\0\x1c" + click_row()[2:] + b"\xff\xff\xff\xff"
                spool.append([row])
                shipper = spool.shipper(dsn)
                assert not await shipper.drain(0.4)
                assert 1 == shipper.counts.held
                assert 0 == await db.fetchval("SELECT count(*) FROM quarantine")


async def test_rows_that_damage_took_are_counted(dsn: str, tmp_path: Path) -> None:
    """A flipped bit on the disk loses a frame; the books must say so, and the rows behind it must come."""
    async with live_spool(tmp_path) as spool, database(dsn) as db:
        rows = [[click_row() for _ in range(10)] for _ in range(3)]
        for frame in rows:
            spool.append(frame)
        segment = next(spool.spool.path.glob("clicks-*.seg"))
        data = segment.read_bytes()
        at = data.index(rows[1][4]) + 40
        with segment.open("r+b") as file:
            file.seek(at)
            file.write(bytes([data[at] ^ 1]))
        shipper = spool.shipper(dsn)
        assert await shipper.drain(10)
        cursor = await assert_conserved(db, spool.spool_id, 30)
        assert (20, 10) == (cursor["rows_stored"], cursor["rows_quarantined"])
        damage: Any = await db.fetchrow("SELECT seq, count, reason FROM quarantine")
        assert (10, 10, "damaged") == tuple(damage)


async def test_asynchronous_commits_are_confirmed_only_when_flushed(dsn: str, tmp_path: Path) -> None:
    """With TRACKER_COMMIT=off a segment must not go before a synchronous commit covers its rows."""
    async with live_spool(tmp_path) as spool:
        confirmed: list[int] = []
        shipper = spool.shipper(dsn, synchronous=False, confirmed=confirmed.append, max_rows=10)
        spool.append([click_row() for _ in range(35)])
        assert await shipper.drain(10)
        assert [10, 35] == confirmed  # the first is synchronous: long since the last; then the flush at the end
