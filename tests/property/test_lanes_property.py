"""Any mix of requests, cut into any pieces, on either lane: one answer each, in order, and one row for each redirect."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lane_server import HttpOnlyLanes, LaneServer, lane_server, make_link
from raw_http import Client, click, post

from tracker.web.fastlane import Lanes

CHUNKED = b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nGET /\r\n0\r\n\r\n"
LATE = {b"late": make_link("late", "https://late.example/?c={click_id}")}

requests = st.sampled_from([
    (click(), 302), (click(b"plain", b"sub1=a%20b"), 302), (click(b"paused"), 410), (click(b"nobody"), 404), (click(b"late"), 302),
    (click(b"%6fpen"), 302), (click(b"open", b"", b"Purpose: prefetch"), 302), (post(), 200),
    (post(b"GET /c/open HTTP/1.1\r\nHost: a\r\n\r\n"), 200),
    (post(b"x" * 3000), 200), (post(b"b", b"/c/open"), 302), (CHUNKED, 200), (click(b"open", b"", b"TE: trailers"), 302),
    (b"\r\n" + click(), 302),
    (click(b"open", b"", b"Expect: 100-continue"), 302),
])


@pytest.fixture(scope="module", params=[Lanes, HttpOnlyLanes], ids=["fast lane", "aiohttp"])
def server(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[LaneServer]:
    with lane_server(tmp_path_factory.mktemp("spools"), lanes=request.param, look_up=LATE) as running:
        yield running


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(requests, min_size=1, max_size=12), st.lists(st.integers(1, 4000), max_size=12), st.booleans())
def test_any_stream_in_any_pieces_is_answered_in_order(
    server: LaneServer, stream: list[tuple[bytes, int]], cuts: list[int], told_apart: bool
) -> None:
    """`told_apart`: the server surely reads each piece by itself."""
    before = server.appended
    data = b"".join(request for request, _ in stream)
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    with Client(server.port) as client:
        for start, end in pairwise(edges):
            client.send(data[start:end])
            if told_apart:
                server.do(lambda: None)
        answers = [client.answer() for _ in stream]
        client.assert_in_step()
    assert [status for _, status in stream] == [answer and answer.status for answer in answers]
    for (request, status), answer in zip(stream, answers, strict=True):
        if status == 200 and answer is not None:
            assert (b"<GET />" if request is CHUNKED else b"<" + request.partition(b"\r\n\r\n")[2] + b">") == answer.body
    tokens = [token for answer in answers if answer is not None for token in answer.tokens]
    assert sum(status == 302 for _, status in stream) == server.appended - before == len(tokens) == len(set(tokens))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(requests, max_size=2), st.binary(min_size=1, max_size=60) | st.sampled_from([b"\x16", b"GET / HTTP/1.1\n\n"]))
def test_any_garbage_behind_requests_ends_or_waits_and_breaks_nothing(
    server: LaneServer, stream: list[tuple[bytes, int]], garbage: bytes
) -> None:
    """At most one answer to it, never an error of ours; whoever comes next on another connection notices nothing."""
    with Client(server.port) as client:
        for request, status in stream:
            assert status == client.ask(request).status
        client.send(garbage)
        with Client(server.port) as other:
            other.assert_in_step()
        server.seconds_pass(80)
        assert client.rest().count(b"HTTP/1.") <= 1 + garbage.count(b"\n")
    assert [] == server.errors
