"""The fast lane: one connection, framed. Plain clicks and postbacks are taken here; everything else goes, whole, to aiohttp.

Bytes are kept until they hold one whole request (framing.py). A plain click goes to the desk. A plain postback goes to the
intake (postback_lane.py), and any other request is fed, exactly its bytes, to an aiohttp protocol object made for this
connection when first needed; nothing further is started until either has its answer. So answers never overtake, and clicks on
connections that a proxy shares with postbacks stay fast. What cannot be framed goes to aiohttp with all that follows, for the
connection's life.
"""

from __future__ import annotations

import asyncio
from typing import Final, cast

from aiohttp import web

from tracker.web.agents import Place, Places
from tracker.web.desk import Desk
from tracker.web.framing import FRAME_LIMIT, HEAD_LIMIT, frame, plain_click
from tracker.web.http_side import HttpSide
from tracker.web.postback_lane import PlainPostback, PostbackLane, plain_postback
from tracker.web.wire import IN, Wire

IDLE_SECONDS: Final = 75          # nginx's default: longer than browsers and proxies keep a connection for
DEADLINE_SECONDS: Final = 10      # for a head, and again for a body
HELD_LIMIT: Final = FRAME_LIMIT   # bytes kept behind a request that is being answered, before reading is paused
AT_ONCE: Final = 16
"""Clicks of a connection at the desk. Nobody sends more before he has answers, but to do harm: as many as fit into one read of
each of 256 connections would be half a million in one turn, and all others would wait for it."""


class Lanes:
    """All connections of one worker: what they share, and the sweep that enforces their deadlines."""

    def __init__(
        self, *, desk: Desk, places: Places, server: web.Server, connection_limit: int, postbacks: PostbackLane | None = None
    ) -> None:
        """Without `postbacks` they are all aiohttp's."""
        self.desk = desk
        self.postbacks = postbacks
        self.places = places
        self.server = server
        self.connection_limit = connection_limit
        clerk = desk.clerk(places)
        self.take_common = clerk.take if clerk is not None else None      # the compiled way of the common click: cheaper, no other
        self.open: set[Lane] = set()
        self.tick = 0             # seconds since the start, raised by the sweep: fine enough for deadlines, free to read
        self.refused = 0          # connections over the limit

    def __call__(self) -> Lane:
        """A protocol for one connection: hand this object to `open_port`."""
        return Lane(self)

    def sweep(self) -> None:
        """Once a second: close what has been idle or unfinished for too long, without an answer."""
        self.tick += 1
        for lane in [lane for lane in self.open if lane.is_overdue(self.tick)]:
            lane.close(at_once=True)

    def drain(self) -> None:
        """From now on every answer closes its connection."""
        self.desk.drain()

    def close_idle(self) -> int:
        """Close connections that wait for nothing; returns how many are still at work."""
        for lane in [lane for lane in self.open if lane.is_idle]:
            lane.look_again()
            if lane.is_idle:
                lane.close()
        return len(self.open)


