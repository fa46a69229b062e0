"""Ships one log of clicks into PostgreSQL, for as long as it takes: reads on from the mark, stores, waits out what is
down.

It exists so that nothing else ever waits for PostgreSQL on behalf of a click. One runs in each edge worker for its
live spool, and one for each dead spool that somebody found (dead_spools.py); live shipping, catching up and recovery
are this one loop, and memory holds two batches at most, whatever PostgreSQL does. How a batch is stored, and what a refusal
means, lives in clicks/store.py.

What makes it exactly once: a connection is used only after it claimed the spool's mark (spool/cursor.py); after any
error that is not a verdict on rows the connection is dropped, never closed politely, and the next one goes on from
what the mark says.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tracker.domain.click_id import uuid_time_ms
from tracker.storage.clicks.copy_errors import Fault, fault_of
from tracker.storage.clicks.statistics import ChannelLimit, click_id_at, leads_as_expected
from tracker.storage.clicks.store import BatchRefusedError, ClickBatch, Stored, store_carefully, store_gap, store_plainly
from tracker.storage.clicks.table_columns import TableColumns
from tracker.storage.deadline import deadline
from tracker.storage.postgres import Connection, PostgresError, Unavailable, connect
from tracker.storage.spool.cursor import CursorMovedError, SpoolCursor
from tracker.storage.spool.reader import Batch, Gap, LogReader
from tracker.storage.spool.spool import spool_name

logger = logging.getLogger(__name__)

MAX_ROWS: Final = 5_000
"""Rows in a batch: 40 ms of PostgreSQL, 20 ms of ours in slices. At half, the statistics of a batch are nearly as many rows and a
fifth less is shipped; at double, memory doubles and nothing is faster."""
MAX_BYTES: Final = 2 * 2**20
LINGER_SECONDS: Final = 0.15
"""After a row came, wait for its neighbours, unless they fill a batch already: still in `clicks` within a second. Two workers of
24,000 clicks a second each, going on after half a batch, sent 3,100 rows at a time, not 4,900."""
POLL_SECONDS: Final = 1.0  # should nobody wake us
BATCH_SECONDS: Final = 15.0
"""Deadline of a plain batch: 200 times what it takes. A careful one, of up to 300 COPYs, has four times that."""
CLAIM_SECONDS: Final = 10.0  # more than the tries of SpoolCursor.claim, each of which may wait a second for a lock
FLUSH_SECONDS: Final = 5.0  # with asynchronous commits: how often one is synchronous while rows keep coming
_FIRST_BACKOFF_SECONDS: Final = 0.1
_LAST_BACKOFF_SECONDS: Final = 5.0


class HeldError(Exception):
    """The segment's columns do not fit the table: nothing is sent until a person has looked."""


_OUTAGES = (PostgresError, *Unavailable, CursorMovedError, BatchRefusedError, HeldError)


@dataclass(slots=True)
class ShipperCounts:
    """What a worker's shippers have done since it started; whoever serves metrics reads it."""

    rows: int = 0  # to clicks, those that were there already included
    batches: int = 0
    retries: int = 0  # a connection was dropped and claimed anew
    quarantined: int = 0
    strays: int = 0
    duplicates: int = 0  # rows that were there already: a mark was lost
    ambiguous_commits: int = 0  # a connection broke while its commit was under way
    held: int = 0  # 1 while a segment does not fit the table


