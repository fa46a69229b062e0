"""Strangers who hold connections and say next to nothing. Others are served, and the sweep ends the strangers in time."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import quantiles

import pytest
from demo_world import TOKEN, make_world
from tracker_process import TrackerProcess, running, tracker_environ, until

CLOSED_SECONDS = 12.0      # the contract: ten, and the sweep's second on both sides
DRIP_SECONDS = 1.0         # between two bytes; a bound on silence alone would never end such a connection
SIEGES = 3                 # one has to end in time: a machine stumbles once, a late sweep is late each time

HEAD = b"GET /c/l1?sub1=slow HTTP/1.1\r\nHost: go.example\r\nX-Slow: " + b"a" * 100
FORM = b"POST /postback HTTP/1.1\r\nHost: go.example\r\nContent-Type: application/x-www-form-urlencoded\r\n"
BODY = FORM + b"Content-Length: 1000\r\n\r\ntoken=" + TOKEN.encode() + b"&txid=" + b"a" * 100
CHUNKS = FORM + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 100

# How much is said at once; the rest comes byte by byte.
SLOW = {
    "says nothing": (b"", 0),
    "half a head": (HEAD, len(HEAD)),
    "a head by the byte": (HEAD, 1),
    "half a body": (BODY, len(BODY)),
    "a body by the byte": (BODY, BODY.index(b"token=")),
    "a chunked body by the byte": (CHUNKS, CHUNKS.index(b"1\r\na")),
    "a line end by the byte": (b"\r\n" * 50, 2),
}


class Stranger(asyncio.Protocol):
    """One connection. `ended`: after how many seconds it was closed; `answers`: what came on it."""

    def __init__(self, says: bytes, at_once: int, all_ended: Callable[[], None]) -> None:
        self._says, self._said, self._all_ended = says, at_once, all_ended
        self.ended: float | None = None
        self.answers = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._begun = time.monotonic()
        transport.write(self._says[:self._said])

    def drip(self) -> None:
        if self.ended is None:
            self._transport.write(self._says[self._said:self._said + 1])
            self._said += 1

    def data_received(self, data: bytes) -> None:
        self.answers += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = time.monotonic() - self._begun
        self._all_ended()


@asynccontextmanager
async def besieged(port: int, each: int) -> AsyncIterator[tuple[dict[str, list[Stranger]], asyncio.Event]]:
    """So many strangers of each kind, from now until they are closed. The event: the last of them is."""
    loop = asyncio.get_running_loop()
    ended, waiting = asyncio.Event(), each * len(SLOW)

    def one_less() -> None:
        nonlocal waiting
        waiting -= 1
        if not waiting:
            ended.set()

    crowd: dict[str, list[Stranger]] = {}
    for kind, (says, at_once) in SLOW.items():
        crowd[kind] = [
            (await loop.create_connection(lambda: Stranger(says, at_once, one_less), "127.0.0.1", port))[1]  # noqa: B023 - used at once
            for _ in range(each)
        ]

    async def drip() -> None:
        while True:
            await asyncio.sleep(DRIP_SECONDS)
            for strangers in crowd.values():
                for stranger in strangers:
                    stranger.drip()

    dripping = asyncio.create_task(drip())
    try:
        yield crowd, ended
    finally:
        dripping.cancel()


async def visit(port: int, ended: asyncio.Event) -> list[float]:
    """Clicks on a kept connection and on new ones until the strangers are gone; how long each took."""
    took: list[float] = []
    kept_reader, kept_writer = await asyncio.open_connection("127.0.0.1", port)
    while not ended.is_set():
        for reader, writer in ((kept_reader, kept_writer), await asyncio.open_connection("127.0.0.1", port)):
            begun = time.monotonic()
            writer.write(b"GET /c/l1 HTTP/1.1\r\nHost: go.example\r\n\r\n")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 302 ")
            took.append(time.monotonic() - begun)
            if writer is not kept_writer:
                writer.close()
        await asyncio.sleep(0.005)
    kept_writer.close()
    return took


async def visit_in_peace(port: int) -> list[float]:
    """The same for five seconds, with nobody else there."""
    ended = asyncio.Event()
    asyncio.get_running_loop().call_later(5, ended.set)
    return await visit(port, ended)


def _p99(seconds: list[float]) -> float:
    return quantiles(seconds, n=100)[98]


def besiege(tracker: TrackerProcess, each: int) -> tuple[list[float], Counter[str]]:
    """The siege, judged; returns how long the others waited, and how many strangers of each kind were ended too late."""

    async def siege() -> tuple[list[float], Counter[str]]:
        async with asyncio.timeout(60), besieged(tracker.public_port, each) as (crowd, ended):
            took = await visit(tracker.public_port, ended)
        late = Counter(kind for kind, strangers in crowd.items() for one in strangers if (one.ended or 60) > CLOSED_SECONDS)
        # A body that does not come may be answered (408) before its connection ends; a head that does not come is not a request.
        assert {kind for kind, strangers in crowd.items() if any(one.answers for one in strangers)} <= {
            "half a body", "a body by the byte", "a chunked body by the byte",
        }
        assert all(b" 408 " in one.answers[:13] for strangers in crowd.values() for one in strangers if one.answers)
        return took, late

    return asyncio.run(siege())


@pytest.mark.fault(32)
@pytest.mark.timeout(240)
@pytest.mark.parametrize("each", [60, pytest.param(1_000, marks=pytest.mark.nightly)])
def test_slow_strangers_are_ended_while_others_are_served(dsn: str, tmp_path: Path, each: int) -> None:
    """A thousand silent connections cost their owner nothing: they must not cost us our visitors."""
    make_world(dsn, links=1)
    with running("serve", tracker_environ(dsn, tmp_path / "spool", TRACKER_WORKERS="1")) as tracker:
        quiet = asyncio.run(visit_in_peace(tracker.public_port)) if each >= 1_000 else []
        visits = len(quiet)
        for _ in range(SIEGES):
            took, late = besiege(tracker, each)
            visits += len(took)
            if not late:
                break
        assert not late, f"still there after {CLOSED_SECONDS:g} s"
        if quiet:
            assert _p99(took) < max(0.005, 2 * _p99(quiet)), (_p99(quiet), _p99(took))
        until(lambda: tracker.metric("tracker_connections") <= 1, "the strangers are gone")
        assert visits == tracker.metric("tracker_clicks_total", "click"), "of strangers nothing is counted"
        assert 0 == tracker.metric("tracker_connections_refused_total")
        assert "Traceback" not in tracker.output
