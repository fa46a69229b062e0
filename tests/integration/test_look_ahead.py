"""Groups that are prepared while others are committed: nothing that is under way bears on them, and nothing is lost of them."""

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from recording import SEED, Edge, answer_to, assert_money_adds_up, click_id, edge, land, outcomes, sale
from shipping import database, eventually

from tracker.domain.postback import Status
from tracker.storage.conversions import recorder, store
from tracker.storage.conversions.recorder import apply_journal
from tracker.storage.spool.reader import LogReader

LOOKING = """
    SELECT pid FROM pg_stat_activity AS a WHERE datname = current_database() AND application_name = 'tracker'
       AND NOT EXISTS (SELECT FROM spool_cursors AS c WHERE c.writer_pid = a.pid)
"""


@pytest.fixture(autouse=True)
def groups_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "MAX_GROUP", 2)
    monkeypatch.setattr(recorder, "LEAST_PREPARED", 1)


@pytest.fixture
async def db(dsn: str) -> AsyncIterator[Any]:
    async with database(dsn) as connection:
        await connection.execute(SEED)
        yield connection


@pytest.fixture
async def shop(dsn: str, db: Any, tmp_path: Path) -> AsyncIterator[Edge]:
    async with edge(dsn, tmp_path) as made:
        await made.post(sale(await land(db), txid="the first opens the connections"))
        yield made


async def test_each_group_but_the_first_is_prepared_while_the_one_before_is_committed(shop: Edge, db: Any) -> None:
    click = await land(db)
    answers = await asyncio.gather(*shop.send(*(sale(click, txid=f"A-{n}") for n in range(40))))
    assert ["recorded"] * 40 == [answer.status for answer in answers]
    assert (21, 19) == (shop.recorder.counts.groups, shop.recorder.counts.prepared)
    await assert_money_adds_up(db)


@asynccontextmanager
async def commits_held_up(dsn: str) -> AsyncIterator[None]:
    """No group is committed in here: somebody has locked the cursor."""
    async with database(dsn) as other, other.transaction():
        await other.execute("SELECT FROM spool_cursors FOR UPDATE")
        yield


async def test_a_message_whose_key_is_under_way_is_read_after_it(dsn: str, shop: Edge, db: Any) -> None:
    """Danger: prepared early, it would not see that its sale waits for a click, and be credited without it."""
    waiting, other = sale(click_id(), txid="waits"), sale(await land(db), txid="other")
    async with commits_held_up(dsn):
        sent = shop.send(waiting, other, sale(None, txid="new"), sale(None, txid="waits"))
        await eventually(lambda: shop.recorder.counts.prepared == 1)
    answers = await asyncio.gather(*sent)
    assert ["pending_click", "recorded", "recorded", "pending_click"] == [answer.status for answer in answers]


async def test_messages_of_known_sales_are_decided_by_what_the_group_before_left(shop: Edge, db: Any) -> None:
    click = await land(db)
    told = [sale(click, txid=f"A-{n}", status=status) for status in (None, Status.REVERSED, None) for n in range(6)]
    answers = await asyncio.gather(*shop.send(*told))
    assert Counter(recorded=6, updated=6, duplicate=6) == Counter(answer.status for answer in answers)
    assert shop.recorder.counts.prepared
    await assert_money_adds_up(db)


async def test_what_counts_against_a_limit_is_read_after_what_is_under_way(dsn: str, shop: Edge, db: Any) -> None:
    """The program's cap is 2 unconfirmed conversions a day."""
    click = await land(db)
    async with commits_held_up(dsn):
        sent = shop.send(*(sale(click, txid=f"A-{n}", limited=n != 2) for n in range(4)))
        await eventually(lambda: shop.recorder.counts.prepared == 1)
    assert ["recorded"] * 3 + ["refused"] == [answer.status for answer in await asyncio.gather(*sent)]


async def test_a_message_at_fault_in_a_prepared_group_is_quarantined_alone(shop: Edge, db: Any) -> None:
    click = await land(db)
    told = [sale(click, txid=f"A-{n}", program_id=999 if n == 5 else 7) for n in range(8)]
    answers = await asyncio.gather(*shop.send(*told))
    assert ["recorded"] * 5 + ["queued"] + ["recorded"] * 2 == [answer.status for answer in answers]
    assert {"recorded": 8, "quarantined": 1} == await outcomes(db)


