"""Connections that break, hang and answer too late between the shipper and PostgreSQL: every row exactly once."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import uvloop
from postgres_fixtures import SCHEMA
from proxy import Direction, Fault, proxied
from shipping import Shipping, assert_conserved, click_id, click_row, database, eventually, live_spool, now_ms

from tracker.storage.clicks import shipper as shipping_loop


async def assert_three_stored(db: Any, spool: Shipping) -> None:
    await assert_conserved(db, spool.spool_id, 3)
    assert 3 == await db.fetchval("SELECT count(*) FROM clicks")
    await db.execute("TRUNCATE clicks, click_stats_new")


async def cut_everywhere(dsn: str, root: Path, step: int) -> None:
    """Ship three rows again and again, each time with the connection cut some bytes later, in either direction."""
    async with proxied(dsn) as proxy, database(dsn) as db, live_spool(root) as spool:
        rows = 0

        async def ship_three() -> None:
            nonlocal rows
            spool.append([click_row() for _ in range(3)])
            rows += 3
            proxy.passed = {"up": 0, "down": 0}
            assert await spool.shipper(proxy.dsn).drain(30)

        await ship_three()      # makes the mark's row
        await ship_three()
        lengths = dict(proxy.passed)
        for way in get_args(Direction):
            for offset in range(0, lengths[way], step):
                proxy.fault = Fault(way, "cut", at=offset)
                await ship_three()
                # An exchange may end some bytes before the one measured (seen: 5 of 3,022): then there was no such byte to cut at.
                ended_before = proxy.passed[way] <= offset and offset >= lengths[way] - 16
                assert proxy.fault.struck.is_set() or ended_before, f"{way} {offset} of {lengths[way]} was never reached"
                assert rows == await db.fetchval("SELECT next_seq FROM spool_cursors WHERE log = 'clicks'"), f"{way} {offset}"
                assert rows == await db.fetchval("SELECT count(*) FROM clicks"), f"{way} {offset}"
        await assert_conserved(db, spool.spool_id, rows)


@pytest.mark.fault(8)
@pytest.mark.timeout(300)
async def test_a_reset_anywhere_in_the_exchange_stores_each_row_once(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection may end at any byte of a COPY and of the commit around it. A prime step meets all statements."""
    monkeypatch.setattr(shipping_loop, "_FIRST_BACKOFF_SECONDS", 0.001)
    await cut_everywhere(dsn, tmp_path, 61)


