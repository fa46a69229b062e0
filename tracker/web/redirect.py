"""The click: from a visit to a row in the spool and a destination. One function for both lanes; nothing here waits.

The ack rule: no byte of an answer may leave before the write that holds its row has returned. So `click` only collects the
row; `commit`, once per loop iteration, writes all of them in one frame; the lanes answer after that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Any, Protocol

from tracker import speedups
from tracker.domain.click_id import ClickIdMaker, sub_key
from tracker.domain.link import CHANNEL_LIMIT, Link, Template, passed_query, percent_encode
from tracker.storage.clicks.query_columns import NO_QUERY, take_query
from tracker.storage.clicks.rows import (
    BEACON,
    CLEANED,
    FALLBACK,
    FLAGS,
    FLOOD,
    HEAD,
    NULL,
    PREFETCH,
    ROW_HEAD,
    TEST,
    VISITOR_HEAD,
    text,
)
from tracker.storage.spool.spool import SpoolUnavailable
from tracker.web.agents import MEMO_LIMIT, Agent, Memo, Place, Places, Referrer, judge_agent, judge_referrer
from tracker.web.framing import Visit

LOCATION_LIMIT = 3500      # bytes: the whole answer fits the 4 KiB that nginx takes by default, so no query can make a 502
DAY_MS = 86_400_000
FLOOD_CLICKS = 100         # of one address on one link in FLOOD_MS: no person, no household; at most an office behind one address
FLOOD_MS = 10_000


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
        # A day's first row of a user agent or referrer says it; those after it have its key alone.
        self._agents: Memo[bytes, Agent] = Memo(judge_agent, length=len, again=Agent.again)
        self._referrers: Memo[bytes, Referrer] = Memo(judge_referrer, length=len, again=Referrer.again)
        self._sources: Memo[bytes, bytes] = Memo(_channel_of, length=len)
        self._lately: dict[tuple[int, bytes], int] = {}      # clicks by link and address, forgotten every FLOOD_MS or when full
        self._lately_since_ms = 0
        self._now_ms = 0
        self._spooled = True
        self._unheard = False      # what agents and referrers were said may be in no row
        self._rows: list[bytes] = []
        self._prefetches = self._heads = 0
        self._clerk: speedups.Clerk | None = None

    def clerk(self, places: Places, found: bytes, begin: Callable[[], None]) -> speedups.Clerk | None:
        """The compiled twin of `click`, and of what lane and desk do about it, over the same memory; None where there is none.

        It takes a common click: a plain GET of an open link (Link.plan) whose agent, referrer, channel and address were met
        before, its query in ASCII with no name twice, the spool writable. `found` is how its answer begins; it calls `begin`
        before the first click after each `commit`.
        """
        if isinstance(self.links, dict):
            self._clerk = speedups.clerk(
                links=self.links, agents=self._agents, referrers=self._referrers, sources=self._sources, places=places.known,
                lately=self._lately, before_id=ROW_HEAD, before_visitor=VISITOR_HEAD, found=found, begin=begin,
                trusting=places.trusting, flood_clicks=FLOOD_CLICKS, flood_flag=FLOOD, location_limit=LOCATION_LIMIT,
            )
            self._visitor_day = -1      # `begin` gives it the key
        return self._clerk

    def open_clerk(self, answers: list[tuple[Any, bytes]], tails: dict[str, bytes]) -> None:
        """Until `commit` it may take clicks, if this moment's rows can be written. Their answers go to `answers`."""
        if self._clerk is not None and self._spooled:
            self._clerk.open(self._now_ms, self._rows, answers, tails, self._ids.run)

    def begin(self, now_ms: int) -> None:
        """The clicks until `commit` share this moment, and whether the spool can be written."""
        self._now_ms = now_ms
        self._spooled = self._log.available
        if not 0 <= now_ms - self._lately_since_ms < FLOOD_MS or len(self._lately) > MEMO_LIMIT:
            self._lately.clear()
            self._lately_since_ms = now_ms
        if now_ms // DAY_MS != self._visitor_day:
            self._key_visitors(now_ms // DAY_MS)
            self._unheard = True
        if self._unheard and self._spooled:
            self._agents.clear()
            self._referrers.clear()
            self._unheard = False
        self._ids.begin(now_ms)

    def click(self, link: Link, visit: Visit, place: Place) -> bytes | None:
        """Take one visit of a known link, and say where it is sent. None: paused or expired, and no fallback (410); no row then."""
        _, raw_query, user_agent, referrer, head, prefetch, beacon = visit
        now_ms = self._now_ms
        template = link.destination
        is_open = now_ms < link.open_until_ms
        if not is_open:
            if link.fallback is None:
                return None
            template = link.fallback
        agent_flags, device, agent_columns, _ = self._agents[user_agent]     # from here on a row comes of it: it may be the first
        referrer_flags, channel, referrer_columns, _ = self._referrers[referrer]
        country, ip_column, address, _ = place
        flags = agent_flags | referrer_flags | (0 if is_open else FALLBACK)
        if head or prefetch or beacon:
            flags |= (HEAD if head else 0) | (PREFETCH if prefetch else 0) | (BEACON if beacon else 0)
        query_columns, values = NO_QUERY, _NO_VALUES
        if raw_query:
            query_columns, values, cleaned = take_query(raw_query, template.asked_names)
            if values[0]:
                source = self._sources[values[0]]
                if source is not NULL:
                    channel = source
            if cleaned:
                flags |= CLEANED
            if link.allow_test and values[1] == b"1":
                flags |= TEST
        if link.channel:
            channel = text(link.channel.encode())
        comer = (link.link_id, address)
        clicks = self._lately[comer] = self._lately.get(comer, 0) + 1
        if clicks > FLOOD_CLICKS:
            flags |= FLOOD
        click_id, token = self._ids.make(now_ms, link.link_id, test=flags & TEST != 0, not_spooled=not self._spooled)
        visitor = self._visitor_hash.copy()
        visitor.update(address + b"\0" + user_agent)
        self._rows.append(b"".join((
            ROW_HEAD, click_id, VISITOR_HEAD, visitor.digest(), link.columns, FLAGS[flags], channel, country, device, ip_column,
            agent_columns, referrer_columns, query_columns,
        )))
        if head:
            self._heads += 1
        elif prefetch:
            self._prefetches += 1
        around = template.around
        if around is not None and not link.pass_query:
            return around[0] + token + around[1]
        passed = passed_query(raw_query, template) if link.pass_query and raw_query else b""
        return _location(template, token, channel, values, passed)

    def commit(self) -> None:
        """Write what was collected, in one frame. Never raises: what cannot be written goes out all the same, and is counted."""
        if self._clerk is not None:
            self._clerk.close()
        rows, prefetches, heads = self._rows, self._prefetches, self._heads
        if not rows:
            return
        self._rows = []      # before the write: should it end in what nobody foresaw, nothing of this is counted with the next
        self._prefetches = self._heads = 0
        appended = 0
        self._unheard = True
        if self._spooled:
            try:
                self._log.append(rows)
                appended, self._unheard = len(rows), False
            except SpoolUnavailable:
                appended = 0      # the log knows, counts and says why; ids are flagged from here on
        clicks, unlogged = len(rows) - prefetches - heads, len(rows) - appended
        self._counts.add(clicks=clicks, prefetches=prefetches, heads=heads, appended=appended, unlogged=unlogged)

    def _key_visitors(self, day: int) -> None:
        """Each day has its own key, so that nobody is known again on another."""
        self._visitor_day = day
        key = blake2b(day.to_bytes(8, "big"), key=self._visitor_key, digest_size=32).digest()
        self._visitor_hash = blake2b(key=key, digest_size=8)
        if self._clerk is not None:
            self._clerk.key_visitors(key)


_NO_VALUES: tuple[bytes, ...] = ()


def _location(template: Template, token: bytes, channel: bytes, values: tuple[bytes, ...], passed: bytes) -> bytes:
    """The destination with everything filled in; should it become too long, with nothing but the click id."""
    filled = {slot: percent_encode(value) for slot, value in zip(template.asked, values[2:], strict=False)}
    filled["click_id"] = token
    filled["channel"] = percent_encode(channel[4:])
    location = template.fill(lambda slot: filled.get(slot, b""), passed)
    if len(location) <= LOCATION_LIMIT:
        return location
    return template.fill(lambda slot: token if slot == "click_id" else b"")


def _channel_of(utm_source: bytes) -> bytes:
    """The column: null when nothing can be kept of it."""
    name = utm_source.lower()[:CHANNEL_LIMIT].decode("utf-8", "ignore").encode()
    return text(name) if name else NULL
