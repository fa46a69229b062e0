"""A click server for tests: the product's lanes, desk and redirector on a real socket, over a real spool, without PostgreSQL.

It runs uvloop in a thread of its own, so that tests are plain blocking socket code; `do` runs something inside that loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_network
from itertools import count
from pathlib import Path
from typing import Any
from zlib import crc32

import uvloop
from aiohttp import web
from click_tuples import decode_row

from tracker.domain.click_id import ClickIdMaker, Keyring
from tracker.domain.link import Link
from tracker.storage.clicks.rows import CLICK_COLUMNS
from tracker.storage.spool.reader import Batch, LogReader
from tracker.storage.spool.spool import Spool, SpoolUnavailable
from tracker.web.agents import Places
from tracker.web.click_route import click_routes
from tracker.web.desk import Desk
from tracker.web.fastlane import Lane, Lanes
from tracker.web.port import open_port
from tracker.web.public import public_app
from tracker.web.redirect import Redirector
from tracker.web.sockets import open_sockets

KEYRING = Keyring(((3, b"secret for tests".ljust(32)),))
SPOOL_ID = 77
_spools = count(1)


def link_row(slug: str, destination: str = "https://shop.example/p?cid={click_id}&s={sub1}", **changed: Any) -> dict[str, Any]:
    """A link as the catalog would read it."""
    row: dict[str, Any] = {
        "link_id": crc32(slug.encode()) % (1 << 30) or 1, "slug": slug, "program_id": 11, "partner_id": 13, "program_slug": "shop",
        "partner_slug": "pat", "version": 2, "destination": destination, "fallback": None, "channel": None, "pass_query": False,
        "referrer_policy": "origin", "allow_test": False, "status": "active", "expires_at_ms": None,
    }
    return row | changed


def make_link(slug: str, destination: str = "https://shop.example/p?cid={click_id}&s={sub1}", **changed: Any) -> Link:
    """A link as the catalog would compile it."""
    return Link.compile(**link_row(slug, destination, **changed))


LINK_ROWS = (
    link_row("open"),
    link_row("plain", "https://shop.example/?cid={click_id}", referrer_policy="none"),
    link_row(
        "full", "https://shop.example:8443/{sub2}/x?q={query.q}&e={ext}&ch={channel}&p={partner}#f={click_id}",
        referrer_policy="full",
    ),
    link_row("pass", "https://shop.example/?click_id={click_id}#top", pass_query=True),
    link_row("news", channel="newsletter"),
    link_row("test", allow_test=True),
    link_row("paused", status="paused"),
    link_row("paused-on", status="paused", fallback="https://fallback.example/?c={click_id}&s={sub1}"),
    link_row("archived", status="archived"),
    link_row("expired", expires_at_ms=1),
    link_row("expired-on", expires_at_ms=1, fallback="http://fallback.example/gone"),
    link_row("L" * 64, "https://shop.example/long?cid={click_id}"),
)
LINKS = {row["slug"].encode(): Link.compile(**row) for row in LINK_ROWS}


@dataclass
class Counts:
    """The five numbers of the law."""

    clicks: int = 0
    prefetches: int = 0
    heads: int = 0
    appended: int = 0
    unlogged: int = 0

    def add(self, *, clicks: int, prefetches: int, heads: int, appended: int, unlogged: int) -> None:
        self.clicks += clicks
        self.prefetches += prefetches
        self.heads += heads
        self.appended += appended
        self.unlogged += unlogged

    def assert_law(self) -> None:
        assert self.clicks + self.prefetches + self.heads == self.appended + self.unlogged


class Faulty:
    """The spool's log of clicks, which a test may break: `available` for what it says, `fails` for what it does."""

    def __init__(self, spool: Spool) -> None:
        self._log = spool.clicks
        self.available = True
        self.fails = False
        self.frames: list[int] = []

    def append(self, rows: list[bytes]) -> int:
        if self.fails:
            self.available = False
            raise SpoolUnavailable("broken by the test")
        self.frames.append(len(rows))
        return self._log.append(rows)


class HttpOnlyLane(Lane):
    """The seam of the differential tests: a connection that gives everything to aiohttp from its first byte."""

    def __init__(self, lanes: Lanes) -> None:
        super().__init__(lanes)
        self._http_only = True


class HttpOnlyLanes(Lanes):
    def __call__(self) -> Lane:
        return HttpOnlyLane(self)


