"""No two starts of workers ever hold the same number: stock, copies, restarts without PostgreSQL, reclaiming."""

import asyncio
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path

import pytest
from shipping import database

from tracker.app.numbers import take_number
from tracker.storage.spool.dead_spool import find_spools
from tracker.storage.spool.worker_numbers import NoNumberError, confirm, note_shipped, reclaim, take, top_up


async def test_a_stock_gives_each_number_once_and_is_filled_up(dsn: str, tmp_path: Path) -> None:
    """A number used twice is the same click id twice."""
    async with database(dsn) as db:
        assert 4 == await top_up(db, tmp_path, workers=1)
        taken = [take(tmp_path) for _ in range(4)]
        with pytest.raises(NoNumberError):
            take(tmp_path)
        assert 4 == await top_up(db, tmp_path, workers=1)
        taken += [take(tmp_path) for _ in range(4)]
        assert 8 == len(set(taken))
        reserved = {r["number"] for r in await db.fetch("SELECT number FROM worker_numbers")}
        assert set(taken) == reserved


async def test_the_stock_holds_two_starts_of_every_worker(dsn: str, tmp_path: Path) -> None:
    """With fewer than there are workers, a start without PostgreSQL leaves cores idle, or the last ones waiting."""
    async with database(dsn) as db:
        assert 6 == await top_up(db, tmp_path, workers=3)
        assert [6, 6] == [len({take(tmp_path) for _ in range(6)}), await top_up(db, tmp_path, workers=3)]


async def test_a_start_leaves_the_stock_full(dsn: str, tmp_path: Path) -> None:
    """A start that is killed as soon as it serves must not have used up what the next one needs, should PostgreSQL be away then."""
    for spool_id in (1, 2, 3):
        await take_number(dsn, tmp_path, spool_id, workers=1)
        assert 4 == len(list((tmp_path / "numbers").glob("*.json")))


async def test_two_machines_never_get_the_same_number(dsn: str, tmp_path: Path) -> None:
    """Reservations race in PostgreSQL: what one has committed the other must not be given."""
    async with database(dsn) as one, database(dsn) as other:
        await asyncio.gather(*(top_up(one if n % 2 else other, tmp_path / f"{n}", workers=1) for n in (0, 1)))
        stocks = [{file.stem for file in (tmp_path / f"{n}/numbers").glob("*.json")} for n in (0, 1)]
        assert stocks[0]
        assert stocks[1]
        assert not stocks[0] & stocks[1]


async def test_processes_that_start_together_take_different_numbers(dsn: str, tmp_path: Path) -> None:
    """All workers of a machine start at the same moment, over one stock."""
    async with database(dsn) as db:
        await top_up(db, tmp_path, workers=1)
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        assert 4 == len(set(pool.map(take, [tmp_path] * 4)))


async def test_the_stock_is_not_taken_for_a_spool(dsn: str, tmp_path: Path) -> None:
    """Whoever clears away dead spools looks at every directory beside it, and would take the lock of the stock with it."""
    async with database(dsn) as db:
        await top_up(db, tmp_path, workers=1)
    assert [] == find_spools(tmp_path)


async def test_a_copied_stock_is_not_used(dsn: str, tmp_path: Path) -> None:
    """A cloned volume or a restored backup would make ids that exist already."""
    async with database(dsn) as db:
        await top_up(db, tmp_path / "one", workers=1)
        shutil.copytree(tmp_path / "one", tmp_path / "copy")
        with pytest.raises(NoNumberError):
            take(tmp_path / "copy")
        file = next((tmp_path / "one/numbers").glob("*.json"))
        file.write_text(file.read_text().replace(os.uname().nodename, "another-host"))
        assert file.stem not in {str(take(tmp_path / "one")) for _ in range(3)}
        with pytest.raises(NoNumberError):
            take(tmp_path / "one")


async def test_a_stock_older_than_its_reservation_is_not_used(dsn: str, tmp_path: Path) -> None:
    """After 30 days PostgreSQL gives the numbers to somebody else."""
    async with database(dsn) as db:
        await top_up(db, tmp_path, workers=1)
        with pytest.raises(NoNumberError):
            take(tmp_path, now=datetime.now(UTC) + timedelta(days=29, minutes=1))
        assert 4 == await top_up(db, tmp_path, workers=1)


async def test_a_number_belongs_to_one_spool(dsn: str, tmp_path: Path) -> None:
    """Whoever finds his number taken must stop making ids with it."""
    async with database(dsn) as db:
        await top_up(db, tmp_path, workers=1)
        number = take(tmp_path)
        assert await confirm(db, number, 1)
        assert await confirm(db, number, 1)
        assert not await confirm(db, number, 2)
        await note_shipped(db, 1, None)  # somebody shipped a copy of the disk
        assert await confirm(db, number, 1)
        assert await db.fetchval("SELECT last_id_at IS NULL FROM worker_numbers WHERE number = $1", number)
        await db.execute("DELETE FROM worker_numbers")
        assert not await confirm(db, number, 1)


