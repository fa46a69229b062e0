"""Records the postbacks of one journal: the group-commit loop behind the door, and behind every spool found dead.

One loop, always reading the journal in order from its cursor: live traffic, catching up after an outage and a dead spool
are the same code, and memory is flat whatever PostgreSQL does. The door appends a message to the journal, then hands it to
`submit`, which spares decoding it again and tells the caller. So nothing can be recorded that is not on the
disk, and nothing on the disk is forgotten because a process ended.

The cursor is a low-water mark: all below it is applied. Messages above it may be as well (those around a locked key go
ahead); the postback log, whose key is the message's id, lets each in once. How a group is committed is group_commit.py's.

While a group is committed on one connection, the next one is read and decided on another, unless what is under way bears on
it: side by side 1.1 times the sales of 64 clients, 1.3 times those of 800, and 1.3 times out of a full journal.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from tracker.domain.postback import Postback
from tracker.storage.conversions.answers import QUEUED, Answer, logged_answers
from tracker.storage.conversions.callers import Callers, Heard
from tracker.storage.conversions.group_commit import LEAST_PATIENCE_MS, Apply, Fault, commit_group, fault_of, rough_key
from tracker.storage.conversions.held import HeldKeys
from tracker.storage.conversions.journal import BadJournalRowError, decode_row
from tracker.storage.conversions.journal_mark import JournalMark, sequence_of
from tracker.storage.conversions.session import SpareSession, open_recorders
from tracker.storage.conversions.store import Prepared, apply_messages, finish, prepare
from tracker.storage.conversions.transaction import Transaction
from tracker.storage.postgres import Connection, PostgresError, Unavailable
from tracker.storage.spool.cursor import CursorMovedError
from tracker.storage.spool.reader import Batch, Gap, LogReader

logger = logging.getLogger(__name__)

MAX_GROUP: Final = 256
"""Messages in a transaction: 15 to 30 ms. At half, a fifth less throughput; at double, locks are held twice as long."""
MAX_BYTES: Final = 2**20
LEAST_PREPARED: Final = 16
"""Messages worth preparing while others are committed: each group costs PostgreSQL half a millisecond, however small."""
MOST_AHEAD: Final = 50_000   # messages looked at above the cursor while a key stays locked: 50 MB at worst, then all wait for it
POLL_SECONDS: Final = 1.0    # should nobody wake us
_FIRST_BACKOFF_SECONDS: Final = 0.05
_LAST_BACKOFF_SECONDS: Final = 3.0

OUTAGES = (PostgresError, *Unavailable, CursorMovedError)


@dataclass(slots=True)
class RecorderCounts:
    """What a worker's recorders have done since it started; whoever serves metrics reads it."""

    messages: int = 0            # applied, quarantined ones included
    groups: int = 0
    prepared: int = 0            # of the groups, while another one was committed
    quarantined: int = 0
    held: int = 0                # keys that are locked now
    retries: int = 0             # a connection was dropped
    ambiguous_commits: int = 0   # a connection broke while its commit was under way
    seconds: float = 0.0         # of the last group


class _Group(NamedTuple):
    """Messages to be applied next, in the order they came, and what was prepared of that while others were committed."""

    messages: list[Postback]
    prepared: Prepared | None = None


