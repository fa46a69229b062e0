"""Records the postbacks of one journal: the group-commit loop behind the door, and behind every spool found dead.

One loop, always reading the journal in order from its cursor: live traffic, catching up after an outage and a dead spool
are the same code, and memory is flat whatever PostgreSQL does. The door appends a message to the journal, then hands it to
`submit`, which spares decoding it again and tells the caller. So nothing can be recorded that is not on the
disk, and nothing on the disk is forgotten because a process ended.

The cursor is a low-water mark: all below it is applied. Messages above it may be as well (those around a locked key go
ahead); the postback log, whose key is the message's id, lets each in once. How a group is committed is group_commit.py's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from tracker.domain.postback import Postback
from tracker.storage.conversions.group_commit import LEAST_PATIENCE_MS, commit_group, rough_key
from tracker.storage.conversions.journal import BadJournalRowError, decode_row
from tracker.storage.conversions.journal_mark import JournalMark, sequence_of
from tracker.storage.conversions.session import open_recorders
from tracker.storage.conversions.store import QUEUED, Answer, apply_again, logged_answers
from tracker.storage.conversions.transaction import NoMark
from tracker.storage.postgres import Connection, PostgresError, Unavailable
from tracker.storage.spool.cursor import CursorMovedError
from tracker.storage.spool.reader import Batch, Gap, LogReader

logger = logging.getLogger(__name__)

MAX_GROUP: Final = 256
"""Messages in a transaction: 15 to 30 ms. At half, a fifth less throughput; at double, locks are held twice as long."""
MAX_BYTES: Final = 2**20
MOST_WAITING: Final = 10_000
"""Callers who wait. Beyond, a message is answered `queued` at once and read from the journal: about 20 MB of memory."""
MOST_AHEAD: Final = 50_000   # messages looked at above the cursor while a key stays locked: 50 MB at worst, then all wait for it
POLL_SECONDS: Final = 1.0    # should nobody wake us
_FIRST_BACKOFF_SECONDS: Final = 0.05
_LAST_BACKOFF_SECONDS: Final = 3.0
_LAST_HOLD_SECONDS: Final = 2.0

OUTAGES = (PostgresError, *Unavailable, CursorMovedError)

Heard = Callable[[bytes, Answer], None]
"""Told a message's id and what became of it."""


@dataclass(slots=True)
class RecorderCounts:
    """What a worker's recorders have done since it started; whoever serves metrics reads it."""

    messages: int = 0            # applied, quarantined ones included
    groups: int = 0
    quarantined: int = 0
    held: int = 0                # keys that are locked now
    retries: int = 0             # a connection was dropped
    ambiguous_commits: int = 0   # a connection broke while its commit was under way
    seconds: float = 0.0         # of the last group