@dataclass
class LaneServer:
    """A running server. `released` lets the answers of `GET /wait` go, `syncs` counts how often the desk asked for a sync."""

    port: int
    lanes: Lanes
    desk: Desk
    spool: Spool
    log: Faulty
    counts: Counts
    missed: list[tuple[bytes, int]]
    loop: asyncio.AbstractEventLoop
    reader: LogReader
    released: asyncio.Event
    synced: asyncio.Event
    syncs: list[int] = field(default_factory=list)
    handled: list[str] = field(default_factory=list)     # the paths that aiohttp's handlers saw
    errors: list[dict[str, Any]] = field(default_factory=list)     # what reached the loop's exception handler

    def do(self, work: Callable[[], Any]) -> Any:
        """Call `work` inside the server's loop (and await what it returns, when that can be awaited)."""

        async def run() -> Any:
            found = work()
            return await found if isinstance(found, Awaitable) else found

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(20)

    def disk_syncs(self) -> None:
        """Let the sync that is waited for end; one that begins later waits again."""

        def sync() -> None:
            self.synced.set()
            self.synced.clear()

        self.do(sync)

    def seconds_pass(self, seconds: int) -> None:
        """Let the sweep see so many seconds."""

        def sweep() -> None:
            for _ in range(seconds):
                self.lanes.sweep()

        self.do(sweep)

    def raw_rows(self, first: int = 0) -> list[bytes]:
        """The rows in the spool from number `first` on, as PostgreSQL would get them."""

        def read() -> list[bytes]:
            rows: list[bytes] = []
            while isinstance(batch := self.reader.read(first + len(rows), max_rows=1000, max_bytes=1 << 24), Batch):
                position = 0
                for length in batch.lengths:
                    rows.append(batch.rows[position:position + length])
                    position += length
            return rows

        return list(self.do(read))

    def rows(self, first: int = 0) -> list[dict[str, Any]]:
        """The same by column, with the texts that other rows say. Fails when none does."""
        rows = [decode_row(row) for row in self.raw_rows(first)]
        for key, text in (("agent_key", "user_agent"), ("referrer_key", "referrer")):
            for row in rows:
                if row[key] is not None and row[text] is None:
                    row[text] = self._said(key, text)[row[key]]
        return rows

    def _said(self, key: str, text: str) -> dict[bytes, str]:
        """Of all rows so far, by key."""
        return {row[key]: row[text] for row in map(decode_row, self.raw_rows()) if row[text] is not None}

    @property
    def appended(self) -> int:
        """How many rows the spool has: the number that the next one gets."""
        return int(self.do(lambda: self.spool.clicks.next_seq))


@contextlib.contextmanager
def lane_server(root: Path, *, lanes: type[Lanes] = Lanes, connection_limit: int = 1000, waits_for_sync: bool = False,
                look_up: dict[bytes, Link] | None = None, trusted: tuple[str, ...] = ("127.0.0.0/8",)) -> Iterator[LaneServer]:
    """A server on a free port. `look_up`: links that only a look-up finds; None: the database is known to be away."""
    started: list[LaneServer] = []
    ready = threading.Event()
    ended = asyncio.Event()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        directory = root / f"server{next(_spools)}"
        spool = Spool.create(directory, spool_id=SPOOL_ID, worker=5, clicks=CLICK_COLUMNS, max_bytes=1 << 30, sync="off")
        log, counts, missed = Faulty(spool), Counts(), list[tuple[bytes, int]]()
        counter = count()
        redirector = Redirector(
            links=LINKS, ids=ClickIdMaker(keyring=KEYRING, worker=5, random_counter=lambda: next(counter)),
            visitor_secret=b"v" * 32, log=log, counts=counts,
        )

        async def sync() -> None:
            server.syncs.append(spool.clicks.next_seq)
            await server.synced.wait()
            if log.fails:
                raise SpoolUnavailable("broken by the test")

        async def find(slug: bytes) -> Link | None:
            await asyncio.sleep(0)
            return (look_up or {}).get(slug)

        desk = Desk(redirector, sync=sync if waits_for_sync else None, may_look_up=lambda: look_up is not None, look_up=find,
                    missed=lambda slug, status: missed.append((slug, status)))
        places = Places(trusted=[ip_network(network) for network in trusted], ip_mode="truncate", countries=None)
        runner = web.AppRunner(public_app([*click_routes(desk, places), *_routes(lambda: server)]), access_log=None)
        await runner.setup()
        assert runner.server is not None
        made = lanes(desk=desk, places=places, server=runner.server, connection_limit=connection_limit)
        reader = LogReader(spool.path, "clicks", spool_id=SPOOL_ID, log=spool.clicks)
        listening = open_sockets(["127.0.0.1"], 0, setting="")[0][0]
        port = await open_port(made, [listening])
        server = LaneServer(listening.getsockname()[1], made, desk, spool, log, counts, missed, loop, reader,
                            asyncio.Event(), asyncio.Event())
        loop.set_exception_handler(lambda _, context: server.errors.append(context))
        started.append(server)
        ready.set()
        await ended.wait()
        server.released.set()
        server.synced.set()
        port.stop_accepting()
        listening.close()
        for lane in list(made.open):
            lane.close(at_once=True)
        await runner.cleanup()
        reader.close()
        spool.close()

    thread = threading.Thread(target=uvloop.run, args=(main(),), daemon=True)
    thread.start()
    assert ready.wait(20), "the server did not start"
    server = started[0]
    try:
        yield server
    finally:
        server.loop.call_soon_threadsafe(ended.set)
        thread.join(20)
    server.counts.assert_law()
    assert [] == server.errors


def _routes(server: Callable[[], LaneServer]) -> list[web.RouteDef]:
    """What stands for the rest of the public port: handlers that answer at once, late, in pieces or not at all."""

    async def echo(request: web.Request) -> web.Response:
        server().handled.append(request.path)
        return web.Response(body=b"<" + await request.read() + b">")

    async def wait(request: web.Request) -> web.Response:
        server().handled.append(request.path)
        await server().released.wait()
        return web.Response(body=b"waited")

    async def big(_: web.Request) -> web.Response:
        return web.Response(body=b"x" * 8_000_000)

    async def boom(_: web.Request) -> web.Response:
        raise LookupError("a bug in a handler")

    async def torn(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        await answer.write(b"half an answer")
        raise LookupError("a bug in the middle of an answer")

    return [
        web.get("/sentinel", echo), web.post("/echo", echo), web.get("/echo", echo), web.get("/wait", wait), web.get("/big", big),
        web.get("/boom", boom), web.get("/torn", torn),
    ]


logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)     # /boom and /torn are meant
