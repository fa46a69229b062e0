"""What one connection may cost: heads at their limits and beyond, requests by the thousand, answers that nobody reads."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from demo_world import make_world
from raw_http import Client, click
from tracker_process import TrackerProcess, running, tracker_environ

PIPELINED = 10_000
LONG = b"a" * 1000         # in each request and answer: more than the kernel takes off anybody's hands


@pytest.fixture
def tracker(dsn: str, tmp_path: Path) -> Iterator[TrackerProcess]:
    """The real program with one worker; each test sends its clicks to l1."""
    make_world(dsn, links=1)
    with running("serve", tracker_environ(dsn, tmp_path / "spool", TRACKER_WORKERS="1")) as started:
        yield started
        assert "Traceback" not in started.output

ANSWER = re.compile(rb"HTTP/1\.1 302 [^\0]*\r\nLocation: https://shop\.example/p\?cid=[0-9a-v]{32}&s=(\d+)\.a{1000}(\r\n|$)")


def click_with(*headers: bytes) -> bytes:
    return click(b"l1", b"", *headers)


@pytest.mark.fault(30)
@pytest.mark.parametrize("headers", [(b"X-Big: " + b"a" * 8_191,), (b"X-Big: " + b"a" * 17_000,)], ids=["line", "head"])
def test_an_oversized_line_is_refused_in_segments_of_one_byte_too(tracker: TrackerProcess, headers: tuple[bytes, ...]) -> None:
    """A limit that looks at one read at a time is none (CVE-2026-54277)."""
    with Client(tracker.public_port) as client:
        for byte in click_with(*headers):
            client.send(bytes([byte]))
        answer = client.answer()
        assert answer is None or 400 == answer.status
        assert b"" == client.rest()
    assert 0 == tracker.metric("tracker_clicks_total", "click")


def pipelined(first: bytes = b"", *, spelled: int = PIPELINED) -> bytes:
    """Clicks numbered from 0; of so many one is spelled so that aiohttp has to answer it."""
    return first + b"".join(
        click(b"%6c1" if number % spelled == spelled - 1 else b"l1", b"sub1=%d." % number + LONG) for number in range(PIPELINED)
    )


# Behind what cannot be framed all are aiohttp's.
STREAMS = {
    "fast lane": pipelined(),
    "both lanes": pipelined(spelled=50),
    "aiohttp": pipelined(click(b"l1", b"sub1=99999." + LONG, b"TE: trailers")),
}


def labels_answered(client: Client, many: int) -> list[int]:
    """The labels in the next so many redirects, in order."""
    found: list[int] = []
    kept = b""
    while len(found) < many:
        data = client.socket.recv(1 << 18)
        assert data, f"closed after {len(found)} answers"
        *whole, kept = (kept + data).split(b"\r\n\r\n")
        for answer in whole:
            label = ANSWER.match(answer)
            assert label, answer
            found.append(int(label[1]))
    assert b"" == kept, "more answers than requests"
    return found


def serve_until_stalled(tracker: TrackerProcess, other: Client) -> None:
    """Others are served while the crowd is taken on, and until nothing more of it is."""
    alone = 0      # how often in a row nobody but `other` was served
    while alone < 5:
        before = tracker.metric("tracker_clicks_total", "click")
        assert 302 == other.ask(click_with()).status
        alone = alone + 1 if tracker.metric("tracker_clicks_total", "click") == before + 1 else 0


@pytest.mark.fault(31)
def test_ten_thousand_pipelined_requests_are_answered_in_order(tracker: TrackerProcess) -> None:
    """Nobody reads at first, and others are served; then all is answered, in order. What is held meanwhile is bounded:
    tests/integration/test_lane_connections.py, where a client sends without end."""
    for lane, stream in STREAMS.items():
        requests = stream.count(b"\r\n\r\n")
        with contextlib.ExitStack() as stack:
            crowd = [stack.enter_context(Client(tracker.public_port, receive_bytes=262_144)) for _ in range(2)]
            pool = stack.enter_context(ThreadPoolExecutor(2 * len(crowd)))
            sent = [pool.submit(client.socket.sendall, stream) for client in crowd]
            with Client(tracker.public_port) as other:
                serve_until_stalled(tracker, other)
            for answered in [pool.submit(labels_answered, client, requests) for client in crowd]:
                assert list(range(PIPELINED)) == answered.result()[-PIPELINED:], lane
            for sender in sent:
                sender.result()
