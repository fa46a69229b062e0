"""Connections: answers in order and none lost, whoever sends in pieces, stops sending, stops reading, or comes as we leave."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from lane_server import HttpOnlyLanes, LaneServer, lane_server, make_link
from raw_http import Client, click, post
from ways import WAYS, take_way

from tracker.web.fastlane import AT_ONCE, DEADLINE_SECONDS, HELD_LIMIT, IDLE_SECONDS, Lanes

READ_BYTES = 262_144      # what uvloop reads at once; a port reads less
WAIT = b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"


@pytest.fixture(autouse=True, params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    take_way(request.param, monkeypatch)
    return str(request.param)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LaneServer]:
    with lane_server(tmp_path) as running:
        yield running


@pytest.fixture(params=[Lanes, HttpOnlyLanes], ids=["fast lane", "aiohttp"])
def either(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[LaneServer]:
    """The same promises hold on connections that are aiohttp's from the first byte."""
    with lane_server(tmp_path, lanes=request.param) as running:
        yield running


def seen(server: LaneServer) -> None:
    """What was sent before this has been read by the server: it goes through its loop's selector once more."""
    with Client(server.port) as other:
        other.assert_in_step()


# In pieces

MIXED = b"".join((
    click(query=b"sub1=1"), post(b"a\r\n\r\nb"), click(b"plain", b"",
    b"Connection: keep-alive", method=b"HEAD"), click(b"nobody"), post(),
))


def assert_mixed_is_answered(client: Client) -> None:
    first, body, head, missing, empty = (client.answer(head=number == 2) for number in range(5))
    assert first and body and head and missing and empty
    assert [302, 200, 302, 404, 200] == [answer.status for answer in (first, body, head, missing, empty)]
    assert b"<a\r\n\r\nb>" == body.body
    assert b"<>" == empty.body
    client.assert_in_step()


@pytest.mark.timeout(60)
def test_a_stream_cut_anywhere_is_answered_alike(server: LaneServer) -> None:
    """Networks cut where they like."""
    with Client(server.port) as client:
        for cut in range(1, len(MIXED)):
            client.send(MIXED[:cut])
            server.do(lambda: None)
            client.send(MIXED[cut:])
            assert_mixed_is_answered(client)


def test_a_stream_that_comes_byte_by_byte_is_answered_alike(server: LaneServer) -> None:
    with Client(server.port) as client:
        for position in range(len(MIXED)):
            client.send(MIXED[position:position + 1])
            server.do(lambda: None)
        assert_mixed_is_answered(client)


@pytest.mark.fault(31)
def test_ten_thousand_pipelined_requests_are_answered_in_order(server: LaneServer) -> None:
    """More than any buffer holds: the lane stops reading, and goes on."""
    with Client(server.port) as client:
        for block in range(10):
            client.send(b"".join(click(query=b"sub1=%d" % (block * 1000 + n)) if n % 10 else post(b"%d" % n) for n in range(1000)))
            for n in range(1000):
                answer = client.answer()
                assert answer is not None
                if n % 10:
                    assert answer.headers[b"location"].endswith(b"&s=%d" % (block * 1000 + n))
                else:
                    assert b"<%d>" % n == answer.body
    assert 9000 == server.appended


# Order

def test_nothing_overtakes_a_request_that_waits(either: LaneServer) -> None:
    """A click behind a postback that waits for its commit must not be answered first: its visitor would get the other's answer."""
    with Client(either.port) as client:
        client.send(click() + WAIT + click(query=b"sub1=last"))
        first = client.answer()
        assert first is not None
        assert 302 == first.status
        client.send(post(b"late"))
        seen(either)
        client.assert_silent()
        assert 1 == either.appended, "nothing behind it was begun"
        either.do(either.released.set)
        waited, last, late = client.answer(), client.answer(), client.answer()
        assert waited and last and late
        assert (b"waited", b"TOKEN&s=last", b"<late>") == (waited.body, (last.location or b"").partition(b"cid=")[2], late.body)


