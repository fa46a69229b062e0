"""The catalog, kept true: everything the doors need, in the memory of every edge, whatever PostgreSQL does.

LISTEN tells of a change at once; a resync every 30 s finds what a notification lost; a snapshot on
disk serves an edge that starts while PostgreSQL is away. What a row is: catalog/memory.py. Nothing here decides
anything about clicks or conversions, and nothing on the hot path waits here but the look-up of an unknown slug.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from pathlib import Path
from typing import Any

from tracker.domain.link import Link
from tracker.storage.catalog import snapshot as catalog_snapshot
from tracker.storage.catalog import sql as catalog_sql
from tracker.storage.catalog.look_ups import LookUps
from tracker.storage.catalog.memory import CatalogMemory
from tracker.storage.catalog.pace import Pace, uncollected
from tracker.storage.catalog.sql import KINDS, Kind
from tracker.storage.postgres import READ_ONLY, Connection, PostgresError, Unavailable, connect

log = logging.getLogger(__name__)

FAILURES = (*Unavailable, PostgresError)

RESYNC_SECONDS = 30.0
PING_SECONDS = 3.0             # with its deadline, a listener that died silently is noticed within 6 s
PING_DEADLINE_SECONDS = 3.0
CONNECT_SECONDS = 3.0
STATEMENT_SECONDS = 10.0
RETRY_SECONDS = 0.25           # doubled after every failure, up to
RETRY_MAX_SECONDS = 3.0        # this; each edge adds its own chance, so that they do not all knock at once
TELL_SECONDS = 10.0            # one log line an outage and ten seconds is enough
FETCH_ROWS = 500               # of a resync at a time: half a millisecond of decoding
SNAPSHOT_SECONDS = 1.0         # a change is on disk this much later, or
SNAPSHOT_RETRY_SECONDS = 30.0  # after a failure: a full disk is not made better by trying
SNAPSHOT_REST = 20             # 20 times what the last write took: a large catalog that changes all day costs 5 %


class Catalog(CatalogMemory):
    """Start it, read its dictionaries, stop it. The plain attributes below are what /readyz and /metrics show."""

    def __init__(self, dsn: str, folder: Path) -> None:
        """`folder`: TRACKER_SPOOL_DIR, where the snapshot lives."""
        super().__init__()
        self.ready = False               # loaded, from PostgreSQL or from the snapshot
        self.database_away = True        # as far as we know
        self.from_snapshot = False       # PostgreSQL has not confirmed it yet
        self.loaded_at = 0.0             # time.time() of the last resync; 0: never
        self.loads = 0                   # full loads
        self.resyncs = 0
        self.notifications = 0
        self.failures = 0                # connections lost or refused
        self.snapshots_written = 0
        self.look_ups = LookUps(dsn)
        self._dsn = dsn
        self._folder = folder
        self._horizon: int | None = None
        self._told_at = -TELL_SECONDS
        self._changed: dict[Kind, set[int]] = {}   # told of, not read yet
        self._resync_wanted = False
        self._wake = asyncio.Event()
        self._unsaved = asyncio.Event()
        self._started = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Load from PostgreSQL, or else from the snapshot, then follow. Returns when the first of them has been tried:
        `ready` says whether there is anything to serve."""
        self._tasks = [asyncio.create_task(self._follow_for_ever()), asyncio.create_task(self._save_for_ever())]
        await self._started.wait()

    async def stop(self) -> None:
        """Stop following; what is not on disk yet is written."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        await self.look_ups.stop()
        if self._unsaved.is_set():
            await self._save()

    def may_look_up(self, key: bytes | int | None = None) -> bool:
        """Whether a look-up would be tried now. Costs a comparison or two: for the fast lane."""
        return not self.database_away and self.look_ups.may_ask(key)

    async def look_up_slug(self, slug: bytes) -> Link | None:
        """The link of a slug, asking PostgreSQL when it is not known: at most 300 ms, one question a slug at a time.

        None when there is none, when the limit of questions is reached, or when PostgreSQL is away or too slow.
        """
        if self.links.get(slug) is None and self.may_look_up(slug):
            await self._look_up(slug)
        return self.links.get(slug)

    async def look_up_link(self, link_id: int) -> Link | None:
        """As look_up_slug, by the number inside a click id."""
        if self.links.numbered(link_id) is None and self.may_look_up(link_id):
            await self._look_up(link_id)
        return self.links.numbered(link_id)

    async def _look_up(self, key: bytes | int) -> None:
        try:
            found = await self.look_ups.ask(key)
        except FAILURES as exc:
            self._away("look-up", exc)   # nobody else waits 300 ms; the next good ping takes it back
            return
        for kind, row in found:
            self._put(kind, row)

    # ── Following PostgreSQL ──────────────────────────────────────────────────────────────────────────────────────────

    async def _follow_for_ever(self) -> None:
        pause = RETRY_SECONDS
        while True:
            loads = self.loads
            try:
                await self._connect_and_follow()
            except FAILURES as exc:
                self._away("following", exc)
            except Exception as exc:   # a mistake of ours must not leave an edge with a catalog that stands still
                log.exception("catalog: following failed")
                self._away("following", exc)
            if self.loads > loads:
                pause = RETRY_SECONDS
            if not self._started.is_set():
                try:
                    await self._load_snapshot()
                finally:
                    self._started.set()   # whatever happened: somebody waits for it
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))   # noqa: S311 (spread, not secrecy)
            pause = min(2 * pause, RETRY_MAX_SECONDS)

    async def _connect_and_follow(self) -> None:
        connection = await connect(
            self._dsn, timeout=CONNECT_SECONDS, command_timeout=STATEMENT_SECONDS, application_name="tracker catalog"
        )
        try:
            await self._follow(connection)
        finally:
            connection.terminate()

    async def _follow(self, connection: Connection) -> None:
        """From LISTEN until the connection fails: what changes after it is told of, what changed before it is read."""
        connection.add_termination_listener(lambda *_: self._wake.set())
        await connection.add_listener(catalog_sql.CHANNEL, self._on_notify)
        if self.ready:
            await self._ping(connection)      # before it reads everything, again and again
        # All of it: a failover or restore behind a lost connection may have rewritten what is older than our horizon.
        with contextlib.nullcontext() if self.ready else uncollected():
            await self._load(connection, everything=True)
        if not self._started.is_set() and not (self._folder / catalog_snapshot.NAME).exists():
            await self._save()      # the first start here: what is served from now on must survive a start without PostgreSQL
        self.ready, self.from_snapshot = True, False
        self._started.set()
        next_resync = time.monotonic() + RESYNC_SECONDS * random.uniform(0.7, 1.0)   # noqa: S311
        while True:
            self.database_away = False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PING_SECONDS):
                    await self._wake.wait()
            self._wake.clear()
            if self._resync_wanted or time.monotonic() >= next_resync:
                self._resync_wanted = False
                next_resync = time.monotonic() + RESYNC_SECONDS
                await self._load(connection, everything=False)
            elif self._changed:
                await self._read_changed(connection)
            else:
                await self._ping(connection)

    async def _ping(self, connection: Connection) -> None:
        """ConnectionError when the server only reads: after a failover another one has the truth, this one would stand still."""
        if await connection.fetchval(READ_ONLY, timeout=PING_DEADLINE_SECONDS):
            raise ConnectionError("PostgreSQL is read-only")

    def _on_notify(self, _connection: Any, _pid: int, _channel: str, payload: object) -> None:
        self.notifications += 1
        kind, _, numbers = str(payload).partition(":")
        ids = numbers.split(",")
        if kind in KINDS and all(text.isdecimal() for text in ids):
            self._changed.setdefault(kind, set()).update(map(int, ids))
        else:
            self._resync_wanted = True   # "resync", or something a newer schema says
        self._wake.set()

    async def _read_changed(self, connection: Connection) -> None:
        changed, self._changed = self._changed, {}
        for kind in KINDS:
            if ids := changed.get(kind):
                for row in await connection.fetch(catalog_sql.BY_IDS[kind], list(ids)):
                    self._put(kind, tuple(row))

    async def _load(self, connection: Connection, *, everything: bool) -> None:
        """Read all rows, or those whose writer the last load may not have seen. Holds the event loop for 5 ms at most.

        The horizon is this snapshot's xmin: every transaction below it had ended, so the next load needs rows at or
        above it only. A plain "newer than the newest I saw" would miss rows committed out of order.
        """
        self._changed = {}   # the snapshot below sees all of these; what is told of from now on stays
        pace = Pace()
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            horizon: int = await connection.fetchval(catalog_sql.HORIZON)
            everything = everything or self._horizon is None or horizon < self._horizon   # backwards: another database
            for kind in KINDS:
                seen: set[int] = set()
                cursor = (
                    connection.cursor(catalog_sql.ALL[kind], prefetch=FETCH_ROWS)
                    if everything
                    else connection.cursor(catalog_sql.SINCE[kind], self._horizon, prefetch=FETCH_ROWS)
                )
                async for row in cursor:
                    self._put(kind, tuple(row))
                    seen.add(row[0])
                    await pace.rest()
                if everything:
                    for number in list(self.rows[kind]):
                        # What was told of or looked up since is not gone: it is newer than this snapshot.
                        if number not in seen and number not in self._changed.get(kind, ()):
                            self.drop(kind, number)
                            self._unsaved.set()
                        await pace.rest()
        self._horizon = horizon
        self.loaded_at = time.time()
        if everything:
            self.loads += 1
        else:
            self.resyncs += 1

    def _put(self, kind: Kind, row: tuple[Any, ...]) -> None:
        if self.put(kind, row):
            self._unsaved.set()

    def _away(self, doing: str, why: BaseException) -> None:
        now = time.monotonic()
        if now - self._told_at > TELL_SECONDS:
            self._told_at = now
            log.warning("catalog: PostgreSQL is away (%s: %s %s); going on without", doing, type(why).__name__, why)
        self.failures += 1
        self.database_away = True
        self._wake.set()

    # ── The snapshot ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _load_snapshot(self) -> None:
        try:
            count = await catalog_snapshot.read(self._folder, self)
        except FileNotFoundError:
            log.warning("catalog: no snapshot in the spool folder; nothing can be served until PostgreSQL is back")
        except (OSError, catalog_snapshot.BadSnapshotError) as exc:
            log.warning("catalog: the snapshot is ignored: %s", exc)
        except Exception:   # a mistake of ours, or another program's: PostgreSQL will come, and must be followed then
            log.exception("catalog: the snapshot is ignored")
        else:
            log.warning("catalog: serving %d rows of the snapshot", count)
            self.ready = self.from_snapshot = True

    async def _save_for_ever(self) -> None:
        took = 0.0
        while True:
            await self._unsaved.wait()
            await asyncio.sleep(max(SNAPSHOT_SECONDS, SNAPSHOT_REST * took))
            begun = time.monotonic()
            saved = await self._save()
            took = time.monotonic() - begun if saved else SNAPSHOT_RETRY_SECONDS / SNAPSHOT_REST

    async def _save(self) -> bool:
        self._unsaved.clear()
        try:
            await catalog_snapshot.write(self._folder, self)
        except OSError as exc:
            self._unsaved.set()
            log.warning("catalog: the snapshot could not be written: %s", exc)
            return False
        self.snapshots_written += 1
        return True
