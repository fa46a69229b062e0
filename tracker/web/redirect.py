"""The click: from a visit to a row in the spool and a destination. One function for both lanes; nothing here waits.

The ack rule: no byte of an answer may leave before the write that holds its row has returned. So `click` only collects the
row; `commit`, once per loop iteration, writes all of them in one frame; the lanes answer after that.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import NamedTuple, Protocol

import orjson

from tracker.domain.click_id import ClickIdMaker, sub_key
from tracker.domain.link import Link, Template, passed_query, percent_encode
from tracker.domain.visit_query import VisitQuery, parse_visit_query
from tracker.storage.clicks.rows import BEACON, CLEANED, FALLBACK, HEAD, LENGTH, NULL, PREFETCH, TEST, fixed_columns, jsonb, text
from tracker.storage.spool.spool import SpoolUnavailable
from tracker.web.agents import Agent, Memo, Place, Referrer, judge_agent, judge_referrer
from tracker.web.framing import Visit

LOCATION_LIMIT = 3500      # bytes: the whole answer fits the 4 KiB that nginx takes by default, so no query can make a 502
CHANNEL_LIMIT = 64
DAY_MS = 86_400_000

_NO_COLUMNS = [NULL] * 12      # sub1 … sub10, ext, query
_NO_QUERY = b"".join(_NO_COLUMNS)


class Found(NamedTuple):
    """A redirect: where to, and the link whose referrer policy goes with it."""

    location: bytes
    link: Link


_new = tuple.__new__      # what the class calls in the end, at a third of the cost


class ClickLog(Protocol):
    """Where rows go: the spool's log of clicks."""

    @property
    def available(self) -> bool: ...

    def append(self, rows: list[bytes]) -> int: ...


class ClickCounts(Protocol):
    """What is counted, raised together after the write returns: clicks + prefetches + heads = appended + unlogged."""

    def add(self, *, clicks: int, prefetches: int, heads: int, appended: int, unlogged: int) -> None: ...


class Redirector:
    """Turns visits into rows and destinations, for one start of one worker."""

    def __init__(
        self, *, links: Mapping[bytes, Link], ids: ClickIdMaker, visitor_secret: bytes, log: ClickLog, counts: ClickCounts,
    ) -> None:
        self.links = links
        self._ids = ids
        self._visitor_key = sub_key(visitor_secret, b"visitor")
        self._visitor_day = -1
        self._visitor_hash = blake2b()
        self._log = log
        self._counts = counts
        self._agents: Memo[bytes, Agent] = Memo(judge_agent, length=len)
        self._referrers: Memo[bytes, Referrer] = Memo(judge_referrer, length=len)
        self._sources: Memo[bytes, bytes | None] = Memo(_channel_of, length=len)
        self._now_ms = 0
        self._spooled = True
        self._rows: list[bytes] = []
        self._visits = self._prefetches = self._heads = 0

    def begin(self, now_ms: int) -> None:
        """The clicks until `commit` share this moment, and whether the spool can be written."""
        self._now_ms = now_ms
        self._spooled = self._log.available

    def click(self, link: Link, visit: Visit, place: Place) -> Found | None:
        """Take one visit of a known link. None: paused or expired, and no fallback (410); nothing is recorded then."""
        _, raw_query, user_agent, referrer, head, prefetch, beacon = visit
        now_ms = self._now_ms
        agent, came_from = self._agents[user_agent], self._referrers[referrer]
        flags = agent.flags | came_from.flags
        template = link.destination
        if now_ms >= link.open_until_ms:
            if link.fallback is None:
                return None
            template = link.fallback
            flags |= FALLBACK
        if head:
            flags |= HEAD
        if prefetch:
            flags |= PREFETCH
        if beacon:
            flags |= BEACON
        channel = link.channel.encode() if link.channel else None
        query: VisitQuery | None = None
        columns = _NO_QUERY
        if raw_query:
            query = parse_visit_query(raw_query)
            if query.changed:
                flags |= CLEANED
            if link.allow_test and query.first("test") == b"1":
                flags |= TEST
            if channel is None and "utm_source" in query.rest:
                channel = self._sources[query.first("utm_source")]
            columns = _columns(query)
        if channel is None:
            channel = came_from.channel
        click_id, token = self._ids.make(
            now_ms, link.link_id, link.id_text, test=flags & TEST != 0, not_spooled=not self._spooled
        )
        if template.only_click_id and not link.pass_query:
            location = template.literals[0] + token + template.literals[1] + template.fragment[0]
        else:
            location = self._location(template, link, token, raw_query, query, channel)
        self._rows.append(b"".join((
            fixed_columns(click_id, link.link_id, link.version, link.program_id, link.partner_id, flags,
                          self._visitor(now_ms, place.address, user_agent)),
            text(channel), place.columns, agent.columns, came_from.column, columns,
        )))
        if head:
            self._heads += 1
        elif prefetch:
            self._prefetches += 1
        else:
            self._visits += 1
        return _new(Found, (location, link))

    def commit(self) -> None:
        """Write what was collected, in one frame. Never raises: what cannot be written goes out all the same, and is counted."""
        rows = self._rows
        if not rows:
            return
        self._rows = []
        appended = 0
        if self._spooled:
            try:
                self._log.append(rows)
                appended = len(rows)
            except SpoolUnavailable:
                appended = 0      # the log knows, counts and says why; ids are flagged from here on
        self._counts.add(
            clicks=self._visits, prefetches=self._prefetches, heads=self._heads, appended=appended, unlogged=len(rows) - appended
        )
        self._visits = self._prefetches = self._heads = 0

    def _location(
        self, template: Template, link: Link, token: bytes, raw_query: bytes, query: VisitQuery | None, channel: bytes | None
    ) -> bytes:
        values: dict[str, bytes] = {"click_id": token}
        for slot in template.asked:
            if slot == "channel":
                values[slot] = percent_encode(channel or b"")
            else:
                values[slot] = percent_encode(query.first(slot)) if query else b""
        passed = passed_query(raw_query, template) if link.pass_query and raw_query else b""
        location = template.fill(values.__getitem__, passed)
        if len(location) <= LOCATION_LIMIT:
            return location
        return template.fill(lambda slot: token if slot == "click_id" else b"")

    def _visitor(self, now_ms: int, address: bytes, user_agent: bytes) -> int:
        day = now_ms // DAY_MS
        if day != self._visitor_day:
            self._visitor_day = day
            key = blake2b(day.to_bytes(8, "big"), key=self._visitor_key, digest_size=32).digest()
            self._visitor_hash = blake2b(key=key, digest_size=8)
        visitor = self._visitor_hash.copy()
        visitor.update(address + b"\0" + user_agent)
        return int.from_bytes(visitor.digest(), "big", signed=True)


def _channel_of(utm_source: bytes) -> bytes | None:
    return utm_source.lower()[:CHANNEL_LIMIT].decode("utf-8", "ignore").encode() or None


def _columns(query: VisitQuery) -> bytes:
    """sub1 … sub10, ext and query."""
    parts = _NO_COLUMNS.copy()
    for slot, label in query.labels.items():
        parts[slot] = LENGTH[len(label)] + label
    if query.rest:
        parts[-1] = jsonb(orjson.dumps(query.rest))
    return b"".join(parts)
