"""Postbacks on the fast lane: the same answers as behind aiohttp, to the byte, in order, and never before they are kept."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from aiohttp import web
from doors import HMAC_SECRETS, LISTED, OPEN, OTHER, OTHER_TOKEN, SIGNED, Door, open_door
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lane_server import HttpOnlyLanes
from shipping import eventually

from tracker.domain.refusal import Reason
from tracker.storage.spool.log import SpoolUnavailable
from tracker.web.fastlane import Lanes
from tracker.web.framing import CLICK_HEAD_LIMIT
from tracker.web.postback_answers import Kept, NotKept, Outcome, answer
from tracker.web.postback_auth import sign, signed_part
from tracker.web.postback_lane import plain_postback, spell
from tracker.web.postback_rates import Rates

CASES: list[dict[str, Any]] = json.loads((Path(__file__).parent.parent / "corpus" / "requests.json").read_text())
CLICK = b"GET /c/link1 HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture
async def door(dsn: str, tmp_path: Path) -> AsyncIterator[Door]:
    async with open_door(dsn, tmp_path) as opened:
        yield opened


def get(query: str | bytes, *headers: bytes, method: bytes = b"GET", version: bytes = b"1.1") -> bytes:
    raw = query.encode("latin-1") if isinstance(query, str) else query
    return b"%b /postback?%b HTTP/%b\r\nHost: a\r\n%b\r\n" % (method, raw, version, b"".join(line + b"\r\n" for line in headers))


class Talk:
    """One connection, as bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def answer(self, *, head: bool = False) -> bytes:
        """The next answer, whole, its date replaced by one constant."""
        async with asyncio.timeout(20):
            top = await self.reader.readuntil(b"\r\n\r\n")
            if top.startswith(b"HTTP/1.1 100 "):
                top = await self.reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"\r\nContent-Length: (\d+)\r\n", top)
            assert length is not None, top
            body = b"" if head else await self.reader.readexactly(int(length[1]))
        return re.sub(rb"\r\nDate: [^\r]*", b"\r\nDate: now", top) + body

    async def ended(self) -> bool:
        """Whether nothing follows; a connection that is reset, since the server left what was sent unread, has ended too."""
        async with asyncio.timeout(20):
            try:
                return await self.reader.read() == b""
            except ConnectionResetError:
                return True


@asynccontextmanager
async def talk(door: Door, lanes: type[Lanes] = Lanes) -> AsyncIterator[Talk]:
    reader, writer = await asyncio.open_connection("127.0.0.1", door.ports[lanes])
    try:
        yield Talk(reader, writer)
    finally:
        writer.close()


def raw_of(case: dict[str, Any]) -> bytes:
    return b"".join((part if isinstance(part, str) else part[0] * part[1]).encode("latin-1") for part in case["raw"])


def closes(answer: bytes) -> bool:
    """Whether it says that its connection ends."""
    old = answer.startswith(b"HTTP/1.0 ") and b"\r\nConnection: keep-alive\r\n" not in answer
    return old or b"\r\nConnection: close\r\n" in answer


def unversioned(answer: bytes) -> bytes:
    """Of a 400 to what cannot be parsed, aiohttp's version hangs on how far it had come."""
    return re.sub(rb"^HTTP/1\.[01] 400", b"HTTP/1.x 400", answer)


def statuses(*answers: bytes) -> list[int]:
    return [int(answer[9:12]) for answer in answers]