class Lane(asyncio.Protocol):
    """One connection."""

    __slots__ = ("_active", "_busy", "_closed", "_eof", "_full", "_held", "_http", "_http_full", "_http_only", "_need", "_paused",
                 "_peer", "_place", "_reading", "_since", "_spoke", "_transport", "_unanswered", "_unread", "lanes")

    _transport: asyncio.Transport

    def __init__(self, lanes: Lanes) -> None:
        self.lanes = lanes
        self._peer = ""
        self._place: Place | None = None
        self._held = bytearray()       # an unfinished request, or what came behind one that is being answered
        self._need = 0                 # the unfinished request is not whole before so many bytes are held
        self._http: HttpSide | None = None
        self._http_only = False        # everything goes to aiohttp from here on
        self._busy = False             # a request that is no click is being answered
        self._unanswered = 0           # clicks at the desk
        self._paused = False           # the client does not read its answers …
        self._unread = 0               # … since then
        self._full = False             # so much is held that no more is read
        self._http_full = False        # the same of aiohttp
        self._reading = True           # neither
        self._eof = self._closed = False
        self._active = lanes.tick      # when something last happened
        self._spoke = False            # whether the client has sent anything
        self._since: int | None = None # when the unfinished request began, or its body

    # What the loop tells us

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if len(self.lanes.open) >= self.lanes.connection_limit:
            self.lanes.refused += 1
            self._closed = True
            self._transport.abort()
            return
        self.lanes.open.add(self)
        name = transport.get_extra_info("peername")
        self._peer = name[0] if isinstance(name, tuple) else ""
        self._place = self.lanes.places.of(self._peer, b"")

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed = True
        self._held.clear()
        self.lanes.open.discard(self)
        if self._http is not None:
            self._http.connection_lost(exc)

    def eof_received(self) -> bool:
        """A client that only stopped sending still gets the answers it is owed."""
        self._eof = True
        if self._http is not None:
            self._http.eof_received()
        return self._owes

    def pause_writing(self) -> None:
        self._paused, self._unread = True, self.lanes.tick
        if self._http is not None:
            self._http.pause_writing()

    def resume_writing(self) -> None:
        self._paused = False
        if self._http is not None:
            self._http.resume_writing()
        self._go_on()

    def data_received(self, data: bytes) -> None:
        self._active = self.lanes.tick
        self._spoke = True
        if self._http_only:
            self._feed(data)
        elif self._busy or self._paused or (self._held and self._since is None):
            self._hold(data)
        elif self._held:
            if self._unfinished(data):
                return
            whole = bytes(self._held)
            self._held.clear()
            self._serve(whole)
        else:
            self._serve(data)

    # Requests in

    def _serve(self, data: bytes) -> None:
        """Take requests off the front of `data` for as long as nothing has to be waited for."""
        start, lanes, take_common = 0, self.lanes, self.lanes.take_common
        self._since, self._need = None, 0
        while start < len(data):
            if self._paused or self._unanswered >= AT_ONCE:
                return self._hold(data[start:])
            if take_common is not None and (after := take_common(self, data, start, self._place, self._peer)):
                self._unanswered += 1
                start = after
                continue
            click = plain_click(data, start)
            if click is not None:
                visit, forwarded, after = click
                desk = lanes.desk
                link = desk.redirector.links.get(visit.slug)
                if link is not None or not desk.may_look_up():
                    self._unanswered += 1
                    desk.take(self, link, visit, lanes.places.of(self._peer, forwarded))
                    start = after
                    if desk.draining:
                        return None      # its answer closes the connection
                    continue
            if self._unanswered:
                return self._hold(data[start:])      # answers leave in order: first those at the desk
            postback = plain_postback(data, start)
            if postback is not None and self._take(postback):
                if postback.end < len(data):
                    self._hold(data[postback.end:])
                return None
            end = frame(data, start)
            if end == 0 or end > len(data):
                self._since = lanes.tick
                self._need = end and end - start
                return self._hold(data[start:])
            if end < 0:
                self._http_only = True
                return self._feed(data[start:])
            self._busy = True
            if end < len(data):
                self._hold(data[end:])
            return self._feed(data[start:end])
        return None

    def _take(self, postback: PlainPostback) -> bool:
        """Whether its answer comes by `reply`; else it is aiohttp's."""
        lanes = self.lanes
        if lanes.postbacks is not None:
            ip = lanes.places.of(self._peer, postback.forwarded).ip
            self._busy = lanes.postbacks.take(self, postback.query, ip)
        return self._busy

    def _feed(self, data: bytes) -> None:
        if self._http is None:
            self._http = HttpSide(self.lanes.server, asyncio.get_running_loop(), self)
            self._http.connection_made(self._transport)
            if self._paused:
                self._http.pause_writing()
        if self._since is None:
            self._since = self.lanes.tick
        self._http.data_received(data)

    def _hold(self, data: bytes) -> None:
        self._held += data
        if len(self._held) > HELD_LIMIT and not self._full:
            self._full = True
            self._read_or_rest()

    def http_reads(self, wanted: bool) -> None:
        """Whether aiohttp takes more of this connection just now."""
        self._http_full = not wanted
        self._read_or_rest()

    def _read_or_rest(self) -> None:
        reading = not (self._full or self._http_full)
        if reading == self._reading or self._transport.is_closing():
            return
        self._reading = reading
        if reading:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def _unfinished(self, data: bytes) -> bool:
        """Add to an unfinished request; True while it surely still is one. Looks at new bytes only: a head that comes byte
        by byte must not be searched from its start each time."""
        held = self._held
        seen = max(0, len(held) - 3)
        held += data
        if self._need:
            return len(held) < self._need
        head_end = held.find(b"\r\n\r\n", seen)
        if head_end < 0:
            return len(held) <= HEAD_LIMIT and held.count(b"\n", seen) == held.count(b"\r\n", max(0, seen - 1))
        self._since = self.lanes.tick      # the body has its own deadline
        return False

    # Answers out

    def deliver(self, answer: bytes) -> None:
        """The desk's answer to this connection's oldest click there."""
        self._unanswered -= 1
        if self._closed:
            return
        self._transport.write(answer)
        if self.draining and b"\r\nConnection: close\r\n" in answer:     # else the client may already have sent the next
            self.close()
        elif not self._unanswered and (self._held or self._eof):
            self._go_on()

    def abandon(self) -> None:
        """The desk has no answer: whoever asked may ask again."""
        self._unanswered -= 1
        self.close(at_once=True)

    def reply(self, answer: bytes) -> None:
        """The answer to the postback that this connection waits for."""
        if self._closed:
            return
        self._transport.write(answer)
        if self.draining and b"\r\nConnection: close\r\n" in answer:
            self.close()
        else:
            self.answered(keep=True)

    def answered(self, keep: bool) -> None:
        """aiohttp has written the answer to the request it was fed."""
        self._active = self.lanes.tick
        if self._http_only:
            self._since = self._active if self._eof else None      # who has stopped sending is not waited for
            return
        self._since = None
        self._busy = False
        if not keep:
            self._closed = True      # aiohttp closes the transport; what is held would be answered by nobody
            self._held.clear()
        else:
            self._go_on()

    def _go_on(self) -> None:
        if self._closed or self._busy or self._paused or self._http_only:
            return
        if self._held and self._since is None:
            held = bytes(self._held)
            self._held.clear()
            self._serve(held)
            if self._full and len(self._held) <= HELD_LIMIT:
                self._full = False
                self._read_or_rest()
        if self._eof and not self._owes:
            self.close()

    # Deadlines, and the end

    @property
    def draining(self) -> bool:
        """Whether answers close their connections by now."""
        return self.lanes.desk.draining

    @property
    def _owes(self) -> bool:
        """Whether requests wait for their answers; of aiohttp's own connections only its first word of each is known."""
        if self._http_only:
            return self._since is not None
        return self._busy or self._unanswered > 0 or (self._since is None and len(self._held) > 0)

    @property
    def is_idle(self) -> bool:
        return not (self._owes or self._since is not None)

    def look_again(self) -> None:
        """Take what came in this moment: closing with it unread would reset the connection."""
        if isinstance(self._transport, Wire):
            self._transport.woken(IN)

    def body_begins(self) -> None:
        """aiohttp has read a head and called a handler: the body has its own deadline."""
        self._since = self.lanes.tick

    def is_overdue(self, tick: int) -> bool:
        """Whether the sweep should end this connection."""
        if self._paused and tick - self._unread > DEADLINE_SECONDS:
            return True
        if self._since is not None and not self._busy:
            return tick - self._since > DEADLINE_SECONDS
        return tick - self._active > (IDLE_SECONDS if self._spoke else DEADLINE_SECONDS)

    def close(self, *, at_once: bool = False) -> None:
        """End the connection; `at_once` without waiting for a client that does not read."""
        self._closed = True
        self._held.clear()
        if at_once:
            self._transport.abort()
        else:
            self._transport.close()
