"""Postbacks that come before their click's row: kept, resolved once by whoever holds the lease, never lost, never paid twice."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from recording import CREDENTIAL, SEED, assert_money_adds_up, click_id, edge, land, outcomes, owed, sale
from shipping import DAY_MS, database, eventually, now_ms

from tracker.domain.postback import Status
from tracker.jobs import pending
from tracker.jobs.lease import Lease, LeaseLostError
from tracker.jobs.pending import PendingJob


@pytest.fixture
async def db(dsn: str) -> AsyncIterator[Any]:
    async with database(dsn) as connection:
        await connection.execute(SEED)
        yield connection


@asynccontextmanager
async def control(dsn: str, holder: str = "control-1", **options: Any) -> AsyncIterator[PendingJob]:
    job = PendingJob(dsn, holder, **options)
    task = asyncio.create_task(job.run())
    try:
        yield job
    finally:
        job.stop()
        await task


def drained(db: Any) -> Any:
    async def empty() -> bool:
        return not await db.fetchval("SELECT EXISTS (SELECT FROM pending)")
    return empty


@pytest.mark.fault(20)
async def test_a_sale_before_its_click_waits_and_is_credited_when_it_lands(dsn: str, db: Any, tmp_path: Path) -> None:
    """Danger: a shop posts back in the second of the click; refused or uncredited, the partner is never paid."""
    click = click_id()
    async with edge(dsn, tmp_path) as shop, control(dsn):
        first = await shop.post(sale(click))
        behind = await shop.post(sale(None, status=Status.APPROVED))
        assert ["pending_click", "pending_click"] == [first.status, behind.status]
        assert first.conversion_id == behind.conversion_id is not None
        assert 0 == await db.fetchval("SELECT count(*) FROM conversion_state")
        await land(db, click)
        await eventually(drained(db), seconds=5)
    assert ("click", 13) == tuple(await db.fetchrow("SELECT credit, partner_id FROM conversion_state"))
    assert {"recorded": 1, "duplicate": 1} == await outcomes(db)
    assert Decimal(5) == await owed(db)
    await assert_money_adds_up(db)


async def test_polling_alone_is_enough(dsn: str, db: Any, tmp_path: Path) -> None:
    click = click_id(now_ms() - 20 * DAY_MS)
    async with edge(dsn, tmp_path) as shop, control(dsn):
        await shop.post(sale(click))
        await land(db, click, table="clicks_stray")
        await eventually(drained(db), seconds=5)
    assert "click" == await db.fetchval("SELECT credit FROM conversion_state")


async def test_other_keys_do_not_wait(dsn: str, db: Any, tmp_path: Path) -> None:
    here, away = await land(db), click_id()
    async with edge(dsn, tmp_path) as shop:
        answers = await asyncio.gather(*shop.send(sale(away, txid="1"), sale(here, txid="2"), sale(here, txid="1")))
    assert ["pending_click", "recorded", "pending_click"] == [answer.status for answer in answers]


@pytest.mark.fault(20)
async def test_after_the_wait_it_is_credited_from_the_id_and_the_row_is_attached_when_it_lands(
    dsn: str, db: Any, tmp_path: Path
) -> None:
    click = click_id()
    async with edge(dsn, tmp_path) as shop:
        await shop.post(sale(click))
        async with control(dsn, wait_seconds=0.0):
            await eventually(drained(db))
        credited = await db.fetchrow("SELECT credit, partner_id, commission_owed FROM conversion_state")
        assert ("id", 13, Decimal(5)) == tuple(credited)
        assert "duplicate" == (await shop.post(sale(click))).status   # the row is not awaited again
        await land(db, click)
        async with control(dsn, "control-2"):
            await eventually(lambda: db.fetchval("SELECT credit = 'click' FROM conversion_state"))
    assert ["recorded", "attached"] == [r["change"] for r in await db.fetch("SELECT change FROM conversion_history ORDER BY entry")]
    assert Decimal(5) == await owed(db)
    await assert_money_adds_up(db)


async def test_an_unknown_link_waits_and_its_program_is_found_or_the_message_refused(
    dsn: str, db: Any, tmp_path: Path
) -> None:
    """The credential vouched provisionally: for a program that it does not cover nothing may ever be recorded."""
    click, foreign = click_id(), click_id()
    async with edge(dsn, tmp_path) as shop, control(dsn):
        unknown = {"program_id": None, "credential_id": CREDENTIAL}
        answers = [
            await shop.post(sale(click, txid="mine", link_id=21, **unknown)),
            await shop.post(sale(foreign, txid="other's", link_id=22, **unknown)),
        ]
        assert [("pending_click", None)] * 2 == [(answer.status, answer.conversion_id) for answer in answers]
        await db.execute("""
            INSERT INTO links (link_id, slug, program_id, partner_id, destination)
            VALUES (21, 'late', 7, 13, 'https://shop.example/'), (22, 'foreign', 8, 13, 'https://other.example/')
        """)
        await land(db, click)
        await eventually(drained(db))
    assert {"recorded": 1, "refused": 1} == await outcomes(db)
    refused = await db.fetchrow("SELECT reason, program_id FROM postback_log WHERE outcome = 'refused'")
    assert ("wrong_program", 8) == tuple(refused)
    assert ["mine"] == [row["txid"] for row in await db.fetch("SELECT txid FROM conversions")]


async def test_a_provisional_credential_must_be_of_the_kind_that_the_program_asks_for(
    dsn: str, db: Any, tmp_path: Path
) -> None:
    """Danger: a program moved from tokens to signatures would still be spoken for by an old token, through an unknown link."""
    click = click_id()
    await db.execute("UPDATE programs SET auth_mode = 'hmac' WHERE program_id = 7")
    async with edge(dsn, tmp_path) as shop, control(dsn):
        await shop.post(sale(click, program_id=None, credential_id=CREDENTIAL))
        await eventually(drained(db))
    assert "wrong_program" == await db.fetchval("SELECT reason FROM postback_log WHERE outcome = 'refused'")
    assert 0 == await db.fetchval("SELECT count(*) FROM conversion_state")


async def test_rows_are_attached_to_all_conversions_of_one_commit(
    dsn: str, db: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Danger: a group's conversions have one created_at. Paged by it alone, a page of clicks that never land hides the rest."""
    monkeypatch.setattr(pending, "PAGE", 2)
    monkeypatch.setattr(pending, "ATTACH_EVERY", 2)
    async with edge(dsn, tmp_path) as shop:
        await asyncio.gather(*shop.send(*(sale(click_id(), txid=str(n)) for n in range(5))))
    async with control(dsn, wait_seconds=0.0):
        await eventually(drained(db))
        await db.execute("UPDATE conversion_state SET created_at = now()")
        for row in await db.fetch("SELECT click_id FROM conversion_state ORDER BY conversion_id OFFSET 2"):
            await land(db, row["click_id"].bytes)
        await eventually(lambda: db.fetchval("SELECT count(*) = 3 FROM conversion_state WHERE credit = 'click'"))
    assert 3 == await db.fetchval("SELECT count(*) FROM conversion_history WHERE change = 'attached'")