def requests_of(door: Door) -> dict[str, tuple[bytes, bool]]:
    """By name: a request, and whether the lane itself takes it."""
    click, sale = door.click(), f"click_id={door.click()}&txid=A1&amount=20.00&currency=eur&token=shop-token"
    at = str(door.now_ms // 1000)
    signed = f"click_id={door.click(SIGNED)}&amount=3&sig_ts={at}"
    made = sign(HMAC_SECRETS[0], at, signed_part("GET", b"/postback?" + signed.encode(), b""))
    in_head = f"click_id={door.click(SIGNED)}&amount=3"
    head_signature = sign(HMAC_SECRETS[0], at, signed_part("GET", b"/postback?" + in_head.encode(), b"")).encode()
    return {
        "sale": (get(sale), True),
        "escapes": (get(f"click_id={click}&txid=%c3%a4+b%20&token=shop%2Dtoken&customer=%ff%00"), True),
        "empty values and macros": (get(f"click_id={click}&txid={{txid}}&amount=&token=shop-token"), True),
        "unknown names": (get(f"click_id={click}&token=shop-token&x=1&y&=&&"), True),
        "keep-alive": (get(sale, b"Connection: keep-alive"), True),
        "forwarded": (get(f"click_id={door.click(LISTED)}&amount=1", b"X-Forwarded-For: 192.0.2.9"), True),
        "forwarded from elsewhere": (get(f"click_id={door.click(LISTED)}&amount=1", b"X-Forwarded-For: 192.0.3.9"), True),
        "signed": (get(f"{signed}&sig={made}"), True),
        "signed under an escaped name": (get(f"{signed}&%73ig={made}"), True),
        "signed wrongly": (get(f"{signed}&sig={made[:-1]}"), True),
        "open": (get(f"click_id={door.click(OPEN)}&amount=1"), True),
        "nothing": (get(""), True),
        "no token": (get(f"click_id={click}"), True),
        "wrong token": (get(f"click_id={click}&token=x"), True),
        "other program's token": (get(f"click_id={click}&token={OTHER_TOKEN}"), True),
        "bad click id": (get(f"click_id={click[:-1]}&token=shop-token"), True),
        "bad amount": (get(f"click_id={click}&amount=1,5&token=shop-token"), True),
        "two amounts": (get(f"click_id={click}&amount=1&amount=2&token=shop-token"), True),
        "too many parameters": (get(f"click_id={click}&token=shop-token" + "&x=1" * 64), True),
        "a conflict": (get(sale.replace("20.00", "21.00")), True),
        "as much as the lane holds": (get(f"click_id={click}&token=shop-token&x=" + "x" * 8000), True),
        "more than the lane holds": (get(f"click_id={click}&token=shop-token&x=" + "x" * 8110), False),
        "unknown link": (get(f"click_id={door.click(link=777)}&token=shop-token"), True),
        "bearer": (get(sale.replace("&token=shop-token", ""), b"Authorization: Bearer shop-token"), False),
        "two tokens": (get(sale, b"authorization: bearer other"), False),
        "signed in its head": (
            get(in_head, b"X-Tracker-Timestamp: " + at.encode(), b"X-Tracker-Signature: " + head_signature), False,
        ),
        "prefetch": (get(sale, b"Purpose: prefetch"), False),
        "encoded": (get(sale, b"Content-Encoding: gzip"), False),
        "body on GET": (get(sale, b"Content-Length: 2") + b"ab", False),
        "empty body on GET": (get(sale, b"Content-Length: 0"), False),
        "chunked body on GET": (get(sale, b"Transfer-Encoding: chunked") + b"2\r\nab\r\n0\r\n\r\n", False),
        "two hosts": (get(sale, b"Host: b"), False),
        "fragment": (get(sale + "#x"), False),
        "space in the query": (get(sale + "& HTTP"), False),
        "HEAD": (get(sale, method=b"HEAD"), False),
        "PUT": (get(sale, method=b"PUT"), False),
        "POST": (get(sale, b"Content-Length: 0", method=b"POST"), False),
        "HTTP/1.0": (get(sale, version=b"1.0"), False),
        "close": (get(sale, b"Connection: close"), False),
        "no query": (b"GET /postback HTTP/1.1\r\nHost: a\r\n\r\n", False),
        "another path": (b"GET /postbacks?a=b HTTP/1.1\r\nHost: a\r\n\r\n", False),
    }


async def test_both_lanes_answer_every_request_alike(door: Door) -> None:
    """Two opinions about one request are how a sale is told twice, and how senders learn to rely on what another edge lacks."""
    for name, (request, plain) in requests_of(door).items():
        assert plain == (plain_postback(request, 0) is not None), name
        said = {}
        for lanes in (HttpOnlyLanes, HttpOnlyLanes, Lanes):      # first it is recorded, then a duplicate, twice
            async with talk(door, lanes) as client:
                client.writer.write(request)
                said[lanes] = await client.answer(head=request.startswith(b"HEAD"))
                if closes(said[lanes]):
                    assert await client.ended(), name
                else:
                    client.writer.write(CLICK)
                    assert [302] == statuses(await client.answer()), name
        assert unversioned(said[HttpOnlyLanes]) == unversioned(said[Lanes]), name


@pytest.mark.fault(33)
async def test_the_corpus_of_clicks_asks_both_lanes_alike_for_postbacks(door: Door) -> None:
    """The same smuggling, splitting and odd heads, with a sale in place of a click (bodies apart: their lengths would be wrong)."""
    sale = f"/postback?click_id={door.click()}&txid=C1&amount=1&token=shop-token&".encode()
    tried = 0
    for case in CASES:
        raw = re.sub(rb"/c/[^ ?\r\n]*\??", lambda _: sale, raw_of(case))
        if case["after"] not in ("open", "close") or "alone" in case or b"content-length" in raw.lower() or sale not in raw:
            continue
        tried += 1
        said: dict[type[Lanes], list[bytes]] = {}
        for lanes in (HttpOnlyLanes, HttpOnlyLanes, Lanes):
            async with talk(door, lanes) as client:
                client.writer.write(raw)
                answers = [await client.answer(head=number in case.get("head", ())) for number in range(len(case["answers"]))]
                if closes(answers[-1]):
                    assert await client.ended(), case["name"]
                elif case["after"] == "open":
                    client.writer.write(CLICK)
                    assert [302] == statuses(await client.answer()), case["name"]
                said[lanes] = answers
        assert list(map(unversioned, said[HttpOnlyLanes])) == list(map(unversioned, said[Lanes])), case["name"]
    assert tried > 60
    assert 1 == await door.db.fetchval("SELECT count(*) FROM conversions")


@pytest.mark.parametrize("state", ["rate limited", "catalog empty", "draining", "disk and PostgreSQL gone", "PostgreSQL gone"])
async def test_both_lanes_answer_alike_in_hard_times(door: Door, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """429, 503, `queued` and `Connection: close` are what senders act on: each lane must say them in the same words."""
    request = get(f"click_id={door.click()}&txid=A&amount=1&token=shop-token")
    if state == "rate limited":
        door.door.intake.rates = Rates(per_second=1e-9, burst=0)
    elif state == "catalog empty":
        door.catalog.ready = False
    elif state == "draining":
        door.desk.drain()
        await door.send("POST", data={"click_id": door.click(), "txid": "A", "token": "shop-token"})
    else:
        await door.disconnect()
    if state == "disk and PostgreSQL gone":
        monkeypatch.setattr(door.spool.journal, "sync", _unavailable)
    said = {}
    for lanes in (HttpOnlyLanes, HttpOnlyLanes, Lanes):
        async with talk(door, lanes) as client:
            client.writer.write(request)
            said[lanes] = await client.answer()
            if state == "draining":
                assert await client.ended()
    assert said[HttpOnlyLanes] == said[Lanes]
    expected = {"rate limited": 429, "catalog empty": 503, "disk and PostgreSQL gone": 503}.get(state, 200)
    assert [expected] == statuses(said[Lanes])


async def _unavailable() -> None:
    raise SpoolUnavailable("the disk is gone")


async def test_nothing_overtakes_a_postback_that_waits_and_nobody_else_waits(door: Door) -> None:
    """A click behind it must not be answered first: its visitor would get the other's answer. Other connections go on."""
    sales = [get(f"click_id={door.click()}&txid=S{n}&amount=1&token=shop-token") for n in range(3)]
    door.door.intake.commit_seconds = 30.0
    async with talk(door) as client, talk(door) as other:
        async with door.db.transaction():
            await door.db.execute("LOCK TABLE conversion_state IN ACCESS EXCLUSIVE MODE")
            client.writer.write(CLICK + sales[0] + CLICK + sales[1])
            assert [302] == statuses(await client.answer())
            client.writer.write(sales[2] + CLICK)
            other.writer.write(CLICK)
            assert [302] == statuses(await other.answer())
            assert 1 == door.spool.journal.next_seq, "one at a time on a connection"
        assert [200, 302, 200, 200, 302] == statuses(*[await client.answer() for _ in range(5)])
    assert 3 == await door.db.fetchval("SELECT count(*) FROM conversions")


async def test_a_sender_that_hangs_up_while_it_waits_has_told_its_sale(door: Door) -> None:
    """The journal has it: that nobody hears the answer changes nothing."""
    async with door.locked(), talk(door) as client:
        client.writer.write(get(f"click_id={door.click()}&amount=1&token=shop-token"))
        await eventually(lambda: door.spool.journal.next_seq == 1)
        client.writer.transport.abort()
    await eventually(lambda: door.recorder.next_seq == 1)
    assert 1 == await door.db.fetchval("SELECT count(*) FROM conversions")


async def test_a_sender_that_only_stops_sending_is_answered(door: Door) -> None:
    """Some clients shut their half down behind the request."""
    async with talk(door) as client:
        client.writer.write(get(f"click_id={door.click()}&amount=1&token=shop-token") + CLICK)
        client.writer.write_eof()
        assert [200, 302] == statuses(await client.answer(), await client.answer())
        assert await client.ended()


async def test_one_frame_of_the_journal_holds_what_came_together(door: Door) -> None:
    """A write for each would cost as much as taking it."""
    frames: list[int] = []
    append = door.spool.journal.append

    def counted(rows: list[bytes]) -> int:
        frames.append(len(rows))
        return append(rows)

    door.spool.journal.append = counted  # type: ignore[method-assign]
    queries = [f"click_id={door.click()}&txid=F{n}&token=shop-token".encode() for n in range(20)]
    replies: list[bytes] = []

    class Listener:
        def reply(self, answer: bytes) -> None:
            replies.append(answer)

    lane = door.postback_lane
    assert all(lane.take(Listener(), query, "192.0.2.1") for query in queries)
    await eventually(lambda: len(replies) == 20)
    assert [20] == frames
    assert {200} == set(statuses(*replies))


def test_a_plain_postback_is_found_wherever_it_stands() -> None:
    """Its end is where the next request begins: one byte off, and the rest of the connection is somebody else's."""
    request = get("a=b", b"X-Forwarded-For: 192.0.2.1, 10.0.0.1")
    for before in (b"", b"xyz"):
        found = plain_postback(before + request + CLICK, len(before))
        assert found is not None
        assert (b"a=b", b"192.0.2.1, 10.0.0.1", len(before + request)) == found
    assert [None] * len(request) == [plain_postback(request[:cut], 0) for cut in range(len(request))]
    assert plain_postback(get("x" * CLICK_HEAD_LIMIT), 0) is None


@pytest.mark.parametrize("closing", [False, True])
@pytest.mark.parametrize("outcome", [
    *(NotKept(reason, ("amount",)) for reason in Reason), Kept("recorded", UUID(int=7)), Kept("pending_click", None),
    Kept("conflict", UUID(int=7), "amount", ("coupon", "ts")),
], ids=str)
async def test_every_outcome_is_spelled_as_aiohttp_writes_it(outcome: Outcome, closing: bool) -> None:
    """Reasons that a test cannot easily bring about go out in the same words as well."""

    async def handler(_: web.BaseRequest) -> web.StreamResponse:
        response = answer(outcome)
        response.headers["Server"] = "tracker"
        if closing:
            response.force_close()
        return response

    server = await asyncio.get_running_loop().create_server(web.Server(handler), "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        client = Talk(reader, writer)
        writer.write(get(""))
        written = await client.answer()
        writer.close()
    assert written == re.sub(rb"\r\nDate: [^\r]*", b"\r\nDate: now", spell(outcome, closing=closing))


streams = st.lists(st.sampled_from(["click", "sale", "post", "refused", "lookup", "other", "old"]), min_size=1, max_size=10)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(streams, st.lists(st.integers(1, 3000), max_size=8))
@pytest.mark.parametrize("lanes", [Lanes, HttpOnlyLanes], ids=["fast lane", "aiohttp"])
async def test_any_stream_in_any_pieces_is_answered_in_order(
    door: Door, lanes: type[Lanes], stream: list[str], cuts: list[int]
) -> None:
    """One answer each, whoever gives it, and one conversion for each sale."""
    before = await door.db.fetchval("SELECT count(*) FROM conversions")
    made, expected, sales = [], [], 0
    for kind in stream:
        sale = f"click_id={door.click()}&amount=1&token=shop-token"
        sales += kind in ("sale", "post", "old")
        request, status = {
            "click": (CLICK, 302), "sale": (get(sale), 200), "post": (get(sale, b"Content-Length: 0", method=b"POST"), 200),
            "refused": (get(sale + "x"), 401), "lookup": (get(f"click_id={door.click(link=778)}&token=shop-token"), 200),
            "other": (get(f"click_id={door.click(OTHER)}&token=shop-token"), 403),
            "old": (get(sale, b"Cookie: " + b"c" * 2000), 200),
        }[kind]
        made.append(request)
        expected.append(status)
    data = b"".join(made)
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    async with talk(door, lanes) as client:
        for start, end in pairwise(edges):
            client.writer.write(data[start:end])
            await client.writer.drain()
            await asyncio.sleep(0)
        assert expected == statuses(*[await client.answer() for _ in stream])
    assert sales == await door.db.fetchval("SELECT count(*) FROM conversions") - before