def test_a_slug_that_is_looked_up_keeps_its_place(tmp_path: Path) -> None:
    """A link just made must not fail, and must not be overtaken by known ones."""
    late = {b"late": make_link("late", "https://late.example/?c={click_id}")}
    with lane_server(tmp_path, look_up=late) as server, Client(server.port) as client:
        client.send(click() + click(b"late") + click(b"plain") + click(b"never") + click(b"news"))
        answers = [client.answer() for _ in range(5)]
        assert [302, 302, 302, 404, 302] == [answer and answer.status for answer in answers]
        assert answers[1] is not None
        assert b"https://late.example/?c=TOKEN" == answers[1].location
        assert [(b"never", 404)] == server.missed


def test_connect_has_no_body_to_hide_requests_in(either: LaneServer) -> None:
    """To aiohttp what follows CONNECT is another protocol, then a request: a length there would make two opinions of one stream."""
    hidden = click(query=b"sub1=ghost")
    with Client(either.port) as client:
        client.send(b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(hidden), hidden) + click())
        answer = client.answer()
        assert answer is not None
        assert 404 == answer.status
        assert b"" == client.rest()
    assert 0 == either.appended


def test_a_handler_that_fails_in_its_answer_does_not_begin_another(either: LaneServer) -> None:
    """A second status line in the body of the first would be an answer for whoever comes next on the connection."""
    with Client(either.port) as client:
        client.send(b"GET /torn HTTP/1.1\r\nHost: a\r\n\r\n" + click())
        assert 1 == client.rest().count(b"HTTP/1.1 ")
    assert 0 == either.appended


# Half-closed

@pytest.mark.parametrize("stream", [
    (click(), 1), (click() + click(), 2), (post(b"x"), 1), (MIXED, 5), (click(b"open", b"", b"Connection: close"), 1), (CHUNKED, 1),
    (b"GET /c/open HTTP/1.0\r\n\r\n", 1), (click(b"open", b"", b"Upgrade: x"), 1), (click() + b"GET /c/op", 1),
    (click() + CHUNKED, 2),
], ids=["click", "clicks", "post", "mixed", "close", "chunked", "1.0", "upgrade", "half a click behind", "chunked behind"])
def test_who_stops_sending_gets_what_he_is_owed(server: LaneServer, stream: tuple[bytes, int]) -> None:
    """`nc -N`, some health checks and proxies close their half at once. The click is stored, so its answer has to leave."""
    data, expected = stream
    with Client(server.port) as client:
        client.send(data)
        client.socket.shutdown(socket.SHUT_WR)
        for number in range(expected):
            assert client.answer(head=data is MIXED and number == 2) is not None
        server.seconds_pass(DEADLINE_SECONDS + 1)
        assert b"" == client.rest()


def test_who_stops_sending_while_a_handler_works_gets_its_answer(either: LaneServer) -> None:
    with Client(either.port) as client:
        client.send(WAIT)
        client.socket.shutdown(socket.SHUT_WR)
        seen(either)
        either.do(either.released.set)
        answer = client.answer()
        assert answer is not None
        assert b"waited" == answer.body
        either.seconds_pass(DEADLINE_SECONDS + 1)
        assert b"" == client.rest()


BLOCK = b"".join(click(query=b"sub1=%06d" % n) for n in range(500))


def flood(server: LaneServer, client: Client, block: bytes = BLOCK) -> int:
    """Send without reading until the server reads no more; returns how many bytes went. Fails when it never stops."""
    client.socket.setblocking(False)
    sent = refusals = 0
    while refusals < 3:
        try:
            sent += client.socket.send(block[sent % len(block):])
            refusals = 0
        except BlockingIOError:
            refusals += 1
            seen(server)
        assert sent < 30_000_000, "it was read all the time"
    client.socket.settimeout(20)
    return sent


def stall(server: LaneServer, client: Client) -> int:
    """Send clicks without reading answers, until the server holds some of them back; returns how many were sent."""
    clicks = 0
    while not server.do(lambda: any(lane._paused and lane._held for lane in server.lanes.open)):
        client.send(BLOCK)
        seen(server)
        while server.do(lambda: any(lane._held and not lane._paused for lane in server.lanes.open)):
            seen(server)      # it works off a few a turn: sending on meanwhile could end in waiting for each other
        clicks += 500
    return clicks


