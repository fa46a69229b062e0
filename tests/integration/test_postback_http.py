"""The postback door as HTTP: methods, prefetch, bodies of every kind, queries of none. Nothing ends in a 500."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from doors import SHOP_TOKEN, Door, open_door
from lane_server import HttpOnlyLanes

from tracker.web.fastlane import Lanes


@pytest.fixture(params=[Lanes, HttpOnlyLanes], ids=["fast lane", "aiohttp"])
async def door(dsn: str, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Door]:
    async with open_door(dsn, tmp_path, lanes=request.param) as opened:
        yield opened


@pytest.mark.parametrize(
    "headers", [{"Sec-Purpose": "prefetch;prerender"}, {"Purpose": "prefetch"}, {"X-Moz": "Prefetch"}]
)
@pytest.mark.fault(34)
async def test_a_prefetch_never_converts(door: Door, headers: dict[str, str]) -> None:
    """A browser that only may show a page must not report its sale."""
    status, problem = await door.send(params={"click_id": door.click(), "token": SHOP_TOKEN}, headers=headers)
    assert (400, "prefetch", 0) == (status, problem["code"], door.spool.journal.next_seq)


@pytest.mark.parametrize("method", ["HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"])
@pytest.mark.fault(34)
async def test_other_methods_never_convert(door: Door, method: str) -> None:
    """Link checkers send HEAD to whatever they find in a mail."""
    status, _ = await door.send(method, params={"click_id": door.click(), "token": SHOP_TOKEN})
    assert (405, "GET, POST", 0) == (status, door.headers["Allow"], door.spool.journal.next_seq)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"data": gzip.compress(b"a=b"), "headers": {"Content-Encoding": "gzip"}}, (400, "content_encoding")),
        ({"data": b"x" * 65_537, "headers": {"Content-Type": "application/json"}}, (413, "too_large")),
        ({"data": b"x", "headers": {"Content-Type": "text/plain"}}, (415, "unsupported_type")),
        ({"data": b"x", "headers": {"Content-Type": "multipart/form-data; boundary=x"}}, (415, "unsupported_type")),
        ({"data": b"{", "headers": {"Content-Type": "application/json"}}, (400, "bad_body")),
        ({"data": b"[{}]", "headers": {"Content-Type": "application/json"}}, (400, "bad_body")),
        ({"data": b"[" * 65_000, "headers": {"Content-Type": "application/json"}}, (400, "bad_body")),
    ],
)
async def test_bodies_that_are_none_are_refused(door: Door, options: dict[str, Any], expected: tuple[int, str]) -> None:
    """No body may cost more than 64 KiB of memory or end in a 500."""
    status, problem = await door.send("POST", **options)
    assert expected == (status, problem["code"])


async def test_a_body_without_a_declared_length_is_cut_at_the_limit(door: Door) -> None:
    """A chunked body of any size must not be gathered to be measured."""

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(200):
            yield b"a=b&" * 256

    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    status, problem = await door.send("POST", data=endless(), headers=headers)
    assert (413, "too_large") == (status, problem["code"])


async def test_a_body_that_never_comes_is_given_up(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sender that stalls must not hold a connection for ever. (The lane's sweep ends what is not whole, without a word.)"""
    monkeypatch.setattr("tracker.web.postback.BODY_SECONDS", 0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", door.ports[HttpOnlyLanes])
    writer.write(b"POST /postback HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{")
    answer = await asyncio.wait_for(reader.readuntil(b"}"), 5)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"slow_body"' in answer
    assert b"Connection: close" in answer
    writer.close()


@pytest.mark.parametrize(
    "query", [b"%", b"%zz=%", b"&&&==", b"click_id=%ff%fe&txid=%00", b"a" * 7000, b"token=%ff&click_id"]
)
async def test_odd_queries_are_answered_never_a_500(door: Door, query: bytes) -> None:
    """Whatever a template produces must end in an answer its author can read."""
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    writer.write(b"GET /postback?" + query + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), 5)
    assert answer.startswith(b"HTTP/1.1 400 ")
    writer.close()