async def test_a_row_that_is_no_message_is_quarantined_in_its_turn(shop: Edge, db: Any) -> None:
    click = await land(db)
    sent = shop.send(*(sale(click, txid=f"A-{n}") for n in range(5)))
    shop.journal._log.append([b"no message"])
    sent += shop.send(*(sale(click, txid=f"B-{n}") for n in range(5)))
    assert ["recorded"] * 10 == [answer.status for answer in await asyncio.gather(*sent)]
    assert 1 == await db.fetchval("SELECT rows_quarantined FROM spool_cursors WHERE log = 'journal'")


async def test_a_message_submitted_when_it_is_prepared_already_is_answered_when_it_is_committed(
    shop: Edge, db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in no log yet: `queued` would be untrue a moment later."""
    click = await land(db)
    prepared = asyncio.Event()

    async def prepare(*arguments: Any) -> Any:
        prepared.set()
        return await store.prepare(*arguments)

    monkeypatch.setattr("tracker.storage.conversions.recorder.prepare", prepare)
    under_way = shop.send(*(sale(click, txid=f"A-{n}") for n in range(2)))
    late = shop.journal.append([sale(click, txid=f"late {n}") for n in range(2)])
    await prepared.wait()
    answers = await asyncio.gather(*under_way, *(answer_to(shop.recorder, message) for message in late))
    assert ["recorded"] * 4 == [answer.status for answer in answers]


async def test_the_connection_that_looks_ahead_may_break_at_any_time(shop: Edge, db: Any) -> None:
    click = await land(db)
    sent = []
    for burst in range(10):
        sent += shop.send(*(sale(click, txid=f"{burst} {n}") for n in range(20)))
        await sent[-15]
        assert await db.fetch(f"SELECT pg_terminate_backend(pid) FROM ({LOOKING}) AS looking")
    answers = await asyncio.gather(*sent)
    assert {"recorded": 201} == await outcomes(db)
    assert ["recorded"] * 200 == [answer.status for answer in answers]
    assert 0 == shop.recorder.counts.retries
    await assert_money_adds_up(db)


async def test_a_postgres_with_one_connection_to_spare_records_everything(dsn: str, db: Any, tmp_path: Path) -> None:
    """Danger: with a second one refused, nobody would record, and each worker would hold what another could use."""
    role, click = f"narrow_{secrets.token_hex(4)}", await land(db)
    await db.execute(f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 1; GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
    async with edge(dsn.replace("://postgres@", f"://{role}@"), tmp_path) as shop:
        answers = await asyncio.gather(*shop.send(*(sale(click, txid=f"A-{n}") for n in range(20))))
    assert ["recorded"] * 20 == [answer.status for answer in answers]
    assert (0, 0) == (shop.recorder.counts.prepared, shop.recorder.counts.retries)
    await db.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_what_was_prepared_when_the_recorder_stopped_is_found_in_the_journal(dsn: str, db: Any, tmp_path: Path) -> None:
    click = await land(db)
    async with edge(dsn, tmp_path) as shop:
        sent = shop.send(*(sale(click, txid=f"A-{n}") for n in range(40)))
        await sent[7]
        await shop.recorder.stop()
        committed = shop.recorder.next_seq
        assert 8 <= committed < 40
        reader = LogReader(shop.path, "journal", spool_id=shop.spool_id)
        assert await apply_journal(dsn, shop.spool_id, reader)
    assert {"recorded": 40} == await outcomes(db)
    await assert_money_adds_up(db)


async def test_two_edges_that_prepare_the_same_sales_record_each_once(dsn: str, db: Any, tmp_path: Path) -> None:
    """Danger: both read that a sale is new. The later one finds its row there, and reads again."""
    click = await land(db)
    async with edge(dsn, tmp_path) as one, edge(dsn, tmp_path) as other:
        sent = [future for shop in (one, other) for future in shop.send(*(sale(click, txid=f"A-{n}") for n in range(40)))]
        await eventually(lambda: all(future.done() for future in sent))
    assert {"recorded": 40, "duplicate": 40} == await outcomes(db)
    await assert_money_adds_up(db)