def assert_flood_is_answered(client: Client, clicks: int) -> None:
    for n in range(clicks):
        answer = client.answer()
        assert answer is not None
        assert answer.headers[b"location"].endswith(b"&s=%06d" % (n % 500))


def test_who_stops_sending_and_reads_slowly_gets_every_answer(server: LaneServer) -> None:
    """His later requests are held until he reads: they are owed all the same."""
    with Client(server.port, receive_bytes=65_536) as client:
        clicks = stall(server, client)
        client.socket.shutdown(socket.SHUT_WR)
        assert_flood_is_answered(client, clicks)
        assert b"" == client.rest()
    assert clicks == server.appended


# Slow readers

@pytest.mark.fault(31)
def test_who_does_not_read_is_not_read_from(server: LaneServer) -> None:
    """One connection costs a bounded piece of memory, whatever it sends; when it reads again, every answer is there, in order."""
    with Client(server.port, receive_bytes=65_536) as client:
        clicks = flood(server, client) // (len(BLOCK) // 500)
        [lane] = [lane for lane in server.lanes.open if lane._held]
        assert len(lane._held) < HELD_LIMIT + READ_BYTES
        assert_flood_is_answered(client, clicks)
    assert clicks == server.appended


def test_a_flood_behind_a_waiting_request_is_not_read_on_by_mistake(server: LaneServer) -> None:
    """Held bytes that turn out to be aiohttp's: the lane reads on, then aiohttp stops reading, and that has to stand."""
    with Client(server.port) as client:
        client.send(WAIT)
        seen(server)
        client.send(CHUNKED + WAIT * (HELD_LIMIT // len(WAIT)))
        seen(server)
        server.do(server.released.set)
        server.do(server.released.clear)
        flood(server, client, WAIT * 2000)


def test_a_flood_of_bodies_behind_a_waiting_request_is_not_read_on_by_mistake(server: LaneServer) -> None:
    """aiohttp has read on when a body was whole, and the lane, which had stopped reading, did not know."""
    with_body = WAIT[:-2] + b"Content-Length: 1\r\n\r\nx"
    with Client(server.port) as client:
        client.send(WAIT)
        seen(server)
        client.send(with_body * (2 * HELD_LIMIT // len(with_body)))
        seen(server)
        server.do(server.released.set)
        server.do(server.released.clear)
        flood(server, client, with_body * 2000)


def test_who_sends_many_clicks_at_once_has_a_few_of_them_in_a_turn(server: LaneServer) -> None:
    """Danger: all that fits into a read, of 256 connections, is half a million clicks, which everybody else waits for."""
    with Client(server.port) as client:
        client.send(BLOCK)
        assert_flood_is_answered(client, 500)
    assert AT_ONCE == max(server.log.frames)


def test_a_flood_of_clicks_that_wait_for_the_disk_is_not_read_on(tmp_path: Path) -> None:
    """No answer is written meanwhile, so none is left unread to say stop."""
    with lane_server(tmp_path, waits_for_sync=True) as server, Client(server.port) as client:
        clicks = flood(server, client) // (len(BLOCK) // 500)
        assert AT_ONCE == server.appended
        server.do(server.synced.set)
        assert_flood_is_answered(client, clicks)


# Deadlines

@pytest.mark.fault(32)
def test_answers_that_nobody_reads_are_kept_for_ten_seconds(server: LaneServer) -> None:
    """Whoever asks and never reads holds memory of ours for as long as we let him."""
    with Client(server.port, receive_bytes=65_536) as client:
        stall(server, client)
        server.seconds_pass(DEADLINE_SECONDS)
        assert [lane for lane in server.lanes.open if lane._paused]
        server.seconds_pass(1)
        seen(server)
        assert not server.do(lambda: [lane for lane in server.lanes.open if lane._paused])


def test_who_reads_late_but_in_time_gets_every_answer(server: LaneServer) -> None:
    with Client(server.port, receive_bytes=65_536) as client:
        clicks = stall(server, client)
        server.seconds_pass(DEADLINE_SECONDS)
        assert_flood_is_answered(client, clicks)
        server.seconds_pass(DEADLINE_SECONDS)
        client.assert_in_step()


@pytest.mark.fault(32)
def test_a_head_has_ten_seconds_however_many_bytes_come(server: LaneServer) -> None:
    with Client(server.port) as client:
        for byte in b"GET /c/ope":
            client.send(bytes([byte]))
            seen(server)
            server.seconds_pass(1)
        client.assert_silent()
        server.seconds_pass(1)
        assert b"" == client.rest()


def test_a_body_has_ten_seconds_of_its_own(either: LaneServer) -> None:
    with Client(either.port) as client:
        head, body = post(b"hello")[:-5], b"hello"
        client.send(head[:-2])
        seen(either)
        either.seconds_pass(DEADLINE_SECONDS - 1)
        client.send(head[-2:])
        seen(either)
        either.seconds_pass(DEADLINE_SECONDS - 1)
        client.send(body)
        answer = client.answer()
        assert answer is not None
        assert b"<hello>" == answer.body
        client.send(head + b"he")
        client.assert_swept(either, DEADLINE_SECONDS)


def test_a_connection_that_is_used_stays(either: LaneServer) -> None:
    with Client(either.port) as client:
        for request in (click(), post(b"x"), click(b"plain"), click(b"nobody")):
            client.ask(request)
            seen(either)
            either.seconds_pass(IDLE_SECONDS)
        client.assert_swept(either, 0)


@pytest.mark.fault(32)
def test_a_new_connection_that_says_nothing_is_ended(server: LaneServer) -> None:
    with Client(server.port) as client:
        client.assert_swept(server, DEADLINE_SECONDS)
    assert not server.do(lambda: {lane for lane in server.lanes.open if lane._http is None})


def test_a_handler_that_works_is_not_cut_off_at_ten_seconds(server: LaneServer) -> None:
    with Client(server.port) as client:
        client.send(WAIT)
        seen(server)
        server.seconds_pass(DEADLINE_SECONDS * 3)
        server.do(server.released.set)
        answer = client.answer()
        assert answer is not None
        assert b"waited" == answer.body


def test_connections_over_the_limit_are_refused_and_the_others_served(tmp_path: Path) -> None:
    with lane_server(tmp_path, connection_limit=2) as server, Client(server.port) as first, Client(server.port) as second:
        assert [302, 302] == [first.ask(click()).status, second.ask(click()).status]
        with Client(server.port) as third:
            third.send(click())
            assert b"" == third.rest()
        assert (1, 2) == (server.lanes.refused, len(server.lanes.open))
        assert [302, 302] == [first.ask(click()).status, second.ask(click()).status]


# Leaving

def test_while_draining_every_answer_closes_its_connection(either: LaneServer) -> None:
    with Client(either.port) as known, Client(either.port) as other:
        known.assert_in_step()
        other.assert_in_step()
        either.do(either.lanes.drain)
        for client, request in ((known, click()), (other, post(b"x"))):
            answer = client.ask(request)
            assert b"close" == answer.headers[b"connection"].lower()
            assert b"" == client.rest()


def test_draining_ends_idle_connections_and_leaves_working_ones(server: LaneServer) -> None:
    with Client(server.port) as idle, Client(server.port) as working:
        idle.assert_in_step()
        working.send(WAIT)
        seen(server)
        server.do(server.lanes.drain)
        assert server.do(server.lanes.close_idle) > 0
        assert b"" == idle.rest()
        server.do(server.released.set)
        answer = working.answer()
        assert answer is not None
        assert (b"waited", b"close") == (answer.body, answer.headers[b"connection"])


def test_what_comes_as_the_doors_close_is_answered(server: LaneServer, way: str) -> None:
    """Closed with it unread, the connection would be reset. (Only our own transports can look once more.)"""
    with Client(server.port) as client:
        client.assert_in_step()
        server.do(server.lanes.drain)

        def close() -> None:
            client.socket.send(click())
            server.lanes.close_idle()

        server.do(close)
        if way != "loop":
            answer = client.answer()
            assert answer is not None
            assert b"close" == answer.headers[b"connection"]


def test_a_slow_reader_is_not_idle_while_requests_of_his_are_held(server: LaneServer) -> None:
    with Client(server.port, receive_bytes=65_536) as client:
        clicks = stall(server, client)
        server.do(server.lanes.close_idle)
        assert_flood_is_answered(client, clicks)