@pytest.mark.fault(8)
@pytest.mark.nightly
@pytest.mark.timeout(7200)
async def test_a_reset_at_every_byte_of_the_exchange_stores_each_row_once(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As above, leaving no byte out."""
    monkeypatch.setattr(shipping_loop, "_FIRST_BACKOFF_SECONDS", 0.001)
    await cut_everywhere(dsn, tmp_path, 1)


COMMIT = b"COMMIT"


@pytest.mark.fault(9)
async def test_a_commit_whose_answer_is_lost_is_not_repeated(dsn: str, tmp_path: Path) -> None:
    """Sending the batch again, or not at all, would both be wrong: only the mark knows."""
    async with proxied(dsn) as proxy, database(dsn) as db, live_spool(tmp_path) as spool:
        spool.append([click_row() for _ in range(3)])
        shipper = spool.shipper(proxy.dsn)
        await shipper._claimed()
        proxy.fault = Fault("up", "swallow", on=COMMIT)
        assert await shipper.drain(20)
        assert proxy.fault.struck.is_set()
        assert (1, 3) == (shipper.counts.ambiguous_commits, shipper.counts.rows)
        await assert_three_stored(db, spool)


@pytest.mark.fault(9)
async def test_a_zombie_that_commits_late_stores_nothing_twice(dsn: str, tmp_path: Path) -> None:
    """The old backend sits in its transaction with everything but COMMIT: it is ended, not waited for."""
    async with proxied(dsn) as proxy, database(dsn) as db, live_spool(tmp_path) as spool:
        spool.append([click_row() for _ in range(3)])
        shipper = spool.shipper(proxy.dsn)
        await shipper._claimed()
        fault = proxy.fault = Fault("up", "late", on=COMMIT)
        draining = asyncio.create_task(shipper.drain(20))
        await fault.struck.wait()
        await asyncio.sleep(2)  # the fault itself: the commit is two seconds on its way
        fault.deliver.set()
        assert await draining
        assert 1 == shipper.counts.ambiguous_commits
        await assert_three_stored(db, spool)


async def test_a_backend_stuck_inside_copy_is_ended_by_name(dsn: str, tmp_path: Path) -> None:
    """No timeout of the server frees it, and it holds the mark: without this the spool would never move again."""
    async with proxied(dsn) as proxy, database(dsn) as db, live_spool(tmp_path) as spool:
        spool.append([click_row() for _ in range(3000)])
        shipper = spool.shipper(proxy.dsn, batch_seconds=1.0)
        await shipper._claimed()
        bystander = await db.fetchval("SELECT pg_backend_pid()")
        first = await db.fetchval("SELECT writer_pid FROM spool_cursors")
        fault = proxy.fault = Fault("up", "hold", on=b"PGCOPY")
        assert await shipper.drain(20)
        assert fault.struck.is_set()
        await eventually(lambda: _is_gone(db, first))
        assert bystander == await db.fetchval("SELECT pg_backend_pid()")
        await assert_conserved(db, spool.spool_id, 3000)


@pytest.mark.parametrize("run", [uvloop.run, asyncio.run], ids=["uvloop", "asyncio"])
def test_a_reset_is_noticed_while_a_copy_waits_for_room_to_write(dsn: str, tmp_path: Path, run: Callable[[Any], None]) -> None:
    """The driver waits there without looking: unnoticed, each lost connection would cost a whole deadline. And what it says when
    it is woken differs: on uvloop, where workers live, it tries to write to what is closed."""
    run(_reset_is_noticed(dsn, tmp_path))


async def _reset_is_noticed(dsn: str, tmp_path: Path) -> None:
    async with proxied(dsn) as proxy, database(dsn) as db, live_spool(tmp_path, segment_bytes=2**22) as spool:
        for _ in range(4):
            spool.append([click_row(user_agent=b"x" * 1000) for _ in range(300)])
        shipper = spool.shipper(proxy.dsn, batch_seconds=60.0)
        connection: Any = await shipper._claimed()
        transport = connection._transport
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
        fault = proxy.fault = Fault("up", "hold", on=b"PGCOPY")
        draining = asyncio.create_task(shipper.drain(20))
        await fault.struck.wait()
        await eventually(lambda: transport.get_write_buffer_size() > 0)
        await proxy.close()
        assert await draining
        await assert_conserved(db, spool.spool_id, 1200)


async def _is_gone(db: Any, pid: int) -> bool:
    return await db.fetchval("SELECT 1 FROM pg_stat_activity WHERE pid = $1", pid) is None


async def test_a_server_that_stops_answering_holds_nothing_up_for_long(postgres_factory: Any, tmp_path: Path) -> None:
    """A frozen server accepts and is silent: each try must end by its own deadline, and the rows come when it thaws."""
    postgres = postgres_factory()
    with postgres:
        dsn = postgres.dsn
        await apply_schema(dsn)
        async with live_spool(tmp_path / "spool") as spool:
            shipper = spool.shipper(dsn, batch_seconds=0.5)
            running = asyncio.create_task(shipper.run())
            spool.append([click_row() for _ in range(10)])
            await eventually(lambda: shipper.next_seq == 10)
            async with database(dsn) as db:
                writer = await db.fetchval("SELECT writer_pid FROM spool_cursors")
            frozen = (postgres.pid, writer)  # who takes new connections, and who serves ours
            for pid in frozen:
                _signal(pid, signal.SIGSTOP)
            spool.append([click_row() for _ in range(10)])
            await eventually(lambda: shipper.counts.retries >= 1)
            for pid in frozen:
                _signal(pid, signal.SIGCONT)
            await eventually(lambda: shipper.next_seq == 20)
            await shipper.stop()
            await running
            async with database(dsn) as db:
                await assert_conserved(db, spool.spool_id, 20)


async def test_a_restarted_server_gets_what_it_missed(postgres_factory: Any, tmp_path: Path) -> None:
    """Down, and up again: nobody restarts the shipper, and nothing is sent twice."""
    postgres = postgres_factory()
    postgres.start()
    await apply_schema(postgres.dsn)
    async with proxied(postgres.dsn) as proxy, live_spool(tmp_path / "spool") as spool:
        shipper = spool.shipper(proxy.dsn)
        running = asyncio.create_task(shipper.run())
        spool.append([click_row() for _ in range(10)])
        await eventually(lambda: shipper.next_seq == 10)
        postgres.stop()
        spool.append([click_row() for _ in range(10)])
        await eventually(lambda: shipper.counts.retries >= 2)
        postgres.start()
        proxy.lead_to(postgres.dsn)
        await eventually(lambda: shipper.next_seq == 20)
        await shipper.stop()
        await running
        async with database(postgres.dsn) as db:
            await assert_conserved(db, spool.spool_id, 20)


async def apply_schema(dsn: str) -> None:
    async with database(dsn) as db:
        await db.execute(SCHEMA.read_text())


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


async def test_draining_keeps_to_its_time_though_the_server_hangs(postgres_factory: Any, tmp_path: Path) -> None:
    """A worker that drains twice as long as it was given is killed by its parent, with the rest of its drain undone."""
    postgres = postgres_factory()
    with postgres:
        await apply_schema(postgres.dsn)
        async with proxied(postgres.dsn) as proxy, live_spool(tmp_path / "spool") as spool:
            shipper = spool.shipper(proxy.dsn, batch_seconds=0.5)
            running = asyncio.create_task(shipper.run())
            spool.append([click_row() for _ in range(10)])
            await eventually(lambda: shipper.next_seq == 10)
            async with database(postgres.dsn) as db:
                writer = await db.fetchval("SELECT writer_pid FROM spool_cursors")
            frozen = (postgres.pid, writer)  # who takes new connections, and who serves ours
            for pid in frozen:
                _signal(pid, signal.SIGSTOP)
            try:
                spool.append([click_row(user_agent=b"x" * 1000) for _ in range(1000)])
                await eventually(lambda: proxy.connections == 2)  # it connects anew, which hangs longer than a batch
                async with asyncio.timeout(4.5):
                    assert not await shipper.drain(3)
                await running
                assert 10 == shipper.next_seq
            finally:
                for pid in frozen:
                    _signal(pid, signal.SIGCONT)
            assert await shipper.drain(20)
            async with database(postgres.dsn) as db:
                await assert_conserved(db, spool.spool_id, 1010)


async def test_a_hung_connection_leaves_the_drain_time_for_another(dsn: str, tmp_path: Path) -> None:
    """One connection that a firewall forgot must not cost the whole drain while the server is well."""
    async with proxied(dsn) as proxy, database(dsn) as db, live_spool(tmp_path) as spool:
        shipper = spool.shipper(proxy.dsn, batch_seconds=60.0)
        running = asyncio.create_task(shipper.run())
        fault = proxy.fault = Fault("up", "hold", on=b"PGCOPY")
        spool.append([click_row() for _ in range(100)])
        await fault.struck.wait()
        async with asyncio.timeout(4):
            assert await shipper.drain(4)
        await running
        await assert_conserved(db, spool.spool_id, 100)


async def test_the_age_of_what_waits_grows_while_the_server_is_away(dsn: str, tmp_path: Path) -> None:
    """An alert on the delay of what was stored stays silent in an outage: nothing is stored then."""
    made_ms = now_ms() - 60_000
    async with live_spool(tmp_path, segment_bytes=2**20) as spool:
        shipper = spool.shipper("postgresql://nobody@127.0.0.1:1/none")
        assert 0 == shipper.oldest_age_seconds(made_ms / 1000)
        running = asyncio.create_task(shipper.run())
        for age in (0, 1000):
            spool.append([click_row(click_id(made_ms + age)) for _ in range(5)])
        await eventually(lambda: shipper.counts.retries >= 2)
        assert [60, 90] == [shipper.oldest_age_seconds(made_ms / 1000 + later) for later in (60, 90)]
        await shipper.stop()
        await running
        shipper = spool.shipper(dsn, max_rows=5)
        assert await shipper.drain(10)
        assert 0 == shipper.oldest_age_seconds(made_ms / 1000 + 60)
        spool.append([click_row(click_id(made_ms + 2000))])
        assert 58 == shipper.oldest_age_seconds(made_ms / 1000 + 60)
        assert await shipper.drain(10)
        assert 0 == shipper.oldest_age_seconds(made_ms / 1000 + 60)
