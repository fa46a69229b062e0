"""What becomes of a group of messages when something is wrong with one of them, or with the session: beside test_recorder.py."""

from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from recording import SEED, assert_money_adds_up, edge, land, outcomes, owed, sale
from shipping import database

from tracker.domain.postback import Postback
from tracker.storage.journal import read_journal
from tracker.storage.recorder import replay


@pytest.fixture
async def db(dsn: str) -> AsyncIterator[Any]:
    async with database(dsn) as connection:
        await connection.execute(SEED)
        yield connection


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
