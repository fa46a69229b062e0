"""What earlier starts left comes into PostgreSQL once, whoever finds it, and goes from the disk only after that."""

import asyncio
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from shipping import DAY_MS, assert_conserved, click_id, click_row, database, eventually, live_spool, now_ms

from tracker.storage.clicks.dead_spools import DeadSpools
from tracker.storage.clicks.shipper import ShipperCounts
from tracker.storage.spool.dead_spool import DeadSpool
from tracker.storage.spool.worker_numbers import top_up


async def nothing_in_the_journal(spool: DeadSpool) -> bool:
    return spool.journal.end_seq() == 0


async def a_dead_spool(root: Path, rows: int) -> int:
    async with live_spool(root) as spool:
        spool.append([click_row() for _ in range(rows)])
        return spool.spool_id


async def test_dead_spools_are_shipped_closed_and_removed(dsn: str, tmp_path: Path) -> None:
    """A worker died: its clicks must come without it, its number must become free, its disk space must come back."""
    spool_id = await a_dead_spool(tmp_path, 500)
    async with database(dsn) as db:
        await db.execute("INSERT INTO worker_numbers (number) VALUES (1)")  # as in its spool.json; never confirmed
        async with live_spool(tmp_path) as live:
            live.append([click_row()])
            keeping = DeadSpools(dsn, tmp_path, nothing_in_the_journal)
            assert await keeping.look()
            cursor = await assert_conserved(db, spool_id, 500)
            assert cursor["closed_at"] is not None
            free_at = await db.fetchval("SELECT last_id_at - now() FROM worker_numbers WHERE spool_id = $1", spool_id)
            assert abs(free_at) < timedelta(minutes=1)
            assert (0, 500) == (keeping.waiting, keeping.counts.rows)
            assert await keeping.look()
            assert {live.spool.path, tmp_path / f"{spool_id:016x}"} == set(tmp_path.iterdir())
            assert await DeadSpools(dsn, tmp_path, nothing_in_the_journal, keep_clicks_seconds=0).look()
            assert {live.spool.path} == set(tmp_path.iterdir())
            assert 1 == live.spool.clicks.next_seq


async def test_a_number_is_held_until_the_clock_that_used_it_is_over(dsn: str, tmp_path: Path) -> None:
    """A machine whose clock was days ahead made ids of those days: the next owner of its number would make them again."""
    async with live_spool(tmp_path) as spool:
        spool.append([click_row(click_id(now_ms() + days * DAY_MS)) for days in (0, 3)])
    async with database(dsn) as db:
        await db.execute("INSERT INTO worker_numbers (number) VALUES (1)")
        assert await DeadSpools(dsn, tmp_path, nothing_in_the_journal).look()
        ahead = await db.fetchval("SELECT last_id_at - now() FROM worker_numbers WHERE spool_id = $1", spool.spool_id)
        assert timedelta(days=2, hours=23) < ahead <= timedelta(days=3)


@pytest.mark.fault(17)
async def test_many_finders_ship_a_spool_once(dsn: str, tmp_path: Path) -> None:
    """All workers of a machine start together and look at the same directory."""
    ids = [await a_dead_spool(tmp_path, 300) for _ in range(3)]
    finders = [DeadSpools(dsn, tmp_path, nothing_in_the_journal) for _ in range(4)]
    assert [True] * 4 == await asyncio.gather(*(finder.look() for finder in finders))
    assert [0] * 4 == [finder.pending_rows for finder in finders]
    async with database(dsn) as db:
        for spool_id in ids:
            assert 300 == await db.fetchval("SELECT rows_stored FROM spool_cursors WHERE spool_id = $1", spool_id)
        assert 900 == await db.fetchval("SELECT count(*) FROM clicks")
    assert 900 == sum(finder.counts.rows for finder in finders)


@pytest.mark.parametrize("forgotten", ["UPDATE spool_cursors SET next_seq = 0, rows_stored = 0", "DELETE FROM spool_cursors"])
async def test_books_stay_open_when_a_mark_went_back_meanwhile(dsn: str, tmp_path: Path, forgotten: str) -> None:
    """Danger: between the last click and the last sale PostgreSQL fails over and has forgotten; closed books are not looked at."""
    spool_id = await a_dead_spool(tmp_path, 5)
    async with database(dsn) as db:

        async def fail_over(_: DeadSpool) -> bool:
            await db.execute(f"TRUNCATE clicks, click_stats_new; {forgotten}")
            await db.execute("INSERT INTO spool_cursors (spool_id, log) VALUES ($1, 'journal') ON CONFLICT DO NOTHING", spool_id)
            return True

        keeping = DeadSpools(dsn, tmp_path, fail_over)
        assert await keeping.look()
        assert 1 == keeping.waiting
        assert await DeadSpools(dsn, tmp_path, nothing_in_the_journal).look()
        assert (await assert_conserved(db, spool_id, 5))["closed_at"] is not None


async def test_a_spool_stays_until_its_journal_is_applied(dsn: str, tmp_path: Path) -> None:
    """Clicks shipped is half of it: the journal holds money."""
    spool_id = await a_dead_spool(tmp_path, 5)

    async def not_yet(_: DeadSpool) -> bool:
        return False

    keeping = DeadSpools(dsn, tmp_path, not_yet, keep_clicks_seconds=0)
    assert await keeping.look()
    assert await keeping.look()
    assert 1 == keeping.waiting
    assert (tmp_path / f"{spool_id:016x}").is_dir()
    async with database(dsn) as db:
        cursor = await assert_conserved(db, spool_id, 5)
        assert cursor["closed_at"] is None


