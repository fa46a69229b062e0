"""One sale, told more than once: by many senders at once, in the wrong order, with another amount, three months later.

Rows 19 to 22 of the fault matrix; beside tests/integration/test_recorder.py and test_pending.py, which prove the rest of them.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack
from decimal import Decimal
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from demo_world import make_world, value
from doors import SHOP_TOKEN, open_door
from judge import assert_verified
from recording import SEED, assert_money_adds_up, click_id, edge, land, outcomes, owed, sale
from shipping import DAY_MS, database, eventually, now_ms
from tracker_process import running, tracker_environ, until
from visitor import Answer, Connection, one_connection_per_worker

from tracker.domain.postback import Status
from tracker.jobs.pending import PendingJob

COPIES = 100


@pytest.fixture
async def db(dsn: str) -> AsyncIterator[Any]:
    async with database(dsn) as connection:
        await connection.execute(SEED)
        yield connection


@pytest.mark.fault(19)
def test_a_hundred_copies_at_once_over_four_processes_are_one_sale(dsn: str, tmp_path: Path) -> None:
    """Two edges with two workers each: only what they share, the database, can hold them to one."""
    make_world(dsn, links=3)
    with ExitStack() as stack:
        environ = tracker_environ(dsn, tmp_path / "spool")
        edges = [stack.enter_context(running("edge", environ)) for _ in range(2)]
        processes = [one for tracker in edges for one in one_connection_per_worker(tracker.public_port, 2).values()]
        assert 4 == len(processes)
        token = processes[0].click().token
        until(lambda: value(dsn, "SELECT count(*) FROM clicks WHERE link_id = 1") == 1, "the click has a row")
        gate = threading.Barrier(len(processes))

        def send(connection: Connection) -> list[Answer]:
            gate.wait(20)
            return [connection.postback(click_id=token, txid="storm", amount="10") for _ in range(COPIES // 4)]

        with concurrent.futures.ThreadPoolExecutor(len(processes)) as pool:
            answers = [answer for said in pool.map(send, processes) for answer in said]
        for connection in processes:
            connection.close()
        assert {200: COPIES} == Counter(answer.status for answer in answers)
        assert {"recorded": 1, "duplicate": COPIES - 1} == Counter(answer.said["status"] for answer in answers)
        assert 1 == len({answer.said["conversion_id"] for answer in answers})
        assert [1, 1] == [value(dsn, f"SELECT count(*) FROM {table}") for table in ("conversions", "ledger")]
        assert_verified(environ)


@pytest.mark.fault(20)
async def test_in_every_order_a_reversed_sale_nets_to_nothing_also_before_its_click(dsn: str, db: Any, tmp_path: Path) -> None:
    """The reversal first of all, the sale after it, the click last: nothing is owed, and nothing is owed again."""
    async with AsyncExitStack() as stack:
        edges = [await stack.enter_async_context(edge(dsn, tmp_path)) for _ in range(2)]
        clicks = []
        for number, order in enumerate(permutations((None, Status.APPROVED, Status.REVERSED))):
            clicks.append(click_id())
            for turn, status in enumerate((*order, *order)):
                answer = await edges[turn % 2].post(sale(clicks[-1], txid=f"A-{number}", status=status))
                assert "pending_click" == answer.status
        for click in clicks[::2]:     # the others' rows never come
            await land(db, click)
        job = PendingJob(dsn, "control", wait_seconds=0.0)
        running_job = asyncio.create_task(job.run())
        await eventually(lambda: db.fetchval("SELECT NOT EXISTS (SELECT FROM pending)"))
        job.stop()
        await running_job
        for number, click in enumerate(clicks):     # the original sale once more
            assert "duplicate" == (await edges[0].post(sale(click, txid=f"A-{number}"))).status
    rows = await db.fetch("SELECT credit, status, commission_owed FROM conversion_state ORDER BY txid")
    assert [("click" if n % 2 == 0 else "id", "reversed", Decimal(0)) for n in range(6)] == [tuple(row) for row in rows]
    assert Decimal(0) == await owed(db)
    assert {"recorded", "updated", "duplicate"} == set(await outcomes(db))
    await assert_money_adds_up(db)


@pytest.mark.fault(21)
async def test_another_amount_is_told_at_the_door_and_changes_nothing(dsn: str, tmp_path: Path) -> None:
    """200, since sending it again would not help; what was recorded stands, and the other amount is kept for a person."""
    async with open_door(dsn, tmp_path) as door:
        told = {"click_id": door.click(), "txid": "A-1", "amount": "50", "token": SHOP_TOKEN}
        status, first = await door.send(params=told)
        assert (200, "recorded") == (status, first["status"])
        before = await door.db.fetchrow("SELECT amount, status, commission_owed, last_entry FROM conversion_state")
        for other in ({"amount": "51"}, {"currency": "USD"}, {"amount": "51", "status": "reversed"}, {"click_id": door.click()}):
            status, said = await door.send(params={**told, **other})
            assert (200, "conflict", first["conversion_id"]) == (status, said["status"], said["conversion_id"])
        assert before == await door.db.fetchrow("SELECT amount, status, commission_owed, last_entry FROM conversion_state")
        assert [Decimal(5)] == [row["amount"] for row in await door.db.fetch("SELECT amount FROM ledger")]
        kept = await door.db.fetch("SELECT reason, message FROM postback_log WHERE outcome = 'conflict' ORDER BY message_id")
        assert ["amount", "currency", "amount", "click"] == [row["reason"] for row in kept]
        assert '"amount": "51.00"' in kept[0]["message"]


@pytest.mark.fault(22)
@pytest.mark.parametrize("named", ["by order number", "by click"])
async def test_a_retry_three_months_later_is_not_paid_again(dsn: str, db: Any, tmp_path: Path, named: str) -> None:
    """The click's partition is archived by then, and a key that knew only recent conversions would know nothing of it."""
    txid = "A-1" if named == "by order number" else None
    click = await land(db)
    async with edge(dsn, tmp_path) as shop:
        assert "recorded" == (await shop.post(sale(click, txid=txid))).status
    archived = await db.fetchval("SELECT tableoid::regclass::text FROM clicks")
    await db.execute(f"ALTER TABLE clicks DETACH PARTITION {archived}; DROP TABLE {archived}")
    await db.execute("SELECT ensure_click_partitions((now() AT TIME ZONE 'UTC')::date + 85, 10)")
    before = await db.fetchrow("SELECT status, credit, partner_id, commission_owed FROM conversion_state")
    async with edge(dsn, tmp_path) as later:
        for status in (None, Status.APPROVED):
            answer = await later.post(sale(click, txid=txid, status=status, received_ms=now_ms() + 92 * DAY_MS))
            assert "duplicate" == answer.status
    assert before == await db.fetchrow("SELECT status, credit, partner_id, commission_owed FROM conversion_state")
    assert ("approved", "click", 13, Decimal(5)) == tuple(before)
    assert (1, 1) == (await db.fetchval("SELECT count(*) FROM conversions"), await db.fetchval("SELECT count(*) FROM ledger"))
    assert {"recorded": 1, "duplicate": 2} == await outcomes(db)
    await assert_money_adds_up(db)
