"""Draining a recorder when a worker ends: all that is there, within one deadline, whatever PostgreSQL does."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from proxy import Fault, proxied
from recording import A_GROUP_IS_WRITTEN, SEED, assert_money_adds_up, edge, land, outcomes, sale
from shipping import database, eventually

SECONDS = 2.0
SLACK = 1.5    # of a busy machine; two deadlines in a row would need another SECONDS


@pytest.fixture
async def db(dsn: str) -> AsyncIterator[Any]:
    async with database(dsn) as connection:
        await connection.execute(SEED)
        yield connection


async def test_everything_is_recorded_and_the_loop_has_ended(dsn: str, db: Any, tmp_path: Path) -> None:
    """Danger: what is left in the journal waits until somebody finds the dead spool."""
    click = await land(db)
    async with edge(dsn, tmp_path) as shop:
        shop.send(*(sale(click, txid=f"A-{n}") for n in range(600)))
        assert await shop.recorder.drain(20)
        assert not shop.recorder.connected
        assert {"recorded": 600} == await outcomes(db)


@pytest.mark.parametrize("said", [b"", A_GROUP_IS_WRITTEN], ids=["asked", "written"])
async def test_a_server_that_hangs_costs_the_deadline_once(dsn: str, db: Any, tmp_path: Path, said: bytes) -> None:
    """Danger: a worker that takes twice its time is killed by its orchestrator, in the middle of whatever comes after."""
    click = await land(db)
    async with proxied(dsn) as proxy:
        async with edge(proxy.dsn, tmp_path) as shop:
            await shop.post(sale(click, txid="first"))
            fault = proxy.fault = Fault("up", "hold", on=said)
            shop.send(sale(click))
            await fault.struck.wait()
            async with asyncio.timeout(SECONDS + SLACK):
                assert not await shop.recorder.drain(SECONDS)
        fault.deliver.set()
    async with edge(dsn, tmp_path) as another:
        assert (await another.post(sale(click, txid="later"))).status == "recorded"


async def test_a_connection_lost_while_draining_is_made_anew(dsn: str, db: Any, tmp_path: Path) -> None:
    """Danger: a failover during a deploy would leave the last sales of every worker behind."""
    click = await land(db)
    async with proxied(dsn) as proxy, edge(proxy.dsn, tmp_path) as shop:
        await shop.post(sale(click, txid="first"))
        fault = proxy.fault = Fault("up", "cut", on=A_GROUP_IS_WRITTEN)
        shop.send(sale(click))
        assert await shop.recorder.drain(20)
        assert fault.struck.is_set()
    assert {"recorded": 2} == await outcomes(db)
    await assert_money_adds_up(db)


async def test_a_held_key_is_waited_for(dsn: str, db: Any, tmp_path: Path) -> None:
    click = await land(db)
    async with edge(dsn, tmp_path) as shop, database(dsn) as person:
        await shop.post(sale(click))
        held = person.transaction()
        await held.start()
        await person.execute("SELECT * FROM conversion_state FOR UPDATE")
        shop.send(sale(click))
        draining = asyncio.create_task(shop.recorder.drain(20))
        await eventually(lambda: shop.recorder.counts.held == 1)
        await held.rollback()
        assert await draining
    assert {"recorded": 1, "duplicate": 1} == await outcomes(db)
