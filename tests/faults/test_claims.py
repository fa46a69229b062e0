"""Two at one row at one moment: what the second decides, it decides from what the first has committed."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from proxy import Fault, proxied
from recording import SEED, assert_money_adds_up, edge, land, outcomes, owed, sale
from shipping import assert_conserved, click_row, database, eventually, live_spool

from tracker.domain.postback import Postback, Status
from tracker.storage.conversions.store import apply_messages
from tracker.storage.conversions.transaction import NoMark, Transaction

SOMEBODY_WAITS = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"


@pytest.fixture
async def db(dsn: str) -> AsyncIterator[Any]:
    async with database(dsn) as connection:
        await connection.execute(SEED)
        yield connection


class Uncommitted(NoMark):
    """Leaves the transaction open."""

    async def commit(self, connection: Any) -> None:
        pass


async def apply_uncommitted(connection: Any, message: Postback) -> list[str]:
    """What another edge has decided of a message, and not committed yet."""
    answers = await apply_messages(Transaction(connection, [message], Uncommitted()), [message])
    return [answer.status for answer in answers.values()]


@pytest.mark.fault(19, 20)
async def test_a_decision_is_made_from_what_the_claim_found(dsn: str, db: Any, tmp_path: Path) -> None:
    """Danger: an edge that reads, decides, and only then claims writes an approved sale over a reversal it never saw.

    Most such races end in a key of the ledger that is taken; this one does not, since a repeated approval writes no entry.
    """
    click = await land(db)
    async with edge(dsn, tmp_path) as shop, database(dsn) as other_edge:
        assert "recorded" == (await shop.post(sale(click))).status
        reversal = replace(sale(None, amount=None, currency=None, status=Status.REVERSED), message_id=b"r" * 16)
        assert ["updated"] == await apply_uncommitted(other_edge, reversal)
        sent = asyncio.ensure_future(shop.post(sale(click, status=Status.APPROVED)))
        await eventually(lambda: db.fetchval(SOMEBODY_WAITS))
        await other_edge.execute("COMMIT")
        assert "duplicate" == (await sent).status
    assert ("reversed", Decimal(0)) == tuple(await db.fetchrow("SELECT status, commission_owed FROM conversion_state"))
    assert Decimal(0) == await owed(db)
    assert {"recorded": 1, "updated": 1, "duplicate": 1} == await outcomes(db)
    await assert_money_adds_up(db)


@pytest.mark.fault(19)
async def test_a_new_sale_told_to_two_edges_at_once_is_recorded_by_one(dsn: str, db: Any, tmp_path: Path) -> None:
    """Danger: neither sees the other's row before it is committed; the second must find out, wait, and decide anew."""
    click = await land(db)
    async with edge(dsn, tmp_path) as shop, database(dsn) as other_edge:
        assert ["recorded"] == await apply_uncommitted(other_edge, replace(sale(click), message_id=b"f" * 16))
        sent = asyncio.ensure_future(shop.post(sale(click)))
        await eventually(lambda: db.fetchval(SOMEBODY_WAITS))
        await other_edge.execute("COMMIT")
        assert "duplicate" == (await sent).status
    assert {"recorded": 1, "duplicate": 1} == await outcomes(db)
    assert Decimal(5) == await owed(db)
    await assert_money_adds_up(db)


@pytest.mark.fault(19)
async def test_edges_with_the_same_new_sales_wait_for_each_other_but_never_in_a_circle(dsn: str, db: Any, tmp_path: Path) -> None:
    """Danger: a deadlock ends one of the two after a second, again and again while both have the same to tell."""
    click = await land(db)
    async with edge(dsn, tmp_path) as one, edge(dsn, tmp_path) as another:
        for turn in range(10):
            told = [sale(click, txid=f"{turn}-{number}") for number in range(40)]
            answers = await asyncio.gather(*one.send(*told), *another.send(*reversed(told)))
            assert 40 == sum(answer.status == "recorded" for answer in answers)
        assert (0, 0) == (one.recorder.counts.quarantined, another.recorder.counts.quarantined)
    assert {"recorded": 400, "duplicate": 400} == await outcomes(db)
    await db.execute("SELECT pg_stat_force_next_flush()")
    assert 0 == await db.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    await assert_money_adds_up(db)


@pytest.mark.fault(9)
async def test_a_mark_is_read_after_the_commit_that_was_still_on_its_way(dsn: str, tmp_path: Path) -> None:
    """Danger: a mark read without its lock is the old one while the lost connection's COMMIT arrives: all would be sent again."""
    async with proxied(dsn) as proxy, database(dsn) as db, live_spool(tmp_path) as spool:
        spool.append([click_row() for _ in range(3)])
        shipper = spool.shipper(proxy.dsn)
        await shipper._claimed()
        fault = proxy.fault = Fault("up", "late", on=b"COMMIT")
        draining = asyncio.create_task(shipper.drain(20))
        await eventually(lambda: db.fetchval(SOMEBODY_WAITS))
        fault.deliver.set()
        assert await draining
        assert (1, 0, 3) == (shipper.counts.ambiguous_commits, shipper.counts.duplicates, shipper.counts.rows)
        await assert_conserved(db, spool.spool_id, 3)
