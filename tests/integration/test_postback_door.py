"""The postback door over real HTTP, catalog, spool and PostgreSQL: what is answered, kept, and never said."""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import asyncpg
import pytest
from doors import (
    HMAC_SECRETS,
    LISTED,
    OLD_TOKEN,
    OPEN,
    OTHER_TOKEN,
    SHOP,
    SHOP_TOKEN,
    SIGNED,
    SPOOL_ID,
    Door,
    open_door,
)
from lane_server import HttpOnlyLanes
from postgres_fixtures import SCHEMA, PostgresFactory
from shipping import eventually

from tracker.domain.refusal import Reason
from tracker.storage.catalog import look_ups
from tracker.storage.conversions.journal import read_journal
from tracker.storage.spool.log import SpoolUnavailable
from tracker.web import postback_keeping
from tracker.web.fastlane import Lanes
from tracker.web.postback_auth import sign, signed_part


@pytest.fixture(params=[Lanes, HttpOnlyLanes], ids=["fast lane", "aiohttp"])
async def door(dsn: str, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Door]:
    async with open_door(dsn, tmp_path, lanes=request.param) as opened:
        yield opened


def journal_of(door: Door) -> list[Any]:
    return list(read_journal(door.spool.path))


async def test_a_sale_is_recorded_once_in_every_spelling(door: Door) -> None:
    """GET, form, JSON and a repeated delivery are one sale: anything else pays twice or answers with another id."""
    sale = {"click_id": door.click(), "amount": "20.00", "currency": "eur", "txid": "A1", "token": SHOP_TOKEN}
    status, first = await door.send(params=sale)
    assert (200, "recorded") == (status, first["status"])
    rest = [
        await door.send(params=sale),
        await door.send("POST", data=sale),
        await door.send("POST", json={**sale, "amount": 20}),
        await door.send("POST", params={"token": SHOP_TOKEN}, json={k: v for k, v in sale.items() if k != "token"}),
        await door.send("POST", data=urlencode(sale), headers={"Content-Type": "application/x-www-form-urlencoded"}),
        await door.send("POST", params=sale),
        await door.send(
            params={k: v for k, v in sale.items() if k != "token"}, headers={"Authorization": f"bearer {SHOP_TOKEN}"}
        ),
    ]
    assert [(200, {"status": "duplicate", "conversion_id": first["conversion_id"]})] * len(rest) == rest
    assert 1 == await door.db.fetchval("SELECT count(*) FROM ledger")
    assert {"recorded": 1, "duplicate": 7} == door.door.intake.answered
    assert 8 == len(door.durations)


async def test_the_journal_has_the_message_before_the_recorder_and_without_secrets(door: Door) -> None:
    """The journal is what a lost commit is refilled from, and it outlives tokens: it must hold all but them."""
    await door.send(
        params={"click_id": door.click(), "amount": "1", "token": SHOP_TOKEN, "apikey": SHOP_TOKEN, "a": "b"}
    )
    [message] = journal_of(door)
    assert SPOOL_ID.to_bytes(8, "big") + bytes(8) == message.message_id
    assert ("EUR", 11, 1) == (message.currency, message.credential_id, message.program_id)
    for file in door.spool.path.iterdir():
        assert SHOP_TOKEN.encode() not in file.read_bytes()
    assert SHOP_TOKEN not in str([dict(row) for row in await door.log()])