async def test_two_controls_and_four_hundred_waiting_messages_are_resolved_once(dsn: str, db: Any, tmp_path: Path) -> None:
    click = click_id()
    async with edge(dsn, tmp_path) as shop, control(dsn), control(dsn, "control-2"):
        answers = await asyncio.gather(*shop.send(*(sale(click, txid=f"A-{n % 200}") for n in range(400))))
        assert {"pending_click"} == {answer.status for answer in answers}
        await land(db, click)
        await eventually(drained(db))
    assert {"recorded": 200, "duplicate": 200} == await outcomes(db)
    assert Decimal(1000) == await owed(db)
    await assert_money_adds_up(db)


@pytest.mark.parametrize("spoiled", [
    '{"ts_ms": 1000000000000000000}', '{"program_id": 99}', '{"status": "on_hold"}', '{"link_id": "eleven"}',
])
async def test_a_waiting_message_that_cannot_be_stored_is_quarantined_alone(
    dsn: str, db: Any, tmp_path: Path, spoiled: str
) -> None:
    """Danger: one row of a newer version, after a rollback, would end the job, and every sale before its click is unpaid."""
    click = click_id()
    async with edge(dsn, tmp_path) as shop, control(dsn):
        await asyncio.gather(*shop.send(*(sale(click, txid=f"A-{n}") for n in range(8))))
        await db.execute("UPDATE pending SET message = message || $1 WHERE message ->> 'txid' = 'A-3'", spoiled)
        await land(db, click)
        await eventually(drained(db))
    assert {"recorded": 7, "quarantined": 1} == await outcomes(db)
    await assert_money_adds_up(db)