class Shipper:
    """Ships the clicks of one spool. `confirmed` is told the mark below which PostgreSQL has every row for good; a
    lower one than before when it has lost some."""

    def __init__(
        self,
        dsn: str,
        spool_id: int,
        reader: LogReader,
        *,
        synchronous: bool = True,
        confirmed: Callable[[int], None] = lambda _: None,
        counts: ShipperCounts | None = None,
        max_rows: int = MAX_ROWS,
        batch_seconds: float = BATCH_SECONDS,
    ) -> None:
        """`synchronous`: TRACKER_COMMIT. Off loses nothing either: what a crash of PostgreSQL takes is sent again."""
        self._dsn, self._reader, self._synchronous, self._confirmed = dsn, reader, synchronous, confirmed
        self.counts = counts or ShipperCounts()
        self._cursor = SpoolCursor(spool_id, "clicks")
        self._name = spool_name(spool_id)
        self._max_rows = self._rows_limit = max_rows
        self._batch_seconds = batch_seconds
        self._connection: Connection | None = None
        self._columns: TableColumns | None = None
        self._channels = ChannelLimit()
        self._next_seq = 0
        self._flushed_seq = 0
        self._flushed_at = 0.0
        self._careful = False
        self._behind = False  # a full batch waits behind the last one
        self._read_ahead: asyncio.Task[Batch | Gap | None] | None = None
        self._woken = asyncio.Event()
        self._stop = asyncio.Event()
        self._first_waiting: tuple[int, float] | None = None  # a sequence number and when its row was made
        self._running: asyncio.Task[bool] | None = None

    @property
    def next_seq(self) -> int:
        """The first sequence number not known to be stored."""
        return self._next_seq

    def oldest_age_seconds(self, now: float) -> float:
        """Age of the oldest row that is not known to be stored; 0 when nothing waits. `now` as time.time() gives it.

        Goes on growing while PostgreSQL is away. Costs a look into the files at most once for each move of the mark.
        OSError when they cannot be read.
        """
        if self._first_waiting is None or self._first_waiting[0] != self._next_seq:
            found = self._reader.read(self._next_seq, max_rows=1, max_bytes=1)
            while isinstance(found, Gap):
                found = self._reader.read(found.next_seq, max_rows=1, max_bytes=1)
            if found is None:
                return 0.0
            self._first_waiting = self._next_seq, _made_at(found)
        return max(0.0, now - self._first_waiting[1])

    def wake(self) -> None:
        """There are new rows: called by whoever appended, on the same loop. Costs nothing when repeated."""
        self._woken.set()

    async def run(self) -> None:
        """Ship until `drain` or `stop`. To be started once, as a task."""
        running = self._running = asyncio.create_task(self._loop(until_empty=False), name=f"ship {self._name}")
        try:
            await asyncio.wait([running])
        finally:
            running.cancel()  # only if this task is cancelled is it still running
        if not running.cancelled():
            running.result()

    async def drain(self, seconds: float) -> bool:
        """End `run`, ship what is there. True: all is stored and flushed; False: `seconds` were over first.

        The batch under way has half of the time: a connection that hangs must leave some for another one.
        """
        end_at = time.monotonic() + seconds
        await self._end_loop(seconds / 2)
        self._stop.clear()
        self._running = asyncio.create_task(self._loop(until_empty=True), name=f"drain {self._name}")
        try:
            done, _ = await asyncio.wait([self._running], timeout=max(0.0, end_at - time.monotonic()))
            return self._running.result() if done else False
        finally:
            await self._end_loop(0.0)
            self._drop()

    async def stop(self, seconds: float = 2.0) -> None:
        """End `run` after the batch under way, or after so many seconds. The rest is for whoever finds the spool."""
        await self._end_loop(seconds)
        self._drop()

    async def _end_loop(self, seconds: float) -> None:
        self._stop.set()
        self.wake()
        running, self._running = self._running, None
        if running is not None:
            try:
                await asyncio.wait([running], timeout=seconds)
            finally:
                if running.cancel():
                    self._drop()  # cancelled or not, the driver may be waiting for a server that hangs
            await asyncio.wait([running])

    async def _loop(self, *, until_empty: bool) -> bool:
        backoff = _FIRST_BACKOFF_SECONDS
        while not self._stop.is_set():
            self._woken.clear()
            try:
                shipped = await self._ship_next()
            except _OUTAGES as error:
                self._note_outage(error)
                await self._pause(backoff * random.uniform(0.5, 1.0))  # noqa: S311 - spreads workers, guards nothing
                backoff = min(2 * backoff, _LAST_BACKOFF_SECONDS)
                continue
            backoff = _FIRST_BACKOFF_SECONDS
            if until_empty and shipped == 0:
                return True
            if not until_empty and not self._behind:
                await self._rest(shipped)
        return False

    async def _rest(self, shipped: int) -> None:
        """Wait for new rows, then a moment for their neighbours."""
        if not shipped:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._woken.wait()
        await self._pause(LINGER_SECONDS)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()

    def _note_outage(self, error: BaseException) -> None:
        self.counts.retries += 1
        self.counts.held = int(isinstance(error, HeldError))
        if isinstance(error, TimeoutError):  # perhaps the batch is too much for this server just now
            self._rows_limit = max(100, self._rows_limit // 2)
        level = logging.ERROR if isinstance(error, HeldError | BatchRefusedError) else logging.WARNING
        what = type(error).__name__
        logger.log(level, "spool %s waits at row %d: %s: %s", self._name, self._next_seq, what, error)
        self._drop()

    def _drop(self) -> None:
        """Without a word to the server: a close could wait for ever on a silent socket."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None
        if self._read_ahead is not None:
            if not self._read_ahead.cancel() and not self._read_ahead.cancelled():
                self._read_ahead.exception()      # read again, it is told again
            self._read_ahead = None

    async def _ship_next(self) -> int:
        """Store the next batch or gap; how many rows that was, 0 when nothing is new."""
        connection = await self._claimed()
        found = await self._next_batch()
        synchronous = self._synchronous or time.monotonic() - self._flushed_at > FLUSH_SECONDS
        self._behind = False
        if found is None:
            await self._flush(connection)
            return 0
        if isinstance(found, Gap):
            async with deadline(connection, self._batch_seconds):
                await store_gap(connection, self._cursor, found.first_seq, found.next_seq)
            last = found.next_seq - 1
            logger.error("spool %s: rows %d to %d are lost (%s)", self._name, found.first_seq, last, found.where)
            self.counts.quarantined += found.next_seq - found.first_seq
            self._moved(found.next_seq, flushed=True)
            return 1
        self._first_waiting = found.first_seq, _made_at(found)
        full = min(self._rows_limit, MAX_BYTES * len(found.lengths) // max(1, len(found.rows)))
        self._behind = self._reader.reaches(found.next_seq + full)
        self._rows_limit = min(self._max_rows, 2 * self._rows_limit)
        if self._behind:      # PostgreSQL need not wait until the next batch is read
            self._read_ahead = asyncio.create_task(self._gather(found.next_seq))
        stored = await self._store(connection, found, synchronous=synchronous)
        self._tally(stored)
        self._moved(stored.next_seq, flushed=synchronous)
        return len(found.lengths)

    async def _next_batch(self) -> Batch | Gap | None:
        """What follows from the mark on, read ahead or now."""
        reading, self._read_ahead = self._read_ahead, None
        if reading is not None:
            found = await reading
            if found is not None and found.first_seq == self._next_seq:
                return found
        return await self._gather(self._next_seq)

    async def _gather(self, next_seq: int) -> Batch | Gap | None:
        return await self._reader.gather(next_seq, max_rows=self._rows_limit, max_bytes=MAX_BYTES)

    async def _claimed(self) -> Connection:
        """The connection that may move the mark; a new one reads the mark and the table's columns first."""
        if self._connection is not None and not self._connection.is_closed():
            return self._connection
        connection = await connect(self._dsn, command_timeout=4 * self._batch_seconds)
        self._connection = connection
        in_doubt = self._cursor.in_doubt
        async with deadline(connection, CLAIM_SECONDS):
            next_seq = await self._cursor.claim(connection)
        if in_doubt:
            self.counts.ambiguous_commits += 1
            self.counts.rows += max(0, next_seq - self._next_seq)
        if next_seq < self._next_seq:
            logger.warning("spool %s: the mark went back from %d to %d", self._name, self._next_seq, next_seq)
            self._flushed_seq = min(self._flushed_seq, next_seq)
            self._confirmed(self._flushed_seq)
        await self._reader.seek(next_seq)  # clicks are answered meanwhile
        self._next_seq = next_seq
        async with deadline(connection, CLAIM_SECONDS):
            self._columns = await TableColumns.read(connection)
        return connection

    async def _store(self, connection: Connection, found: Batch, *, synchronous: bool) -> Stored:
        assert self._columns is not None  # set with the connection
        why = self._columns.refusal(found.columns)
        if why is None and not leads_as_expected(found.columns):
            why = "the first columns are not those the statistics are made of"
        if why is not None:
            raise HeldError(why)
        batch = ClickBatch(found.first_seq, found.rows, found.lengths, found.columns)
        if not self._careful:
            try:
                async with deadline(connection, self._batch_seconds):
                    return await store_plainly(connection, self._cursor, batch, self._channels, synchronous=synchronous)
            except PostgresError as error:
                if connection.is_closed() or fault_of(error) is Fault.OUTAGE:
                    raise
        async with deadline(connection, 4 * self._batch_seconds):
            await connection.execute("ROLLBACK")
            stored = await store_carefully(connection, self._cursor, batch, self._channels, synchronous=synchronous)
        self._careful = stored.duplicates > 0  # a lost mark: the next batch will be there already too
        return stored

    def _moved(self, next_seq: int, *, flushed: bool) -> None:
        self._next_seq = next_seq
        if flushed:
            self._flushed_seq, self._flushed_at = next_seq, time.monotonic()
            self._confirmed(next_seq)

    def _tally(self, stored: Stored) -> None:
        counts = self.counts
        counts.batches += 1
        counts.held = 0
        counts.rows += stored.stored
        counts.strays += stored.stray
        counts.quarantined += stored.quarantined
        counts.duplicates += stored.duplicates

    async def _flush(self, connection: Connection) -> None:
        """Once nothing is new: make asynchronous commits certain, so that segments may go and a process may end."""
        if self._flushed_seq < self._next_seq:
            async with deadline(connection, self._batch_seconds):
                await self._cursor.flush(connection)
            self._moved(self._next_seq, flushed=True)


def _made_at(batch: Batch) -> float:
    """When the first row's click was made, in seconds since the epoch."""
    return uuid_time_ms(click_id_at(batch.rows, 0)) / 1000
