"""Refused postbacks: counted always, logged within bounds, played again when a mistake was mended."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest
from doors import OPEN, OTHER, OTHER_TOKEN, SHOP, SHOP_TOKEN, Door, open_door

from tracker.domain.click_id import ClickIdMaker, Keyring
from tracker.domain.refusal import Reason
from tracker.storage.conversions import refusals as refusals_module
from tracker.storage.conversions.refusals import MOST_WAITING, PER_SECOND, Refusal, Refusals


@pytest.fixture
async def door(dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Door]:
    monkeypatch.setattr(refusals_module, "FLUSH_SECONDS", 0.01)
    async with open_door(dsn, tmp_path) as opened:
        yield opened


async def until(true: Callable[[], object], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.01)


async def refuse(door: Door, **changes: str) -> None:
    """One refused sale, and its row in the log."""
    sale = {"click_id": door.click(), "txid": "A1", "amount": "20", "token": SHOP_TOKEN} | changes
    status, _ = await door.send(params=sale)
    assert 400 <= status < 500
    await until(lambda: door.refusals.written == sum(door.refusals.counts.values()))


async def retry(dsn: str, folder: Path, *arguments: str, keys: str = "") -> str:
    """What `tracker postbacks retry` prints, run as people run it; `keys` are further TRACKER_SECRET_KEYS."""
    environ = {
        **os.environ,
        "TRACKER_DATABASE_URL": dsn,
        "TRACKER_SPOOL_DIR": str(folder),
        "TRACKER_SECRET_KEYS": "0:" + base64.b64encode(b"0123456789abcdef").decode() + keys,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tracker", "postbacks", "retry", *arguments,
        env=environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert (0, b"") == (process.returncode, err)
    return " ".join(out.decode().split())


@pytest.mark.fault(25)
async def test_a_refusal_is_in_the_log_with_its_reason_and_without_secrets(door: Door) -> None:
    """People find their mistake there; a token in it would be a token for everybody who reads the log."""
    await refuse(door, amount="1,5", event="{event}", hello="x")
    [row] = await door.log()
    assert ("refused", "bad_amount", SHOP) == (row["outcome"], row["reason"], row["program_id"])
    message = json.loads(row["message"])
    assert {
        "amount": "1,5",
        "txid": "A1",
        "_unfilled": ["event"],
        "_credential_id": 11,
        "_ignored": ["hello"],
    }.items() <= message.items()
    assert row["click_id"] is not None
    assert door.now_ms == round(row["received_at"].timestamp() * 1000)
    assert SHOP_TOKEN not in row["message"]


async def test_a_flood_of_refusals_is_counted_and_hardly_logged(dsn: str) -> None:
    """Forgeries come by the thousand a second; PostgreSQL must see a hundred, memory must not grow."""
    now = 0.0
    refusals = Refusals(dsn, clock=lambda: now)
    for _ in range(5_000):
        if refusals.count(Reason.FORGED):
            refusals.keep(Refusal(Reason.FORGED, 1, {}))
    assert (5_000, 5_000 - PER_SECOND) == (refusals.counts[Reason.FORGED], refusals.dropped)
    for _ in range(20):
        now += 1.0
        while refusals.count(Reason.FORGED) and len(refusals._waiting) < 2 * MOST_WAITING:
            refusals.keep(Refusal(Reason.FORGED, 1, {}))
    assert MOST_WAITING == len(refusals._waiting)
    await refusals.stop()
    assert MOST_WAITING == refusals.written
    connection = await asyncpg.connect(dsn)
    assert MOST_WAITING == await connection.fetchval("SELECT count(*) FROM postback_log")
    await connection.close()


async def test_refusals_wait_for_postgres_and_hold_up_nobody(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are of use after an outage too, and stopping does not wait for one to end."""
    monkeypatch.setattr(refusals_module, "FLUSH_SECONDS", 0.01)
    monkeypatch.setattr(refusals_module, "RETRY_SECONDS", 0.01)
    refusals = Refusals("postgresql://nobody@127.0.0.1:1/none")
    refusals.start()
    assert refusals.count(Reason.BAD_TOKEN)
    refusals.keep(Refusal(Reason.BAD_TOKEN, 1, {}))
    await asyncio.sleep(0.05)
    assert 0 == refusals.written
    refusals._dsn, refusals._pool = dsn, None
    await until(lambda: refusals.written == 1)
    await refusals.stop()
    away = Refusals("postgresql://nobody@127.0.0.1:1/none")
    away.start()
    away.count(Reason.BAD_TOKEN)
    away.keep(Refusal(Reason.BAD_TOKEN, 1, {}))
    await away.stop()
    assert 1 == away.dropped


