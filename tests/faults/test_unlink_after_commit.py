"""Nothing leaves the disk before PostgreSQL has it for good: the only copy must not be what a queue calls sent."""

import asyncio
from pathlib import Path

import pytest
from proxy import Fault, proxied
from shipping import assert_conserved, click_row, database, live_spool

DAYS = 10 * 86_400.0


@pytest.mark.fault(9)
async def test_a_segment_stays_while_the_commit_of_its_rows_is_in_doubt(dsn: str, tmp_path: Path) -> None:
    """Danger: everything was sent, COMMIT too; a queue that forgets now loses all of it when the connection breaks."""
    async with proxied(dsn) as proxy, database(dsn) as db, live_spool(tmp_path, segment_bytes=2**15) as spool:
        log = spool.spool.clicks
        for _ in range(40):
            spool.append([click_row(user_agent=b"x" * 1000) for _ in range(5)])
        await spool.spool.sync()     # a file that is not synced stays for that reason alone
        shipper = spool.shipper(proxy.dsn, confirmed=log.confirmed)
        await shipper._claimed()
        fault = proxy.fault = Fault("up", "hold", on=b"COMMIT")
        draining = asyncio.create_task(shipper.drain(30))
        await fault.struck.wait()
        segments = set(spool.spool.path.glob("clicks-*.seg"))
        for now in (0.0, DAYS):
            assert 0 == await spool.spool.prune(now), "unlinked before its rows were committed"
        assert (0, segments) == (log.confirmed_seq, set(spool.spool.path.glob("clicks-*.seg")))
        await proxy.close()
        assert await draining or await spool.shipper(dsn, confirmed=log.confirmed).drain(30)
        await assert_conserved(db, spool.spool_id, 200)
        assert 200 == log.confirmed_seq
        assert 0 == await spool.spool.prune(0.0)
        assert len(segments) - 1 == await spool.spool.prune(DAYS)
