"""What becomes of a group of messages when something is wrong with one of them, or with the session: beside test_recorder.py."""

from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest
from recording import SEED, assert_money_adds_up, edge, land, outcomes, owed, sale
from shipping import database

from tracker.domain.postback import Postback
from tracker.jobs.lease import LeaseLostError
from tracker.storage.conversions import store as conversion_store
from tracker.storage.conversions.group_commit import Fault, fault_of
from tracker.storage.conversions.journal import read_journal
from tracker.storage.conversions.replay import replay
from tracker.storage.postgres import Unavailable
from tracker.storage.spool.cursor import CursorMovedError


@pytest.fixture
async def db(dsn: str) -> AsyncIterator[Any]:
    async with database(dsn) as connection:
        await connection.execute(SEED)
        yield connection


async def test_recorded_is_durable_whatever_the_roles_default(dsn: str, db: Any, tmp_path: Path) -> None:
    """Danger: under a role with synchronous_commit off, `recorded` would be said of what a power cut takes back."""
    await db.execute("""
        DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET synchronous_commit = off', current_database()); END $$;
        CREATE TABLE seen (place text, setting text);
        CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN INSERT INTO seen VALUES (TG_TABLE_NAME, current_setting('synchronous_commit')); RETURN NULL; END $$;
        CREATE TRIGGER look AFTER INSERT ON postback_log FOR EACH ROW EXECUTE FUNCTION look();
        CREATE TRIGGER look AFTER INSERT ON quarantine FOR EACH ROW EXECUTE FUNCTION look();
    """)
    click = await land(db)
    async with edge(dsn, tmp_path) as shop:
        shop.journal._log.append([b"no message"])
        answers = [await shop.post(sale(click)), await shop.post(sale(click, customer="nul \0"))]
    assert ["recorded", "queued"] == [answer.status for answer in answers]
    seen = [tuple(row) for row in await db.fetch("SELECT DISTINCT * FROM seen ORDER BY 1")]
    assert [("postback_log", "on"), ("quarantine", "on")] == seen


@pytest.mark.parametrize("error", [AttributeError, AssertionError, RecursionError, KeyError])
async def test_a_bug_in_deciding_costs_the_message_that_meets_it(
    dsn: str, db: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """Danger: raised, it ends the worker, and each that follows by the same message: no sale is recorded any more."""
    fold = vars(conversion_store)["fold"]

    def stumbling(before: Any, message: Postback, *rest: Any) -> Any:
        if message.txid == "A-5":
            raise error("nobody thought of this")
        return fold(before, message, *rest)

    monkeypatch.setattr(conversion_store, "fold", stumbling)
    click = await land(db)
    async with edge(dsn, tmp_path) as shop:
        answers = [await future for future in shop.send(*(sale(click, txid=f"A-{n}") for n in range(9)))]
    assert ["recorded"] * 5 + ["queued"] + ["recorded"] * 3 == [answer.status for answer in answers]
    assert {"recorded": 8, "quarantined": 1} == await outcomes(db)
    await assert_money_adds_up(db)


@pytest.mark.parametrize("odd", [
    {"txid": 5}, {"received_ms": "now"}, {"program_id": 2**40}, {"click_id": "ab"}, {"event": None}, {"status": "on hold"},
    {"amount": 1.5},
])
async def test_a_row_of_odd_types_is_set_aside_before_anybody_works_with_it(
    dsn: str, db: Any, tmp_path: Path, odd: dict[str, Any]
) -> None:
    """Danger: what is valid JSON and no message would fail in places where nothing catches it."""
    click = await land(db)
    row = orjson.dumps({"v": 1, **sale(click).to_json(), **odd})
    async with edge(dsn, tmp_path) as shop:
        shop.journal._log.append([row])
        assert "recorded" == (await shop.post(sale(click))).status
    assert [row] == [kept["record"] for kept in await db.fetch("SELECT record FROM quarantine")]


def test_outages_and_moved_marks_are_never_blamed_on_a_message() -> None:
    """Danger: an outage taken for data would quarantine every sale that came while it lasted."""
    assert {Fault.OUTAGE} == {fault_of(kind("")) for kind in (*Unavailable, CursorMovedError, LeaseLostError)}


async def test_a_replay_tries_again_what_was_quarantined(dsn: str, db: Any, tmp_path: Path) -> None:
    """Danger: a restore without the program quarantines its sales; with the program back, no replay would ever pay them."""
    click = await land(db)
    async with edge(dsn, tmp_path) as shop:
        assert "queued" == (await shop.post(replace(sale(click), program_id=99))).status
        assert "recorded" == (await shop.post(sale(click, txid="fine"))).status
        await shop.recorder.stop()
        kept = [message for message in read_journal(shop.path) if isinstance(message, Postback)]
    assert {"queued": 1, "recorded": 1} == await replay(db, kept)
    assert {"quarantined": 1, "recorded": 1} == await outcomes(db)
    await db.execute("INSERT INTO programs (program_id, slug, name, currency) VALUES (99, 'back', 'Back', 'EUR')")
    assert {"recorded": 2} == await replay(db, kept)
    assert {"recorded": 2} == await outcomes(db)
    reason, conversion_id = await db.fetchrow("SELECT reason, conversion_id FROM postback_log WHERE program_id = 99")
    assert (None, True) == (reason, conversion_id is not None)
    assert {"recorded": 2} == await replay(db, kept)
    assert 2 == await db.fetchval("SELECT count(*) FROM conversions")
    assert Decimal(5) == await owed(db)
    await assert_money_adds_up(db)
