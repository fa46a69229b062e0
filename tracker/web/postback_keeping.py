"""Keeping messages: journal, then commit, and what may be promised where the commit does not come in time.

All messages of one turn of the event loop, whichever lane brought them, go into the journal as one frame. Whoever waits
is a callback, told once: a future or a task for each message would cost as much as deciding it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from tracker.domain.conversion_id import key_of
from tracker.domain.postback import Postback
from tracker.storage.catalog.catalog import Catalog
from tracker.storage.conversions.answers import QUEUED, Answer
from tracker.storage.conversions.journal import Journal
from tracker.storage.conversions.recorder import Recorder
from tracker.storage.conversions.unjournalled import UnjournalledRecorder
from tracker.storage.spool.log import SpoolUnavailable

log = logging.getLogger(__name__)

AWAY_SECONDS = 0.1              # to wait for a commit while PostgreSQL is known to be away: it may be back just now
SYNC_SECONDS = 0.25             # for the disk, after the time for the commit is over

Told = Callable[[Answer | None], None]
"""Told what became of a message. None: nothing was kept, or nobody can promise it."""


class _Waiting(NamedTuple):
    message: Postback
    told: Told
    give_up_at: float      # loop time


class Keeper:
    """One per worker."""

    def __init__(
        self, *, catalog: Catalog, journal: Journal, recorder: Recorder, unjournalled: UnjournalledRecorder
    ) -> None:
        self._catalog, self._journal, self._recorder, self._unjournalled = catalog, journal, recorder, unjournalled
        self._loop = asyncio.get_running_loop()
        self._arrived: list[_Waiting] = []
        self._doubtful: list[_Waiting] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def keep(self, draft: Postback, told: Told, *, give_up_at: float) -> None:
        """Have the message kept. `told` is called, later, once: when it is committed, or `queued`, or neither could be, at the
        latest SYNC_SECONDS after `give_up_at` (loop time), or after we came to it."""
        if not self._arrived:
            self._loop.call_soon(self._write)
        self._arrived.append(_Waiting(draft, told, give_up_at))

    def _write(self) -> None:
        arrived, self._arrived = self._arrived, []
        try:
            messages = self._journal.append([waiting.message for waiting in arrived])
        except SpoolUnavailable:
            self._start(self._keep_unjournalled(arrived))
            return
        except BaseException:      # what nobody foresaw: nothing may be promised
            for waiting in arrived:
                _tell(waiting.told, None)
            raise
        give_up_at = min(waiting.give_up_at for waiting in arrived)
        if self._catalog.database_away and not self._recorder.connected:
            give_up_at = self._loop.time() + AWAY_SECONDS
        frame = _Frame(self._doubt)
        frame.deadline = self._loop.call_at(give_up_at, frame.give_up)
        for message, waiting in zip(messages, arrived, strict=True):
            frame.open[message.message_id] = _Waiting(message, waiting.told, waiting.give_up_at)
        for message in messages:
            self._recorder.submit(message, frame.heard)

    def _doubt(self, waiting: Sequence[_Waiting]) -> None:
        """These were not committed in time, or put off: the journal answers for them once it is on the disk."""
        if not self._doubtful:
            self._loop.call_soon(lambda: self._start(self._promise()))
        self._doubtful += waiting

    async def _promise(self) -> None:
        doubtful, self._doubtful = self._doubtful, []
        # Late ourselves, for want of a processor? The disk has its time all the same: a late `queued` is worth more than a 503.
        since = max(self._loop.time(), min(waiting.give_up_at for waiting in doubtful))
        synced = False
        try:
            synced = await self._sync(since + SYNC_SECONDS)
        finally:      # whatever nobody foresaw: they are told
            for message, told, _ in doubtful:
                _tell(told, Answer(QUEUED, self._conversion_id(message)) if synced else None)

    async def _sync(self, give_up_at: float) -> bool:
        """Whether the journal is on the disk by then (loop time). A disk may stall for half a second and be well again."""
        try:
            async with asyncio.timeout_at(give_up_at):
                await self._journal.sync()
        except (SpoolUnavailable, TimeoutError):
            return False
        return True

    async def _keep_unjournalled(self, arrived: Sequence[_Waiting]) -> None:
        seconds = max(0.0, min(waiting.give_up_at for waiting in arrived) - self._loop.time())
        answers: Sequence[Answer | None] = [None] * len(arrived)
        try:
            answers = await self._unjournalled.record([waiting.message for waiting in arrived], seconds=seconds)
        finally:
            for waiting, answer in zip(arrived, answers, strict=True):
                _tell(waiting.told, answer)

    def _conversion_id(self, message: Postback) -> UUID | None:
        program = None if message.program_id is None else self._catalog.programs.get(message.program_id)
        if program is None:
            return None
        return UUID(bytes=key_of(message, several_per_key=program.several_per_key).conversion_id)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.add(task := self._loop.create_task(work))
        task.add_done_callback(self._tasks.discard)


class _Frame:
    """Messages that were journalled together, and who still waits for word of them."""

    __slots__ = ("_doubt", "deadline", "open")

    deadline: asyncio.TimerHandle

    def __init__(self, doubt: Callable[[Sequence[_Waiting]], None]) -> None:
        self._doubt = doubt
        self.open: dict[bytes, _Waiting] = {}

    def heard(self, message_id: bytes, answer: Answer) -> None:
        """From the recorder, sooner or later."""
        waiting = self.open.pop(message_id, None)
        if waiting is None:      # was given up
            return
        if not self.open:
            self.deadline.cancel()
        if answer.status == QUEUED:
            self._doubt([waiting])
        else:
            _tell(waiting.told, answer)

    def give_up(self) -> None:
        """The time is over."""
        waiting = list(self.open.values())
        self.open.clear()
        self._doubt(waiting)


def _tell(told: Told, answer: Answer | None) -> None:
    try:
        told(answer)
    except Exception:      # one caller's trouble must not cost the others their answers
        log.exception("an answer could not be delivered")
