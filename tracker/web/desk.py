"""The desk between lanes and spool: collects the visits of one loop iteration, has them written, then lets the answers out.

Both lanes hand in here, so one request gets one answer whichever lane took it, in order, and never before the write.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from typing import Final, Protocol

from tracker import speedups
from tracker.domain.link import Link
from tracker.storage.spool.spool import SpoolUnavailable
from tracker.web.agents import Place, Places
from tracker.web.framing import Visit
from tracker.web.redirect import Redirector

log = logging.getLogger(__name__)

REFERRER_POLICY: Final = {"none": "no-referrer", "origin": "strict-origin-when-cross-origin", "full": "no-referrer-when-downgrade"}

FOUND: Final = b"HTTP/1.1 302 Found\r\nLocation: "
NOT_FOUND: Final = b'{"type":"about:blank","title":"No such link","status":404,"code":"unknown_link"}'
GONE: Final = b'{"type":"about:blank","title":"This link is closed","status":410,"code":"closed_link"}'


class Sink(Protocol):
    """Who waits for an answer: a connection, or aiohttp's handler."""

    def deliver(self, answer: bytes) -> None: ...

    def abandon(self) -> None:
        """There will be none: the connection is closed without a word, and its client may ask again."""


class Desk:
    """One per worker. `sync` is given in mode `always`: the answers wait for it after the write."""

    def __init__(
        self, redirector: Redirector, *, sync: Callable[[], Awaitable[None]] | None, may_look_up: Callable[[], bool],
        look_up: Callable[[bytes], Awaitable[Link | None]], missed: Callable[[bytes, int], None],
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.redirector = redirector
        self.may_look_up = may_look_up
        self.look_up = look_up
        self.draining = False
        self._missed = missed
        self._sync = sync
        self._loop = asyncio.get_running_loop()
        self._answers: list[tuple[Sink, bytes]] = []
        self._unsynced: list[tuple[Sink, bytes]] = []
        self._syncing: asyncio.Task[None] | None = None
        self._clock_ms = clock_ms
        self._date_second = 0
        self._tails: dict[str, bytes] = {}
        self._refusals: dict[int, bytes] = {}      # by status; negative: the answer to a HEAD, without the body
        self._begun = False                        # this loop iteration has its moment, and will be flushed

    def clerk(self, places: Places) -> speedups.Clerk | None:
        """What takes common clicks past `take`, where it was compiled: same rows, same answers. One for a desk."""
        return self.redirector.clerk(places, FOUND, self._begin)

    def take(self, sink: Sink, link: Link | None, visit: Visit, place: Place) -> bytes | int:
        """Take one visit; the sink gets its answer before this loop iteration ends (mode always: after the disk has it).

        Returns what that answer is: where it redirects to, or 404 or 410. `link` None: nobody knows the slug.
        """
        self._begin()
        if link is not None:
            location = self.redirector.click(link, visit, place)
            if location is not None:
                answer = FOUND + location + self._tails[link.referrer_policy]
                self._answers.append((sink, answer))
                return location
        status = 410 if link else 404
        self._missed(visit.slug, status)
        self._answers.append((sink, self._refusals[-status if visit.head else status]))
        return status

    def _begin(self) -> None:
        """With the first visit of an iteration: all of them share its moment, and are flushed together."""
        if self._begun:
            return
        self._begun = True
        self._loop.call_soon(self.flush)
        now_ms = self._clock_ms()
        self.redirector.begin(now_ms)
        if now_ms // 1000 != self._date_second:
            self._set_date(now_ms // 1000)
        if not self.draining:      # a lane closes with its answer then: for each, `take` is asked
            self.redirector.open_clerk(self._answers, self._tails)

    def flush(self) -> None:
        """Write the rows, then let the answers go. Should the write end in what nobody foresaw, none may go."""
        self._begun = False
        answers, self._answers = self._answers, []
        try:
            self.redirector.commit()
        except BaseException:
            for sink, _ in answers:
                sink.abandon()
            raise
        if self._sync is None:
            _deliver(answers)
            return
        self._unsynced += answers
        if self._syncing is None:
            self._syncing = self._loop.create_task(self._deliver_synced(self._sync))

    def drain(self) -> None:
        """From now on every answer says `Connection: close`."""
        self.draining = True
        self._date_second = 0
        self.flush()

    async def _deliver_synced(self, sync: Callable[[], Awaitable[None]]) -> None:
        try:
            while self._unsynced:
                answers, self._unsynced = self._unsynced, []
                with contextlib.suppress(SpoolUnavailable):      # the visitor goes on; the log keeps the rows, counts and tells
                    await sync()
                _deliver(answers)
        finally:
            self._syncing = None

    def _set_date(self, now: int) -> None:
        self._date_second = now
        common = (
            f"Cache-Control: no-store\r\nDate: {formatdate(now, usegmt=True)}\r\nServer: tracker\r\n"
            + ("Connection: close\r\n" if self.draining else "") + "\r\n"
        ).encode()
        self._tails = {
            name: b"\r\nContent-Length: 0\r\nReferrer-Policy: " + policy.encode() + b"\r\n" + common
            for name, policy in REFERRER_POLICY.items()
        }
        for status, reason, body in ((404, b"Not Found", NOT_FOUND), (410, b"Gone", GONE)):
            head = b"HTTP/1.1 %d %b\r\nContent-Type: application/problem+json\r\nContent-Length: %d\r\n"
            head %= (status, reason, len(body))
            self._refusals[status] = head + common + body
            self._refusals[-status] = head + common


def _deliver(answers: list[tuple[Sink, bytes]]) -> None:
    for sink, answer in answers:
        try:
            sink.deliver(answer)
        except Exception:      # one connection's trouble must not cost the others their answers
            log.exception("an answer could not be delivered")
            sink.abandon()