@pytest.mark.parametrize("spoil", ["forged", "cut", "foreign", "long", "other_link", "empty"])
async def test_a_bad_click_id_is_refused_without_a_question_to_postgres(door: Door, spoil: str) -> None:
    """Anybody can invent ids: they may cost a hash, never a query, a journal row or a lookup."""
    token = door.click()
    bad = {
        "forged": token[:-1] + ("a" if token[-1] != "a" else "b"), "cut": token[:20], "foreign": "x" * 36,
        "long": "a" * 8000,
        "other_link": token[:11] + "00000a" + token[17:], "empty": "",
    }[spoil]  # fmt: skip
    status, problem = await door.send(params={"click_id": bad, "amount": "1", "token": SHOP_TOKEN})
    assert (400, "missing_click_id" if spoil == "empty" else "bad_click_id") == (status, problem["code"])
    assert "application/problem+json" == door.headers["Content-Type"]
    assert (0, 0) == (door.spool.journal.next_seq, door.catalog.look_ups.asked)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"token": "wrong"}, (401, "bad_token")), ({"token": SHOP_TOKEN.upper()}, (401, "bad_token")),
        ({"token": None}, (401, "bad_token")), ({"token": OLD_TOKEN}, (401, "bad_token")),
        ({"token": "{token}"}, (401, "bad_token")),
        ({"token": "\ud800".encode("utf-8", "surrogatepass")}, (401, "bad_token")),
        ({"token": OTHER_TOKEN}, (403, "wrong_program")), ({"program": "other"}, (403, "wrong_program")),
        ({"amount": "-1"}, (400, "bad_amount")), ({"currency": "XXZ"}, (400, "bad_currency")),
        ({"status": "paid"}, (400, "bad_status")), ({"ts": "soon"}, (400, "bad_ts")),
        ({"txid": "x" * 257}, (400, "bad_txid")),
        ({"amount": "-1", "token": "wrong"}, (401, "bad_token")),
    ],
)  # fmt: skip
async def test_what_is_refused_says_why_and_echoes_nothing(door: Door, changes: Any, expected: tuple[int, str]) -> None:
    """A sender acts on the code; who is unknown does not learn what else was wrong."""
    sale = {"click_id": door.click(), "amount": "20", "txid": "echo-me", "token": SHOP_TOKEN, **changes}
    status, problem = await door.send(params=urlencode({k: v for k, v in sale.items() if v is not None}))
    assert expected == (status, problem["code"])
    assert "echo-me" not in json.dumps(problem)
    assert 0 == door.spool.journal.next_seq
    assert 1 == sum(door.refusals.counts.values())
    assert ({"refused": 1}, 1) == (door.door.intake.answered, len(door.durations))


async def test_equal_repeats_are_one_value_and_others_are_refused(door: Door) -> None:
    """Whichever of two amounts a server picks, somebody relies on the other."""
    base = urlencode({"click_id": door.click(), "token": SHOP_TOKEN})
    assert (400, "repeated_parameter") == await code_of(door, base + "&amount=1&amount=2")
    assert (400, "repeated_parameter") == await code_of(door, base + "&amount=1&token=other")
    status, kept = await door.send(params=base + "&amount=1&amount=1&amount={amount}")
    assert (200, "recorded") == (status, kept["status"])
    headers = {"Authorization": "Bearer another"}
    assert 400 == (await door.send(params=base, headers=headers))[0]


async def code_of(door: Door, query: str) -> tuple[int, str]:
    status, problem = await door.send(params=query)
    return status, problem["code"]


async def test_unfilled_macros_are_named_to_the_sender(door: Door) -> None:
    """The commonest mistake of a first set-up must be readable in the answer, kept or not."""
    status, kept = await door.send(
        params={"click_id": door.click(), "txid": "{{txid}}", "amount": "", "token": SHOP_TOKEN}
    )
    assert (200, "recorded", ["amount", "txid"]) == (status, kept["status"], kept["absent"])
    status, problem = await door.send(params={"click_id": "{click_id}", "amount": "1", "token": SHOP_TOKEN})
    assert (400, "missing_click_id", "unfilled_macro", ["click_id"]) == (
        status, problem["code"], problem["reason"], problem["absent"],
    )  # fmt: skip


async def test_a_sale_without_a_click_is_credited_by_its_coupon(door: Door) -> None:
    """A code read out in a podcast has no click; program and order number make the key."""
    await door.db.execute("INSERT INTO coupons VALUES (1, 1, 9, 'SAVE', '2020-01-01')")
    sale = {"program": "shop", "coupon": "save", "txid": "C1", "amount": "50", "token": SHOP_TOKEN}
    status, kept = await door.send(params=sale)
    assert (200, "recorded") == (status, kept["status"])
    assert 9 == await door.db.fetchval("SELECT partner_id FROM conversion_state")
    assert (400, "missing_txid") == await code_of(door, urlencode({**sale, "txid": ""}))
    assert (401, "bad_token") == await code_of(door, urlencode({**sale, "token": "x", "program": "nobody"}))
    assert (403, "wrong_program") == await code_of(door, urlencode({**sale, "program": "nobody"}))
    assert (401, "bad_token") == await code_of(door, urlencode({**sale, "program": "open"}))


