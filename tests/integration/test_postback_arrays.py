"""`POST /v1/conversions`: arrays, their tokens, their outcomes item by item."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from doors import OTHER, SHOP_TOKEN, Door, open_door

from tracker.storage.spool.log import SpoolUnavailable


@pytest.fixture
async def door(dsn: str, tmp_path: Path) -> AsyncIterator[Door]:
    async with open_door(dsn, tmp_path) as opened:
        yield opened


async def test_an_array_has_an_outcome_per_item(door: Door) -> None:
    """One bad line of a thousand must not cost the other 999."""
    items: list[Any] = [{"click_id": door.click(), "txid": f"n{n}", "amount": n} for n in range(5)]
    items[1]["click_id"] = "forged"
    items[2]["amount"] = "1,5"
    items[3]["click_id"] = door.click(OTHER)
    headers = {"Authorization": f"Bearer {SHOP_TOKEN}"}
    status, results = await door.send("POST", "/v1/conversions", json=items, headers=headers)
    assert 200 == status
    assert ["recorded", 400, 400, 403, "recorded"] == [result["status"] for result in results]
    assert ["bad_click_id", "bad_amount", "wrong_program"] == [result["code"] for result in results[1:4]]
    status, result = await door.send("POST", "/v1/conversions", json=items[0], headers=headers)
    assert (200, "duplicate", results[0]["conversion_id"]) == (status, result["status"], result["conversion_id"])
    status, problem = await door.send("POST", "/v1/conversions", json=items[1], headers=headers)
    assert (400, "bad_click_id") == (status, problem["code"])


async def test_an_array_needs_its_bearer_before_its_body_is_read(door: Door) -> None:
    """A megabyte is read for known senders only; the token in the body comes too late."""
    big = b"[" + b",".join(b'{"txid":"%s"}' % (b"x" * 200) for _ in range(500)) + b"]"
    json_type = {"Content-Type": "application/json"}
    for authorization, expected in (
        (None, 401),
        ("Bearer wrong", 401),
        ("Basic x", 401),
        (f"Bearer {SHOP_TOKEN}", 200),
    ):
        headers = json_type | ({"Authorization": authorization} if authorization else {})
        assert expected == (await door.send("POST", "/v1/conversions", data=big, headers=headers))[0]
    known = json_type | {"Authorization": f"Bearer {SHOP_TOKEN}"}
    too_many = json.dumps([{}] * 1001).encode()
    for body, expected_code in ((too_many, "bad_body"), (b"[]", "bad_body"), (b"x" * (2**20 + 1), "too_large")):
        _, problem = await door.send("POST", "/v1/conversions", data=io.BytesIO(body), headers=known)
        assert expected_code == problem["code"]
    assert 405 == (await door.send("GET", "/v1/conversions", headers=known))[0]


async def test_an_idempotency_key_tells_items_apart_where_one_key_holds_several(door: Door) -> None:
    """A shop with several conversions per order that repeats a timed-out request must not sell twice."""
    await door.db.execute("UPDATE programs SET several_per_key = true WHERE program_id = 1")
    while not door.catalog.programs[1].several_per_key:
        await asyncio.sleep(0.01)
    items = [{"click_id": door.click(), "txid": "same", "amount": 1}] * 2
    headers = {"Authorization": f"Bearer {SHOP_TOKEN}", "Idempotency-Key": "batch-1"}
    for expected in ("recorded", "duplicate"):
        _, results = await door.send("POST", "/v1/conversions", json=items, headers=headers)
        assert [expected] * 2 == [result["status"] for result in results]
    headers["Idempotency-Key"] = "with space"
    assert "bad_idempotency_key" == (await door.send("POST", "/v1/conversions", json=items, headers=headers))[1]["code"]


async def test_an_array_that_nobody_can_keep_asks_to_be_sent_again(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """A 200 around a thousand 503s would be read as success."""

    def fail(_rows: list[bytes]) -> int:
        raise SpoolUnavailable("no space")

    monkeypatch.setattr(door.spool.journal, "append", fail)
    items = [{"click_id": door.click(), "amount": 1}] * 2
    headers = {"Authorization": f"Bearer {SHOP_TOKEN}"}
    async with door.locked():
        assert 503 == (await door.send("POST", "/v1/conversions", json=items, headers=headers))[0]