async def test_what_dead_spools_still_hold_is_told(dsn: str, tmp_path: Path) -> None:
    """Rows of a start that is gone wait as well: a metric of the living spools alone would say that all is stored."""
    held = await a_dead_spool(tmp_path, 7)
    await a_dead_spool(tmp_path, 5)

    async def not_yet(spool: DeadSpool) -> bool:
        return spool.spool_id != held

    keeping = DeadSpools(dsn, tmp_path, not_yet)
    async with database(dsn) as db, live_spool(tmp_path) as live:
        live.append([click_row()])
        assert await keeping.look()
        assert (7, 1) == (keeping.pending_rows, keeping.waiting)  # as found before it was shipped in part
        assert await keeping.look()
        assert (0, 1) == (keeping.pending_rows, keeping.waiting)
        await db.execute("UPDATE spool_cursors SET next_seq = 3, rows_stored = 3, closed_at = NULL WHERE spool_id = $1", held)
        await db.execute("TRUNCATE clicks; DROP TABLE click_stats_new CASCADE")
        keeping = DeadSpools(dsn, tmp_path, not_yet)
        looking = asyncio.create_task(keeping.look())
        await eventually(lambda: keeping.counts.retries > 0)
        assert 4 == keeping.pending_rows
        looking.cancel()


async def test_a_failover_that_loses_the_books_ships_the_spool_again(dsn: str, tmp_path: Path) -> None:
    """Rows, mark and closing go back together; what is kept on disk fills the hole."""
    spool_id = await a_dead_spool(tmp_path, 40)
    keeping = DeadSpools(dsn, tmp_path, nothing_in_the_journal)
    assert await keeping.look()
    async with database(dsn) as db:
        await db.execute("TRUNCATE clicks, click_stats_new, spool_cursors")
        assert await keeping.look()
        await assert_conserved(db, spool_id, 40)
        assert 40 == await db.fetchval("SELECT count(*) FROM clicks")


@pytest.mark.fault(17)
async def test_copies_of_spools_change_nothing(dsn: str, tmp_path: Path) -> None:
    """A backup beside the original is left alone; a disk copied to another machine is shipped, each row once."""
    spool_id = await a_dead_spool(tmp_path / "here", 30)
    name = f"{spool_id:016x}"
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    shutil.copytree(tmp_path / "here" / name, tmp_path / "here" / "backup")
    counts = ShipperCounts()
    for root in ("here", "there"):
        assert await DeadSpools(dsn, tmp_path / root, nothing_in_the_journal, counts=counts).look()
    async with database(dsn) as db:
        await assert_conserved(db, spool_id, 30)
    assert (30, 0) == (counts.rows, counts.duplicates)
    assert (tmp_path / "here" / "backup").is_dir()


async def test_without_postgresql_a_look_says_so_and_leaves_all(tmp_path: Path) -> None:
    """Nothing is removed, nothing raises."""
    spool_id = await a_dead_spool(tmp_path, 3)
    nowhere = "postgresql://nobody@127.0.0.1:1/none"
    assert not await DeadSpools(nowhere, tmp_path, nothing_in_the_journal, keep_clicks_seconds=0).look()
    assert (tmp_path / f"{spool_id:016x}").is_dir()


async def test_one_spool_that_cannot_be_dealt_with_holds_up_no_other(
    dsn: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A mistake of ours that one spool brings to light would else stop every worker's looking after all the others."""
    ids = [await a_dead_spool(tmp_path, 5) for _ in range(3)]
    bad = sorted(ids)[1]

    async def apply_journal(spool: DeadSpool) -> bool:
        if spool.spool_id == bad:
            raise KeyError("unforeseen")
        return True

    keeping = DeadSpools(dsn, tmp_path, apply_journal)
    assert await keeping.look()
    assert 1 == keeping.waiting
    assert "unforeseen" in caplog.text
    async with database(dsn) as db:
        closed = await db.fetch("SELECT spool_id FROM spool_cursors WHERE closed_at IS NOT NULL")
    assert set(ids) - {bad} == {row["spool_id"] for row in closed}


async def test_a_root_that_cannot_be_read_is_looked_at_again(tmp_path: Path) -> None:
    """A volume that comes and goes must not end the worker's looking."""
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert not await DeadSpools("postgresql://nobody@127.0.0.1:1/none", loop, nothing_in_the_journal).look()


@pytest.mark.fault(17)
@pytest.mark.parametrize("synchronous", [True, False])
async def test_two_starts_of_one_directory_each_ship_their_own(dsn: str, tmp_path: Path, synchronous: bool) -> None:
    """Two workers over one TRACKER_SPOOL_DIR: separate spools, separate marks, one table."""
    async with live_spool(tmp_path) as one, live_spool(tmp_path) as other, database(dsn) as db:
        await top_up(db, tmp_path, workers=1)  # the stock stands beside the spools and is none
        for spool in (one, other):
            spool.append([click_row() for _ in range(100)])
        drained = await asyncio.gather(
            *(spool.shipper(dsn, synchronous=synchronous).drain(10) for spool in (one, other)),
            DeadSpools(dsn, tmp_path, nothing_in_the_journal).look(),
        )
        assert [True] * 3 == drained
        assert 200 == await db.fetchval("SELECT count(*) FROM clicks")