@pytest.mark.fault(18, 24)
async def test_signed_postbacks_are_believed_for_five_minutes_under_either_secret(door: Door) -> None:
    """During rotation senders sign with the old or the new secret; a recorded message must not work for ever."""
    click = door.click(SIGNED)

    def query_signed(secret: bytes, at_s: int, suffix: str = "") -> str:
        query = urlencode({"click_id": click, "amount": "3", "sig_ts": at_s})
        made = sign(secret, str(at_s), signed_part("GET", f"/postback?{query}".encode(), b""))
        return f"{query}{suffix}&sig={made}"

    now_s = door.now_ms // 1000
    for secret, outcome in zip(HMAC_SECRETS, ("recorded", "duplicate"), strict=True):
        status, kept = await door.send(params=query_signed(secret, now_s - 299))
        assert (200, outcome) == (status, kept["status"])
    assert (401, "expired") == await code_of(door, query_signed(HMAC_SECRETS[0], now_s - 302))
    assert (401, "expired") == await code_of(door, query_signed(HMAC_SECRETS[0], now_s + 302))
    assert (401, "bad_signature") == await code_of(door, query_signed(b"a wrong secret of 16+", now_s))
    assert (401, "bad_signature") == await code_of(door, query_signed(bytes(32), now_s))
    assert (401, "bad_signature") == await code_of(door, query_signed(HMAC_SECRETS[0], now_s, "&txid=added"))
    assert (401, "bad_token") == await code_of(door, urlencode({"click_id": click, "token": SHOP_TOKEN}))


