"""One edge worker: clicks and conversions, nothing else. Built from settings, started and stopped in order.

    start   number → spool → catalog → shipper, recorder → doors open
    drain   unready → answers say `Connection: close` → newcomers are refused → doors close when their queues are empty
            → connections end → rows written, shipped, recorded → spool closed
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import resource
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from struct import iter_unpack

from aiohttp import web

from tracker.app.counting import VisitCounts
from tracker.app.edge_metrics import EdgeMetrics
from tracker.app.live_secrets import SECRETS_SECONDS, LiveKeys
from tracker.app.numbers import NumberTakenError, keep_number, take_number
from tracker.metrics import Page
from tracker.settings import Settings
from tracker.storage.catalog.catalog import Catalog
from tracker.storage.clicks.dead_spools import DeadSpools
from tracker.storage.clicks.rows import CLICK_COLUMNS
from tracker.storage.clicks.shipper import Shipper
from tracker.storage.conversions.journal import Journal
from tracker.storage.conversions.recorder import Recorder, apply_journal
from tracker.storage.conversions.refusals import Refusals
from tracker.storage.conversions.unjournalled import UnjournalledRecorder
from tracker.storage.countries import Countries
from tracker.storage.spool.dead_spool import DeadSpool
from tracker.storage.spool.log import Log
from tracker.storage.spool.reader import LogReader
from tracker.storage.spool.spool import Spool, SpoolUnavailable
from tracker.web.agents import Places
from tracker.web.click_route import click_routes
from tracker.web.desk import Desk
from tracker.web.fastlane import Lanes
from tracker.web.misses import Misses
from tracker.web.port import open_port
from tracker.web.postback import PostbackDoor
from tracker.web.postback_lane import PostbackLane
from tracker.web.public import public_app
from tracker.web.redirect import Redirector
from tracker.web.sockets import accept_rest, turn_newcomers_away

log = logging.getLogger(__name__)

SERVE_ON_SECONDS = 2.0        # after SIGTERM, while balancers notice that we are unready
# For handshakes under way to complete, while no other begins: so slow a round trip loses nothing. At half of this, satellites'
# (600 ms) met resets, 51 of 384 when measured; at double, each stop would take longer than the 25 s that README promises.
HANDSHAKES_SECONDS = 0.9
CONNECTIONS_SECONDS = 8.0     # for connections to end, then; a postback takes 1.5 at most
HANDLERS_SECONDS = 2.0        # for what still runs after that
STORE_SECONDS = 10.0          # to ship and record what is left; what is not stays in the spool for the next start
DRAIN_SECONDS = (      # at most; k8s/ must grant more
    SERVE_ON_SECONDS + HANDSHAKES_SECONDS + CONNECTIONS_SECONDS + 2 * HANDLERS_SECONDS + STORE_SECONDS
)
CONNECTION_LIMIT = 20_000     # a worker's; with 4 KiB a connection some 80 MB
KEPT_DESCRIPTORS = 256        # for spool, PostgreSQL and sockets: strangers' connections must not keep segments from being made
MISSES_SECONDS = 60.0


class Edge:
    """One worker. `sockets` are listening already; `page` is its part of the shared metrics."""

    def __init__(self, settings: Settings, sockets: Sequence[socket.socket], page: Page) -> None:
        assert settings.database_url is not None
        self._settings = settings
        self._dsn = settings.database_url
        self._sockets = list(sockets)
        self._page = page
        self._draining = False
        self.unfit = asyncio.Event()      # this start must not go on; the parent starts another
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Everything up, doors open last. Raises what makes a start impossible, in words for people."""
        settings, loop = self._settings, asyncio.get_running_loop()
        descriptors = _raise_descriptor_limit()
        settings.spool_dir.mkdir(parents=True, exist_ok=True)
        keys = LiveKeys(settings, taken=lambda: self._page.add("tracker_secret_reloads_total"))
        self._spool_id = secrets.randbits(62) + 1
        self._number = await take_number(self._dsn, settings.spool_dir, self._spool_id, workers=settings.workers)
        self._spool = Spool.create(
            settings.spool_dir, spool_id=self._spool_id, worker=self._number, clicks=CLICK_COLUMNS,
            max_bytes=settings.spool_max_bytes, sync="off" if settings.sync_interval_ms is None else "50ms",
        )
        self._catalog = Catalog(self._dsn, settings.spool_dir)
        await self._catalog.start()
        self._shipper = Shipper(
            self._dsn, self._spool_id, LogReader(self._spool.path, "clicks", spool_id=self._spool_id, log=self._spool.clicks),
            synchronous=settings.synchronous_commit, confirmed=self._rows_confirmed,
        )
        self._recorder = Recorder(
            self._dsn, self._spool_id,
            LogReader(self._spool.path, "journal", spool_id=self._spool_id, log=self._spool.journal),
            confirmed=self._spool.journal.confirmed,
        )
        self._refusals = Refusals(self._dsn)
        self._misses = Misses()
        self._unjournalled = UnjournalledRecorder(self._dsn)
        self._dead = DeadSpools(
            self._dsn, settings.spool_dir, self._apply_journal, counts=self._shipper.counts,
            scarce=lambda: self._spool.space.scarce,
        )
        places = Places(
            trusted=settings.trusted_proxies, ip_mode=settings.ip_mode,
            countries=Countries(settings.geoip_db) if settings.geoip_db else None,
        )
        self._desk = Desk(
            Redirector(
                links=self._catalog.links,
                ids=keys.id_maker(worker=self._number, random_counter=_random_counters().__next__),
                visitor_secret=keys.ring.signing_secret, log=_ClickLog(self._spool.clicks, self._shipper.wake),
                counts=VisitCounts(self._page),
            ),
            sync=self._spool.clicks.sync if settings.sync_interval_ms == 0 else None,
            may_look_up=self._catalog.may_look_up, look_up=self._catalog.look_up_slug, missed=self._misses.add,
        )
        self._door = PostbackDoor(
            catalog=self._catalog, keyring=keys.ring, journal=Journal(self._spool.journal, self._spool_id), recorder=self._recorder,
            unjournalled=self._unjournalled, refusals=self._refusals, client_ip=lambda request: places.of_request(request).ip,
            observe=lambda seconds: self._metrics.postback_answered(seconds),
        )
        self._runner = web.AppRunner(
            public_app([*click_routes(self._desk, places), *self._door.routes()]), access_log=None,
            shutdown_timeout=HANDLERS_SECONDS,
        )
        await self._runner.setup()
        assert self._runner.server is not None
        self._lanes = Lanes(
            desk=self._desk, places=places, server=self._runner.server,
            connection_limit=min(CONNECTION_LIMIT, descriptors - KEPT_DESCRIPTORS),
            postbacks=PostbackLane(
                self._door.intake, draining=lambda: self._desk.draining,
                observe=lambda seconds: self._metrics.postback_answered(seconds),
            ),
        )
        self._metrics = EdgeMetrics(
            self._page, spool=self._spool, catalog=self._catalog, shipper=self._shipper, dead=self._dead, recorder=self._recorder,
            unjournalled=self._unjournalled, refusals=self._refusals, misses=self._misses, intake=self._door.intake,
            lanes=self._lanes,
        )
        self._refusals.start()
        self._second = time.monotonic()
        interval = (settings.sync_interval_ms or 50) / 1000
        for work in (
            self._shipper.run(), self._recorder.run(), self._dead.run(), self._keep_number(),
            _every(interval, self._sync_spool), _every(1.0, self._each_second), _every(5.0, self._prune),
            _every(MISSES_SECONDS, self._tell_misses), _every(SECRETS_SECONDS, keys.look),
        ):
            self._tasks.append(task := loop.create_task(work))
            task.add_done_callback(self._watch)
        gc.collect()
        gc.freeze()           # what lives for ever need not be looked through: its pauses were 30 ms with 100,000 links
        self._port = await open_port(self._lanes, self._sockets)
        self._metrics.each_second(ready=self.ready)

    @property
    def ready(self) -> bool:
        return self._catalog.ready and self._spool.healthy and not self._draining

    async def drain(self, *, serve_on_seconds: float = SERVE_ON_SECONDS) -> None:
        """Stop in order; nothing that was answered is lost, nothing that was sent before the doors closed fails."""
        self._draining = True
        self._metrics.each_second(ready=self.ready)
        self._lanes.drain()
        await asyncio.sleep(serve_on_seconds)
        if all(turn_newcomers_away(listening) for listening in self._sockets):
            await asyncio.sleep(HANDSHAKES_SECONDS)
        self._port.stop_accepting()
        waiting: list[socket.socket] = []
        for listening in self._sockets:
            waiting += accept_rest(listening)
            listening.close()                    # at once: what queues up between the two is reset, or waits for an heir
        for connection in waiting:
            await self._port.take(connection)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CONNECTIONS_SECONDS):
                await asyncio.sleep(0.1)         # what has just been accepted may send its request
                while self._lanes.close_idle():  # noqa: ASYNC110 - each turn also closes what has become idle
                    await asyncio.sleep(0.02)
        await self._runner.cleanup()             # ends handlers that still run; what they took is in the journal
        self._desk.flush()
        stored = await asyncio.gather(
            self._shipper.drain(STORE_SECONDS), self._recorder.drain(STORE_SECONDS), self._refusals.stop(),
        )
        self._unjournalled.close()
        if not (stored[0] and stored[1]):
            log.warning("spool %016x is left for the next start: PostgreSQL did not take all of it in time", self._spool_id)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._catalog.stop()
        with contextlib.suppress(SpoolUnavailable):
            await self._spool.sync()
        self._spool.close()
        self._metrics.each_second(ready=self.ready)

    # What goes on beside

    def _rows_confirmed(self, next_seq: int) -> None:
        self._metrics.rows_shipped()
        self._spool.clicks.confirmed(next_seq)

    def _watch(self, task: asyncio.Task[None]) -> None:
        """None of these ends by itself: one that does has met a mistake of ours, and a worker without it must not go on."""
        if not self._draining and not task.cancelled():
            log.error("a task of this worker ended; it is replaced", exc_info=task.exception())
            self.unfit.set()

    async def _apply_journal(self, spool: DeadSpool) -> bool:
        return await apply_journal(self._dsn, spool.spool_id, spool.journal)

    async def _sync_spool(self) -> None:
        with contextlib.suppress(SpoolUnavailable):      # the log counts it, tells it and is unhealthy
            await self._spool.sync()

    async def _prune(self) -> None:
        await self._spool.prune(time.monotonic())

    async def _tell_misses(self) -> None:
        commonest = self._misses.report(5)
        if commonest:
            log.info("visits that found no link", extra={"commonest": commonest, "unknown_total": self._misses.unknown})

    async def _each_second(self) -> None:
        now = time.monotonic()
        self._page.set("tracker_event_loop_lag_seconds", max(0.0, now - self._second - 1.0))
        self._second = now
        self._lanes.sweep()
        self._metrics.each_second(ready=self.ready)

    async def _keep_number(self) -> None:
        try:
            await keep_number(
                self._dsn, self._settings.spool_dir, self._number, self._spool_id, workers=self._settings.workers
            )
        except NumberTakenError as exc:
            log.error("%s; this worker ends and is replaced", exc)  # noqa: TRY400 - the sentence is all there is to know
            for lane in list(self._lanes.open):
                lane.close(at_once=True)      # not one id more under this number; clients ask again, somewhere else
            self._port.stop_accepting()
            self.unfit.set()


def _random_counters() -> Iterator[int]:
    """Random numbers of 20 bits, from the kernel in blocks: one is needed in every millisecond with a click."""
    while True:
        for (number,) in iter_unpack(">I", os.urandom(4096)):
            yield number >> 12


class _ClickLog:
    """The spool's log as the redirector sees it; whoever ships is told of new rows."""

    __slots__ = ("_log", "_wake")

    def __init__(self, clicks: Log, wake: Callable[[], None]) -> None:
        self._log, self._wake = clicks, wake

    @property
    def available(self) -> bool:
        return self._log.healthy

    def append(self, rows: list[bytes]) -> int:
        first = self._log.append(rows)
        self._wake()
        return first


def _raise_descriptor_limit() -> int:
    """As many open files as this process may have: the usual soft limit of 1,024 is for programs that use select()."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else 1 << 20
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


async def _every(seconds: float, work: Callable[[], Awaitable[None]]) -> None:
    """Do it again and again. A failure is logged and the next turn tried: nothing beside may end a worker."""
    while True:
        await asyncio.sleep(seconds)
        try:
            await work()
        except Exception:
            log.exception("%s failed", getattr(work, "__name__", work))