async def test_a_row_that_postgres_refuses_does_not_hold_up_the_next(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One poison row at the head of the queue would end the log."""
    monkeypatch.setattr(refusals_module, "FLUSH_SECONDS", 0.01)
    refusals = Refusals(dsn)
    refusals.start()
    refusals.keep(Refusal(Reason.BAD_AMOUNT, 1, {"txid": "\0"}))
    await until(lambda: refusals.dropped == 1)
    refusals.keep(Refusal(Reason.BAD_AMOUNT, 1, {"txid": "good"}))
    await until(lambda: refusals.written == 1)
    await refusals.stop()


async def test_a_retry_takes_what_the_credential_covers_by_now(door: Door, dsn: str, tmp_path: Path) -> None:
    """The token lacked the program; its sender never sends twice. Repeating the retry pays nobody twice."""
    await refuse(door, token=OTHER_TOKEN)
    assert "1 refused: wrong_program" == await retry(dsn, tmp_path)
    await door.db.execute("INSERT INTO credential_programs VALUES (12, 1)")
    assert "1 recorded" == await retry(dsn, tmp_path, "--since", "1h", "--reason", "wrong_program")
    assert "1 recorded" == await retry(dsn, tmp_path)
    assert (1, 1) == (
        await door.db.fetchval("SELECT count(*) FROM ledger"),
        await door.db.fetchval("SELECT count(*) FROM postback_log WHERE outcome = 'recorded'"),
    )
    status, kept = await door.send(params={"click_id": door.click(), "txid": "A1", "token": SHOP_TOKEN})
    assert (200, "conflict") == (status, kept["status"])


async def test_a_retry_never_believes_what_nobody_vouched_for(door: Door, dsn: str, tmp_path: Path) -> None:
    """Everything in the log of refusals was sent by anybody: a retry must not be the way around the door."""
    await refuse(door, token="wrong", amount="1")
    await refuse(door, click_id=door.click(OTHER), token="wrong")
    await refuse(door, click_id="0" * 32)
    forged = {"_credential_id": "11", "_program_id": "1", "currency": "XXZ"}
    await refuse(door, token="wrong", **forged)
    await refuse(door, click_id=door.click(OPEN), amount="-1", status="approved", token="")
    assert "nothing to play again" != (said := await retry(dsn, tmp_path))
    assert "1 refused: bad_amount" == said
    assert 0 == await door.db.fetchval("SELECT count(*) FROM conversion_state")


async def test_a_retry_with_a_key_that_was_missing_here_still_asks_who_vouched(
    door: Door, dsn: str, tmp_path: Path
) -> None:
    """An edge that lacked the newest key refused good sales, and bad ones of whoever held a click id."""
    newer = ClickIdMaker(keyring=Keyring(((1, b"fedcba9876543210"),)), worker=2, random_counter=lambda: 0)
    click = newer.make(door.now_ms, SHOP, not_spooled=True)[1].decode()
    await refuse(door, click_id=click, token="wrong")
    await refuse(door, click_id=click, txid="A2")
    assert "2 refused: unknown_key" == await retry(dsn, tmp_path)
    keys = ",1:" + base64.b64encode(b"fedcba9876543210").decode()
    assert "1 recorded 1 refused: bad_token" == await retry(dsn, tmp_path, keys=keys)
    assert "A2" == await door.db.fetchval("SELECT txid FROM conversion_state")


async def test_a_retry_after_the_program_was_made(door: Door, dsn: str, tmp_path: Path) -> None:
    """A coupon sale of a program that was missing here is taken once the program exists and the token covers it."""
    sale = {"click_id": "", "program": "late", "txid": "L1", "amount": "5", "token": SHOP_TOKEN}
    await refuse(door, **sale)
    await door.db.execute("INSERT INTO programs (program_id, slug, name, currency) VALUES (6, 'late', 'Late', 'EUR')")
    await door.db.execute("INSERT INTO credential_programs VALUES (11, 6)")
    assert "1 recorded" == await retry(dsn, tmp_path)
    [state] = await door.db.fetch("SELECT program_id, txid, partner_id FROM conversion_state")
    assert (6, "L1", None) == tuple(state)
    ids = [UUID(str(row["message_id"])) for row in await door.log()]
    assert 2 == len(set(ids))