@pytest.mark.fault(25)
@pytest.mark.parametrize(
    ("compared_bytes", "program", "refusal"),
    [(5, SHOP, "bad_click_id"), (32, SHOP, "bad_token"), (64, SIGNED, "bad_signature")],
    ids=["click id", "token", "signature"],
)  # fmt: skip
async def test_who_is_believed_hangs_on_a_comparison_in_constant_time(
    door: Door, monkeypatch: pytest.MonkeyPatch, compared_bytes: int, program: int, refusal: str
) -> None:
    """With `==` the time of a refusal tells how much of a guess was right. Where the comparison says no, nobody may say yes."""
    compare = hmac.compare_digest
    query = urlencode({"click_id": door.click(program), "amount": "3"} | (
        {"sig_ts": door.now_ms // 1000} if program == SIGNED else {"token": SHOP_TOKEN}))
    if program == SIGNED:
        at = query.rpartition("=")[2]
        query += "&sig=" + sign(HMAC_SECRETS[0], at, signed_part("GET", f"/postback?{query}".encode(), b""))
    with monkeypatch.context() as patched:
        patched.setattr(hmac, "compare_digest", lambda a, b: len(a) != compared_bytes and compare(a, b))
        assert refusal == (await code_of(door, query))[1]
    assert 200 == (await door.send(params=query))[0]


async def test_a_body_is_signed_with_its_request(door: Door) -> None:
    """Else a signed request could be sent again with another amount."""
    body = json.dumps({"click_id": door.click(SIGNED), "amount": 3}).encode()
    at = str(door.now_ms // 1000)
    made = sign(HMAC_SECRETS[1], at, signed_part("POST", b"/postback", body))
    headers = {"Content-Type": "application/json", "X-Tracker-Timestamp": at, "X-Tracker-Signature": made}
    status, kept = await door.send("POST", data=body, headers=headers)
    assert (200, "recorded") == (status, kept["status"])
    status, problem = await door.send("POST", data=body[:-2] + b"4}", headers=headers)
    assert (401, "bad_signature") == (status, problem["code"])


@pytest.mark.fault(25)
async def test_mode_ip_asks_for_the_address(door: Door) -> None:
    """The address comes from the proxies' rule, not from here; IPv4 in IPv6 clothes is the same sender."""
    query = urlencode({"click_id": door.click(LISTED), "amount": "1", "token": SHOP_TOKEN})
    assert (403, "ip_denied") == await code_of(door, query)
    for address, expected in (("nonsense", 403), ("192.0.2.9", 200), ("::ffff:192.0.2.9", 200)):
        door.client_ip = address
        assert expected == (await door.send(params=query))[0]


async def test_mode_open_may_only_create_a_pending_conversion(door: Door) -> None:
    """A visitor reads his click id from the address bar: he must not approve his own sale."""
    status, kept = await door.send(params={"click_id": door.click(OPEN), "amount": "1", "status": "approved"})
    assert (200, "recorded") == (status, kept["status"])
    assert "pending" == await door.db.fetchval("SELECT status FROM conversion_state")
    await door.db.execute("UPDATE programs SET pending_cap = 1")
    status, problem = await door.send(params={"click_id": door.click(OPEN), "amount": "1"})
    assert (429, "pending_cap", 1) == (status, problem["code"], door.refusals.counts[Reason.PENDING_CAP])


async def test_while_postgres_is_away_messages_are_queued_and_synced(door: Door) -> None:
    """`queued` promises that the message survives the machine; the answer names the conversion all the same."""
    sale = {"click_id": door.click(), "amount": "2", "token": SHOP_TOKEN}
    async with door.locked():
        status, kept = await asyncio.wait_for(door.send(params=sale), 5)
        assert (200, "queued", 1) == (status, kept["status"], door.spool.journal.synced_seq)
    assert await door.recorder.drain(10)
    [row] = await door.log()
    assert ("recorded", kept["conversion_id"]) == (row["outcome"], str(row["conversion_id"]))


async def test_a_worker_that_had_no_processor_still_promises_what_the_disk_has(door: Door) -> None:
    """Its time was over before it could look. A 503 would be a second sale under way, and some senders never try again."""
    async with door.locked():
        asked = asyncio.ensure_future(door.send(params={"click_id": door.click(), "amount": "2", "token": SHOP_TOKEN}))
        await eventually(lambda: door.spool.journal.next_seq == 1)
        time.sleep(0.3 + 2 * postback_keeping.SYNC_SECONDS)      # the fault is its length
        status, kept = await asyncio.wait_for(asked, 5)
        assert (200, "queued") == (status, kept.get("status"))


@pytest.mark.fault(19)
async def test_a_hundred_copies_at_once_are_one_sale(door: Door) -> None:
    """Senders retry in bursts: one of the copies is recorded, all others name the same conversion."""
    sale = {"click_id": door.click(), "amount": "2", "token": SHOP_TOKEN}
    answers = await asyncio.gather(*(door.send(params=sale) for _ in range(100)))
    assert ["recorded"] + ["duplicate"] * 99 == sorted((kept["status"] for _, kept in answers), reverse=True)
    assert 1 == len({kept["conversion_id"] for _, kept in answers})
    assert 1 == await door.db.fetchval("SELECT count(*) FROM ledger")


async def test_a_server_that_accepts_and_never_answers_holds_up_nobody(
    postgres_factory: PostgresFactory, tmp_path: Path
) -> None:
    """A hung server looks alive: the caller must get his answer before he gives up, and the sale must still come."""
    postgres = postgres_factory(durable=False)
    postgres.start()
    connection = await asyncpg.connect(postgres.dsn)
    await connection.execute(SCHEMA.read_text())
    await connection.close()
    async with open_door(postgres.dsn, tmp_path / "spool", commit_seconds=1.2) as door:
        await eventually(lambda: door.recorder.connected)      # and no session of it is being started
        for child in (pids := [postgres.pid, *_children(postgres.pid)]):
            os.kill(child, signal.SIGSTOP)
        try:
            sale = {"click_id": door.click(), "amount": "2", "token": SHOP_TOKEN}
            status, kept = await asyncio.wait_for(door.send(params=sale), 3)
            assert (200, "queued") == (status, kept["status"])
            unknown = {**sale, "click_id": door.click(link=777)}
            status, kept = await asyncio.wait_for(door.send(params=unknown), 3)
            assert (200, "queued", None) == (status, kept["status"], kept["conversion_id"])
        finally:
            for child in pids:
                os.kill(child, signal.SIGCONT)
        assert await door.recorder.drain(10)
        assert ["pending_click", "recorded"] == sorted(row["outcome"] for row in await door.log())


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def test_nobody_waits_for_a_server_that_is_known_to_be_away(door: Door) -> None:
    """An outage of an hour must not hold 1.2 s of every sender's connection."""
    await door.disconnect()
    status, kept = await asyncio.wait_for(door.send(params={"click_id": door.click(), "token": SHOP_TOKEN}), 5)
    assert (200, "queued") == (status, kept["status"])


async def test_a_disk_that_stalls_has_all_the_time_there_is(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """While PostgreSQL is away the disk is all there is: giving it less than the sender's patience would turn sales away."""
    sync = door.spool.journal.sync

    async def stall() -> None:
        await asyncio.sleep(2 * postback_keeping.SYNC_SECONDS)
        await sync()

    monkeypatch.setattr(door.spool.journal, "sync", stall)
    await door.disconnect()
    status, kept = await door.send(params={"click_id": door.click(), "token": SHOP_TOKEN})
    assert (200, "queued") == (status, kept["status"])


async def test_a_journal_that_cannot_be_synced_promises_nothing(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """503 is the only honest answer when neither the disk nor PostgreSQL vouches."""

    async def fail() -> None:
        raise SpoolUnavailable("the disk is gone")

    monkeypatch.setattr(door.spool.journal, "sync", fail)
    async with door.locked():
        status, problem = await door.send(params={"click_id": door.click(), "amount": "2", "token": SHOP_TOKEN})
    assert (503, "unavailable", "5") == (status, problem["code"], door.headers["Retry-After"])
    assert {"unavailable": 1} == door.door.intake.answered


async def test_without_a_journal_postgres_alone_may_keep_it(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk loses no sale while PostgreSQL is there, and with both gone it says so."""

    def fail(_rows: list[bytes]) -> int:
        raise SpoolUnavailable("no space")

    monkeypatch.setattr(door.spool.journal, "append", fail)
    sale = {"click_id": door.click(), "amount": "2", "token": SHOP_TOKEN}
    assert (200, "recorded") == ((answer := await door.send(params=sale))[0], answer[1]["status"])
    assert ("recorded", 1) == ((await door.log())[0]["outcome"], await door.db.fetchval("SELECT count(*) FROM ledger"))
    async with door.locked():
        assert 503 == (await door.send(params={**sale, "txid": "2"}))[0]
    assert (200, "duplicate") == ((answer := await door.send(params=sale))[0], answer[1]["status"])


async def test_keeping_without_a_journal_takes_what_is_left_of_the_time(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """Danger: after a slow look-up of a link the sender would have given up before the answer."""
    asked: list[float] = []
    record, patience = door.door.intake.keeper._unjournalled.record, door.door.intake.commit_seconds

    def fail(_rows: list[bytes]) -> int:
        raise SpoolUnavailable("no space")

    async def slowly(_link_id: int) -> None:
        await asyncio.sleep(0.2)

    async def noted(drafts: Any, *, seconds: float) -> Any:
        asked.append(seconds)
        return await record(drafts, seconds=seconds)

    monkeypatch.setattr(door.spool.journal, "append", fail)
    monkeypatch.setattr(door.catalog, "look_up_link", slowly)
    monkeypatch.setattr(door.door.intake.keeper._unjournalled, "record", noted)
    status, kept = await door.send(params={"click_id": door.click(link=777), "token": SHOP_TOKEN})
    assert (200, "pending_click") == (status, kept["status"])
    assert asked[0] < patience - 0.15


@pytest.mark.parametrize("token", ["", "wrong"])
async def test_a_link_that_nobody_could_look_up_is_no_reason_for_a_final_no(
    door: Door, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    """Danger: 401 ends the sender's tries, and the link, made a second ago, may be of a program that asks for no token."""
    monkeypatch.setattr(look_ups, "PER_SECOND", 0.0)
    query = urlencode({"click_id": door.click(link=777), "token": token})
    assert (503, "unavailable") == await code_of(door, query)
    assert 1 == door.catalog.look_ups.refused
    monkeypatch.undo()
    await asyncio.sleep(0.05)      # 50 a second: two and a half
    assert (401, "bad_token") == await code_of(door, query)


async def test_a_link_nobody_here_knows_is_looked_up_and_else_kept_for_control(door: Door) -> None:
    """A link made a second ago must not cost its first sale; a lost one waits with the credential that vouched."""
    sale = {"click_id": door.click(link=777), "amount": "2", "token": SHOP_TOKEN}
    status, kept = await door.send(params=sale)
    assert (200, "pending_click", None) == (status, kept["status"], kept["conversion_id"])
    assert (401, "bad_token") == await code_of(door, urlencode({**sale, "token": "wrong"}))
    assert (401, "bad_token") == await code_of(door, urlencode({k: v for k, v in sale.items() if k != "token"}))
    row = await door.db.fetchrow("SELECT credential_id, message FROM pending")
    assert row is not None
    assert (11, "EUR") == (row["credential_id"], json.loads(row["message"])["currency"])
    await door.disconnect()
    status, kept = await door.send(params={**sale, "txid": "1"})
    assert (200, "queued", None) == (status, kept["status"], kept["conversion_id"])


async def test_an_edge_that_knows_nothing_turns_nobody_away(door: Door) -> None:
    """Without PostgreSQL and without a snapshot, every token looks wrong; a 401 would end the sender's tries."""
    door.catalog.ready = False
    for path in ("/postback", "/v1/conversions"):
        options: dict[str, Any] = {"json": {"click_id": door.click(), "token": SHOP_TOKEN}}
        status, problem = await door.send("POST", path, headers={"Authorization": f"Bearer {SHOP_TOKEN}"}, **options)
        assert (503, "unavailable") == (status, problem["code"])