async def test_numbers_come_back_a_day_after_their_spool_was_shipped(dsn: str, tmp_path: Path) -> None:
    """Sooner, an id of the old owner and one of the new could meet; never, and after 32,768 starts nobody can start."""
    async with database(dsn) as db:
        await top_up(db, tmp_path, workers=1)
        live, shipped, unused = (take(tmp_path) for _ in range(3))
        await confirm(db, live, 1)
        await confirm(db, shipped, 2)
        await note_shipped(db, 2, None)
        await db.execute("UPDATE worker_numbers SET seen_at = now() - interval '31 days'")
        await db.execute("UPDATE worker_numbers SET seen_at = now() - interval '29 days' WHERE number = $1", live)
        await db.execute("UPDATE worker_numbers SET last_id_at = last_id_at - interval '23 hours'")
        await db.execute("UPDATE worker_numbers SET seen_at = now() WHERE number = $1", unused)
        assert 1 == await reclaim(db)  # the fourth, still in stock
        await db.execute("UPDATE worker_numbers SET last_id_at = last_id_at - interval '2 hours'")
        assert 1 == await reclaim(db)
        assert {live, unused} == {r["number"] for r in await db.fetch("SELECT number FROM worker_numbers")}


async def test_a_number_whose_spool_is_lost_comes_back_after_a_month(dsn: str, tmp_path: Path) -> None:
    """A pod's disk goes with the pod: unshipped or not, nobody will ever close its spool, and numbers are few."""
    async with database(dsn) as db:
        await top_up(db, tmp_path, workers=1)
        lost, late = take(tmp_path), take(tmp_path)
        await confirm(db, lost, 1)
        await confirm(db, late, 2)
        await note_shipped(db, 2, int((datetime.now(UTC) + timedelta(days=1)).timestamp() * 1000))
        await db.execute("UPDATE worker_numbers SET seen_at = now() - interval '29 days'")
        assert 0 == await reclaim(db)
        await db.execute("UPDATE worker_numbers SET seen_at = now() - interval '31 days' WHERE spool_id IS NOT NULL")
        assert 1 == await reclaim(db)
        assert 0 == await db.fetchval("SELECT count(*) FROM worker_numbers WHERE number = $1", lost)
        assert not await confirm(db, lost, 1)  # should it come back after all, it must end


async def test_when_all_numbers_are_taken_nothing_is_added(dsn: str, tmp_path: Path) -> None:
    """A start then waits for one to be freed; it must be told, not get one that is in use."""
    async with database(dsn) as db:
        await db.execute("INSERT INTO worker_numbers (number, spool_id) SELECT n, n + 1 FROM generate_series(0, 32767) AS n")
        assert 0 == await top_up(db, tmp_path, workers=1)
        await db.execute("DELETE FROM worker_numbers WHERE number = 5")
        assert 1 == await top_up(db, tmp_path, workers=1)
        assert 5 == take(tmp_path)


@pytest.mark.parametrize(
    ("owner", "silent", "shipped", "free"),
    [
        (None, timedelta(days=30, minutes=-1), None, 0),
        (None, timedelta(days=30, minutes=1), None, 1),
        (1, timedelta(days=30, minutes=-1), None, 0),
        (1, timedelta(days=30, minutes=1), None, 1),
        (1, timedelta(days=99), timedelta(hours=24, minutes=-1), 0),
        (1, timedelta(0), timedelta(hours=24, minutes=1), 1),
    ],
)
async def test_a_number_is_free_at_its_hour(
    dsn: str, owner: int | None, silent: timedelta, shipped: timedelta | None, free: int
) -> None:
    async with database(dsn) as db:
        row = "(5, $1, now() - $2::interval, now() - $3::interval)"
        insert = f"INSERT INTO worker_numbers (number, spool_id, seen_at, last_id_at) VALUES {row}"
        await db.execute(insert, owner, silent, shipped)
        assert free == await reclaim(db)


async def test_what_was_shipped_is_free_a_day_after_its_last_id_or_after_now(dsn: str) -> None:
    """A machine whose clock was ahead made ids that are still to come."""
    async with database(dsn) as db:
        await db.execute("INSERT INTO worker_numbers (number, spool_id) VALUES (5, 1), (6, 2)")
        ahead = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
        for last_id in (None, 1_000, int(ahead.timestamp() * 1000), 1_000):
            await note_shipped(db, 1, last_id)
            told = await db.fetchval("SELECT last_id_at FROM worker_numbers WHERE number = 5")
            assert told == ahead if last_id != 1_000 and last_id else told > datetime.now(UTC) - timedelta(minutes=5)
        assert ahead == told
        assert await db.fetchval("SELECT last_id_at IS NULL FROM worker_numbers WHERE number = 6")


async def test_a_stock_that_is_full_asks_for_nothing_and_useless_files_go(dsn: str, tmp_path: Path) -> None:
    async with database(dsn) as db:
        assert [4, 0] == [await top_up(db, tmp_path, workers=1) for _ in range(2)]
        (tmp_path / "numbers" / "x.json").write_text("{}")
        assert 0 == await top_up(db, tmp_path, workers=1)
        assert not (tmp_path / "numbers" / "x.json").exists()
        assert 4 == await db.fetchval("SELECT count(*) FROM worker_numbers WHERE spool_id IS NULL AND number BETWEEN 0 AND 32767")
        later = datetime.now(UTC) + timedelta(days=40)
        assert 4 == await top_up(db, tmp_path, now=later, workers=1)
        assert 8 == await db.fetchval("SELECT count(*) FROM worker_numbers")
        assert 4 == len({take(tmp_path, now=later) for _ in range(4)})