@dataclass(slots=True)
class _Held:
    """Messages of one key that somebody else has locked."""

    messages: list[Postback]
    due: float
    wait: float = 0.1


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
        self._connection: Connection | None = None
        self._position = 0                                 # the first row not looked at on this connection
        self._callers: dict[bytes, Heard] = {}
        self._live: dict[int, Postback] = {}               # submitted and not answered, spares decoding
        self._late: list[bytes] = []                       # submitted after the loop had read them
        self._held: dict[bytes, _Held] = {}
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
        if len(self._callers) >= MOST_WAITING:
            heard(message.message_id, Answer(QUEUED, None))
        else:
            self._callers[message.message_id] = heard
            if sequence_of(message) >= self._position:
                self._live[sequence_of(message)] = message
            else:
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
                    return True
                await self._rest()
        return False

    async def _rest(self) -> None:
        """Until there is something new, or a held key may be free."""
        now = time.monotonic()
        pause = min((held.due - now for held in self._held.values()), default=POLL_SECONDS)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, min(pause, POLL_SECONDS))):
                await self._woken.wait()

    def _drop(self) -> None:
        """Without a word to the server: a close could wait for ever on a silent socket."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def _claimed(self) -> Connection:
        """The connection that may move the mark; with a new one everything above the mark is looked at anew."""
        if self._connection is None or self._connection.is_closed():
            self._connection = await open_recorders(self._dsn)
            self.counts.ambiguous_commits += self._mark.cursor.in_doubt
            await self._mark.claim(self._connection)
            self._position = self._mark.next_seq
            self._held.clear()
            self._late += [id_ for id_ in self._callers if int.from_bytes(id_[8:], "big") < self._position]
        return self._connection

    async def _record_next(self) -> bool:
        """Record what is due and the next group; False when there was nothing."""
        connection = await self._claimed()
        retried = await self._retry_held(connection)
        if self._late:
            await self._answer_late(connection)
        if self._position - self._mark.next_seq > MOST_AHEAD:
            return retried
        found = self._reader.read(self._position, max_rows=MAX_GROUP, max_bytes=MAX_BYTES)
        if found is None:
            return retried
        if isinstance(found, Gap):
            logger.error("spool %016x: postbacks %d to %d are lost to damage (%s)", self._spool_id, found.first_seq,
                         found.next_seq - 1, found.where)
            await self._mark.skip(connection, found.first_seq, found.next_seq - found.first_seq, "damaged", None)
            self.counts.quarantined += found.next_seq - found.first_seq
        else:
            await self._record(connection, await self._messages_of(connection, found))
        self._position = max(self._position, found.next_seq)
        return True

    async def _messages_of(self, connection: Connection, batch: Batch) -> list[Postback]:
        """The batch's messages; rows that are none are quarantined."""
        messages = []
        for seq, row in batch.numbered():
            try:
                messages.append(self._live.get(seq) or decode_row(self._spool_id, seq, row))
            except BadJournalRowError as error:
                logger.error("%s", error)  # noqa: TRY400 - the row is kept, the traceback would say nothing more
                await self._mark.skip(connection, seq, 1, str(error), row)
                self.counts.quarantined += 1
        return messages

    async def _record(self, connection: Connection, messages: Sequence[Postback]) -> None:
        free = []
        for message in messages:
            held = self._held.get(rough_key(message)) if self._held else None
            if held is None:
                free.append(message)
            else:
                held.messages.append(message)   # behind those of its key
        if not free:
            return
        self._position = sequence_of(messages[-1]) + 1   # who submits one of these from now on is answered from the log
        started = time.monotonic()
        for unit in await commit_group(connection, free, self._mark, self._answer):
            self._held[rough_key(unit[0])] = _Held(list(unit), time.monotonic() + 0.1)
        self.counts.groups += 1
        self.counts.seconds = time.monotonic() - started
        self.counts.held = len(self._held)

    async def _retry_held(self, connection: Connection) -> bool:
        """Try keys that were locked again, each alone and with little patience, less and less often."""
        progressed = False
        for key, held in list(self._held.items()):
            if held.due > time.monotonic():
                continue
            if await commit_group(connection, held.messages, self._mark, self._answer, patience_ms=LEAST_PATIENCE_MS):
                held.wait = min(2 * held.wait, _LAST_HOLD_SECONDS)
                held.due = time.monotonic() + held.wait
            else:
                del self._held[key]
                progressed = True
        self.counts.held = len(self._held)
        return progressed

    async def _answer_late(self, connection: Connection) -> None:
        """Answer those whose messages were read before they were submitted; held ones get theirs when they are free."""
        late, self._late = [id_ for id_ in self._late if id_ in self._callers], []
        logged = await logged_answers(connection, late)
        held = {message.message_id for unit in self._held.values() for message in unit.messages}
        self._answer({id_: logged.get(id_, Answer(QUEUED, None)) for id_ in late if id_ in logged or id_ not in held})

    def _answer(self, answers: dict[bytes, Answer]) -> None:
        self.counts.messages += len(answers)
        told = []
        for message_id, answer in answers.items():
            self._live.pop(int.from_bytes(message_id[8:], "big"), None)
            caller = self._callers.pop(message_id, None)
            if caller is not None:
                told.append((caller, message_id, answer))
        if told:      # in the next turn: by then the next group has asked PostgreSQL its first question, and need not wait
            asyncio.get_running_loop().call_soon(_tell, told)


def _tell(told: Iterable[tuple[Heard, bytes, Answer]]) -> None:
    for caller, message_id, answer in told:
        caller(message_id, answer)


async def apply_journal(dsn: str, spool_id: int, reader: LogReader, *, seconds: float = 3600.0) -> bool:
    """Record what a dead spool's journal still holds; the caller has locked the spool. False when `seconds` were over first."""
    return await Recorder(dsn, spool_id, reader).drain(seconds)


async def replay(connection: Connection, messages: Iterable[Postback]) -> dict[str, int]:
    """Play journalled messages again, whatever the cursors say; those in the postback log are left alone, unless they were
    quarantined: these are tried again.

    Returns how many had which answer; keys that stay locked count as `locked`. Raises what is an outage: play again then.
    """
    tally: dict[str, int] = {}

    def count(answers: dict[bytes, Answer]) -> None:
        for answer in answers.values():
            tally[answer.status] = tally.get(answer.status, 0) + 1

    source = iter(messages)
    while group := list(islice(source, MAX_GROUP)):
        for unit in await commit_group(connection, group, NoMark(), count, apply=apply_again):
            tally["locked"] = tally.get("locked", 0) + len(unit)
    return tally