async def test_a_waiting_message_with_a_field_of_a_newer_version_is_resolved(dsn: str, db: Any, tmp_path: Path) -> None:
    """Danger: a rollback would set aside what the newer program took: sales that every version understands."""
    click, unknown = click_id(), click_id()
    async with edge(dsn, tmp_path) as shop, control(dsn):
        await shop.post(sale(click))
        await shop.post(sale(unknown, txid="A-2", program_id=None, credential_id=CREDENTIAL))
        await db.execute("""UPDATE pending SET message = message || '{"shoe_size": 43}'""")
        await land(db, unknown)
        await land(db, click)
        await eventually(drained(db))
    assert {"recorded": 2} == await outcomes(db)


async def test_a_row_without_program_that_is_no_message_holds_up_nobody(dsn: str, db: Any, tmp_path: Path) -> None:
    click = click_id()
    async with edge(dsn, tmp_path) as shop:
        for txid in ("A-1", "A-2"):
            await shop.post(sale(click, txid=txid, program_id=None, credential_id=CREDENTIAL))
        await db.execute("""UPDATE pending SET message = '[]' WHERE message ->> 'txid' = 'A-1'""")
        await land(db, click)
        async with control(dsn):
            await eventually(drained(db))
    assert {"recorded": 1, "quarantined": 1} == await outcomes(db)


@pytest.mark.parametrize("busy", [True, False])
@pytest.mark.parametrize("end", ["stop", "cancel"])
async def test_the_lease_is_given_back_however_the_job_ends(dsn: str, db: Any, tmp_path: Path, *, busy: bool, end: str) -> None:
    """Danger: after each restart of control, waiting sales would stand still for the ten seconds that a lease lasts."""
    async with edge(dsn, tmp_path) as shop:
        await shop.post(sale(click_id()))
    job = PendingJob(dsn, "control", wait_seconds=0.0 if busy else 900.0)
    async with database(dsn) as person, person.transaction():
        if busy:
            await person.execute("LOCK TABLE conversion_state")
        running = asyncio.create_task(job.run())
        await eventually(lambda: db.fetchval("SELECT EXISTS (SELECT FROM job_leases)"))
        if busy:
            await eventually(lambda: db.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"))
        job.stop() if end == "stop" else running.cancel()
        await asyncio.wait([running])
    assert (end == "cancel") == running.cancelled()
    assert 0 == await db.fetchval("SELECT count(*) FROM job_leases")


async def test_a_lease_is_one_holders_until_it_expires(db: Any, dsn: str) -> None:
    async with database(dsn) as other:
        first, second = Lease("job", "one"), Lease("job", "two")
        assert await first.acquire(db)
        assert await first.acquire(db)
        assert not await second.acquire(other)
        await db.execute("UPDATE job_leases SET expires_at = clock_timestamp()")
        assert await second.acquire(other)
        with pytest.raises(LeaseLostError):
            await first.fence(db)
        await second.release(other)
        assert await first.acquire(db)


async def test_a_holder_that_was_frozen_commits_nothing_after_its_lease_was_taken(dsn: str, db: Any, tmp_path: Path) -> None:
    """Danger: a process stopped in the middle of a poll goes on minutes later, beside the one that took over."""
    click = await land(db)
    async with edge(dsn, tmp_path) as shop:
        await shop.post(sale(click_id(), txid="waits"))
    job = PendingJob(dsn, "frozen", wait_seconds=0.0)
    await Lease("pending", "taker").acquire(db)
    async with database(dsn) as connection:
        with pytest.raises(LeaseLostError):
            await job.poll(connection)
    assert click
    assert 0 == await db.fetchval("SELECT count(*) FROM conversion_state")


@pytest.mark.parametrize("table", ["conversions", "conversion_history", "ledger"])
@pytest.mark.parametrize("statement", ["UPDATE {} SET conversion_id = conversion_id", "DELETE FROM {}"])
async def test_what_was_written_about_money_is_never_changed(db: Any, table: str, statement: str) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await db.execute(statement.format(table))


async def test_each_look_up_by_id_uses_an_index(db: Any) -> None:
    """Danger: `pending` is empty in tests and long in an outage, when every group asks it."""
    await db.execute("SET enable_seqscan = off")
    for question in ("conversion_id = $1", "message_id = $1", "click_id = $1"):
        plan = await db.fetchval(f"EXPLAIN (FORMAT JSON) SELECT * FROM pending WHERE {question}", UUID(int=1))
        assert "Index" in plan