class Recorder:
    """Records one journal. `submit` from the same event loop; `run` as a task, `drain` or `stop` at the end."""

    def __init__(
        self, dsn: str, spool_id: int, reader: LogReader, *, confirmed: Callable[[int], None] = lambda _: None,
        counts: RecorderCounts | None = None,
    ) -> None:
        """`reader` reads the spool's journal: of the live log for the door's own, of the files for a dead spool.
        `confirmed` is told each number below which all is applied for good."""
        self.counts = counts or RecorderCounts()
        self._dsn, self._spool_id, self._reader, self._confirmed = dsn, spool_id, reader, confirmed
        self._mark = JournalMark(spool_id)
        self._connection: Connection | None = None         # moves the mark
        self._spare = SpareSession(dsn)                    # looks ahead meanwhile
        self._next: _Group | None = None
        self._committing = False
        self._position = 0                                 # the first row not looked at on this connection
        self._callers = Callers()
        self._late: list[bytes] = []                       # submitted after the loop had read them
        self._held = HeldKeys()
        self._woken = asyncio.Event()
        self._stopping = self._until_empty = False
        self._running: asyncio.Task[bool] | None = None

    @property
    def next_seq(self) -> int:
        """All journal rows below are applied."""
        return self._mark.next_seq

    @property
    def connected(self) -> bool:
        """Whether PostgreSQL was there a moment ago: the door need not wait for an answer when it was not."""
        return self._connection is not None

    def submit(self, message: Postback, heard: Heard) -> None:
        """Record a message that the journal has. `heard` is told its id and what became of it, as late as PostgreSQL is, so
        wait for it with a deadline and care no more: the message is recorded all the same. It may not raise."""
        if self._callers.wait(message, heard) and sequence_of(message) < self._position:
            self._late.append(message.message_id)
        self._woken.set()

    async def run(self) -> None:
        """Record until `drain` or `stop`. To be started once, as a task."""
        if self._stopping or self._until_empty:
            return                 # ended before this task had its first turn
        running = self._begin()
        try:
            await asyncio.wait([running])
        finally:
            running.cancel()   # only if this task is cancelled is it still running
        if not running.cancelled():
            running.result()

    async def drain(self, seconds: float) -> bool:
        """Record what is there and end `run`; True when all of it is recorded, False when `seconds` were over first."""
        self._stopping = False
        self._until_empty = True
        return await self._end(self._running or self._begin(), seconds)

    async def stop(self, seconds: float = 2.0) -> None:
        """End `run` after the group under way, or after so many seconds; the rest is found in the journal again."""
        self._stopping = True
        if self._running is not None:
            await self._end(self._running, seconds)
        self._drop()

    def _begin(self) -> asyncio.Task[bool]:
        self._running = asyncio.create_task(self._loop(), name=f"record {self._spool_id:016x}")
        return self._running

    async def _end(self, running: asyncio.Task[bool], seconds: float) -> bool:
        """Wait so long for the loop to end by itself, else end it, wherever it is; what it returned. `run` says what it raised."""
        self._woken.set()
        try:
            await asyncio.wait([running], timeout=seconds)
        finally:
            running.cancel()
            await asyncio.wait([running])
            self._running = None
            self._drop()
        return not running.cancelled() and running.exception() is None and running.result()

    async def _loop(self) -> bool:
        """Until told to stop: False. Or, when draining, until there is nothing left: True."""
        backoff = _FIRST_BACKOFF_SECONDS
        while not self._stopping:
            self._woken.clear()
            try:
                progressed = await self._record_next()
            except OUTAGES as error:
                self.counts.retries += 1
                logger.warning("spool %016x: postbacks wait: %s: %s", self._spool_id, type(error).__name__, error)
                self._drop()
                await asyncio.sleep(backoff * random.uniform(0.5, 1.0))  # noqa: S311 - spreads workers, guards nothing
                backoff = min(2 * backoff, _LAST_BACKOFF_SECONDS)
                continue
            backoff = _FIRST_BACKOFF_SECONDS
            if progressed:
                self._confirmed(self._mark.next_seq)
            else:
                if self._until_empty and not self._held:
                    return self._mark.next_seq == self._position
                await self._rest()
        return False

    async def _rest(self) -> None:
        """Until there is something new, or a held key may be free."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._held.seconds(POLL_SECONDS)):
                await self._woken.wait()

    def _drop(self) -> None:
        """Without a word to the server: a close could wait for ever on a silent socket."""
        if self._connection is not None:
            self._connection.terminate()
        self._spare.drop()
        self._connection = self._next = None

    async def _claimed(self) -> Connection:
        """The connection that may move the mark; with a new one everything above the mark is looked at anew."""
        connection = self._connection
        if connection is None or connection.is_closed():
            self._drop()
            self._connection = connection = await open_recorders(self._dsn)
            self.counts.ambiguous_commits += self._mark.cursor.in_doubt
            await self._mark.claim(connection)
            self._position = self._mark.next_seq
            self._held.clear()
            self._late += self._callers.below(self._position)
        return connection

    async def _record_next(self) -> bool:
        """Record what is due and the next group; False when there was nothing."""
        connection = await self._claimed()
        retried = await self._retry_held(connection)
        if self._late:
            await self._answer_late(connection)
        group, self._next = self._next, None
        if group is None:
            if (found := self._read()) is None:
                return retried
            if isinstance(found, Gap):
                await self._skip(connection, found)
                return True
            group = _Group(self._take(await self._messages_of(connection, found), found.next_seq))
        if group.messages:
            await self._record(connection, group)
        return True

    def _read(self) -> Batch | Gap | None:
        """What comes next in the journal."""
        if self._position - self._mark.next_seq > MOST_AHEAD:
            return None
        return self._reader.read(self._position, max_rows=MAX_GROUP, max_bytes=MAX_BYTES)

    async def _skip(self, connection: Connection, gap: Gap) -> None:
        count = gap.next_seq - gap.first_seq
        logger.error("spool %016x: postbacks %d to %d are lost to damage (%s)", self._spool_id, gap.first_seq,
                     gap.next_seq - 1, gap.where)
        await self._mark.skip(connection, gap.first_seq, count, "damaged", None)
        self.counts.quarantined += count
        self._callers.forget(gap.first_seq, gap.next_seq)
        self._position = max(self._position, gap.next_seq)

    async def _messages_of(self, connection: Connection, batch: Batch) -> list[Postback]:
        """The batch's messages; rows that are none are quarantined."""
        messages = []
        for seq, row in batch.numbered():
            try:
                messages.append(self._message(seq, row))
            except BadJournalRowError as error:
                logger.error("%s", error)  # noqa: TRY400 - the row is kept, the traceback would say nothing more
                await self._mark.skip(connection, seq, 1, str(error), row)
                self.counts.quarantined += 1
        return messages

    def _message(self, seq: int, row: bytes) -> Postback:
        return self._callers.message(seq) or decode_row(self._spool_id, seq, row)

    def _take(self, messages: Iterable[Postback], next_seq: int) -> list[Postback]:
        """Those of the messages that may be applied: of a locked key's, none. All below `next_seq` are looked at by now: who
        submits one of them is answered from the log."""
        self._position = max(self._position, next_seq)
        return self._held.pass_by(messages)

    async def _record(self, connection: Connection, group: _Group) -> None:
        """Commit the group, and prepare the next one meanwhile."""
        started = time.monotonic()
        self._committing = True
        ahead = asyncio.create_task(self._look_ahead(group.messages), name=f"look ahead {self._spool_id:016x}")
        try:
            for unit in await commit_group(
                connection, group.messages, self._mark, self._answer, apply=_beginning_with(group.prepared)
            ):
                self._held.hold(unit)
            self.counts.groups += 1
            self.counts.seconds = time.monotonic() - started
            self.counts.held = len(self._held)
            self._committing = False
            self._woken.set()
            self._next = await ahead
        except BaseException:
            self._drop()       # first, so that the other has nobody to wait for
            ahead.cancel()
            await asyncio.gather(ahead, return_exceptions=True)
            raise

    async def _look_ahead(self, under_way: Sequence[Postback]) -> _Group | None:
        """What to apply after those that are being committed, prepared; None when too little came meanwhile. What fails here is
        tried in its turn: then messages at fault are found out, and outages are."""
        while (batch := self._read_ahead()) is None:
            if not self._committing:
                return None
            self._woken.clear()
            await self._woken.wait()
        apart = self._apart(batch, under_way)
        if len(apart) < LEAST_PREPARED or (looking := await self._spare.get()) is None:
            return None
        messages = self._take(apart, sequence_of(apart[-1]) + 1)
        try:
            prepared = await prepare(looking, messages)
        except Exception as error:  # noqa: BLE001 - a message's fault is told in its turn
            if fault_of(error) is Fault.OUTAGE:
                logger.warning("spool %016x: postbacks are read anew: %s: %s", self._spool_id, type(error).__name__, error)
                self._spare.drop()      # the other session may be well
            return _Group(messages)
        self.counts.prepared += 1
        return _Group(messages, prepared)

    def _read_ahead(self) -> Batch | None:
        """What comes next in the journal, when it is worth preparing."""
        found = self._read()
        return found if isinstance(found, Batch) and len(found.lengths) >= LEAST_PREPARED else None

    def _apart(self, batch: Batch, under_way: Sequence[Postback]) -> list[Postback]:
        """The batch's first messages, as far as nothing that is being committed bears on them: up to one of the same key, or one
        that counts against the same limit. A row that is no message is left for its turn."""
        keys = {rough_key(message) for message in under_way}
        limited = any(message.limited for message in (*under_way, *self._held.messages()))     # held ones are tried in between
        apart: list[Postback] = []
        for seq, row in batch.numbered():
            try:
                message = self._message(seq, row)
            except BadJournalRowError:
                break
            if rough_key(message) in keys or (limited and message.limited):
                break
            apart.append(message)
        return apart

    async def _retry_held(self, connection: Connection) -> bool:
        """Try keys that were locked again, each alone and with little patience, less and less often."""
        progressed = False
        for held in self._held.due():
            if await commit_group(connection, held.messages, self._mark, self._answer, patience_ms=LEAST_PATIENCE_MS):
                self._held.put_off(held)
            else:
                self._held.release(held)
                progressed = True
        self.counts.held = len(self._held)
        return progressed

    async def _answer_late(self, connection: Connection) -> None:
        """Answer those whose messages were read before they were submitted; of those that are still to be applied, held or
        prepared, later, when they are."""
        late, self._late = [id_ for id_ in self._late if id_ in self._callers], []
        logged = await logged_answers(connection, late)
        coming = {message.message_id for message in (*self._held.messages(), *(self._next.messages if self._next else ()))}
        self._answer({id_: logged.get(id_, Answer(QUEUED, None)) for id_ in late if id_ in logged or id_ not in coming})

    def _answer(self, answers: dict[bytes, Answer]) -> None:
        self.counts.messages += len(answers)
        self._callers.answer(answers)


def _beginning_with(prepared: Prepared | None) -> Apply:
    """As apply_messages; the first time, of all messages, with what was prepared."""

    async def apply(transaction: Transaction, messages: Sequence[Postback]) -> dict[bytes, Answer]:
        nonlocal prepared
        if prepared is None:
            return await apply_messages(transaction, messages)
        first, prepared = prepared, None
        return await finish(transaction, first)

    return apply


async def apply_journal(dsn: str, spool_id: int, reader: LogReader, *, seconds: float = 3600.0) -> bool:
    """Record what a dead spool's journal still holds; the caller has locked the spool. False when `seconds` were over first."""
    return await Recorder(dsn, spool_id, reader).drain(seconds)
