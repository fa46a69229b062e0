"""Two shippers of one dead spool: who finds it locked leaves it alone (row 17 of the fault matrix)."""

import asyncio
from pathlib import Path

import pytest
from proxy import Fault, proxied
from shipping import assert_conserved, click_row, database, live_spool

from tracker.storage.clicks.dead_spools import DeadSpools
from tracker.storage.spool.dead_spool import DeadSpool


async def nothing_in_the_journal(spool: DeadSpool) -> bool:
    return spool.journal.end_seq() == 0


@pytest.mark.fault(17)
async def test_who_comes_second_leaves_a_spool_to_who_ships_it(dsn: str, tmp_path: Path) -> None:
    """The first is slow, not dead: to take the spool from it would end its transaction again and again, on both sides."""
    async with live_spool(tmp_path) as spool:
        spool.append([click_row() for _ in range(300)])
    async with proxied(dsn) as proxy, database(dsn) as db:
        first = DeadSpools(proxy.dsn, tmp_path, nothing_in_the_journal)
        second = DeadSpools(dsn, tmp_path, nothing_in_the_journal)
        fault = proxy.fault = Fault("up", "hold", on=b"PGCOPY")
        looking = asyncio.create_task(first.look())
        await fault.struck.wait()
        assert await second.look()
        assert (0, 0, 0) == (second.counts.rows, second.counts.retries, second.waiting)
        assert 0 == await db.fetchval("SELECT next_seq FROM spool_cursors WHERE log = 'clicks'")
        fault.deliver.set()
        assert await looking
        assert (300, 0, 0) == (first.counts.rows, first.counts.retries, first.counts.duplicates)
        await assert_conserved(db, spool.spool_id, 300)
        assert 300 == await db.fetchval("SELECT count(*) FROM clicks")
