"""The compiled clerk does with a click what lane, desk and redirector do, to the byte: rows, answers, counts, refusals.

Two desks get the same visits at the same moments under the same keys. At one the clerk is asked first, at the other never.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_network
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lane_server import KEYRING, LINKS, Counts, make_link
from support import missing

from tracker import speedups
from tracker.domain.click_id import ClickIdMaker
from tracker.domain.link import Link
from tracker.storage.spool.spool import SpoolUnavailable
from tracker.web.agents import Places
from tracker.web.desk import Desk
from tracker.web.framing import CLICK_HEAD_LIMIT, plain_click_in_python
from tracker.web.redirect import FLOOD_CLICKS, Redirector

NOW_MS = 1_795_305_600_000
MORE_LINKS = LINKS | {
    link.slug.encode(): link for link in (
        make_link("many", "https://shop.example/{sub1}/{query.sub2}?e={ext}&x={query.x}&c={click_id}&again={sub1}#end"),
        make_link("none", "https://shop.example/without"),
        make_link("soon", expires_at_ms=NOW_MS + 1),
    )
}


@pytest.fixture(autouse=True, scope="module")
def _built() -> None:
    if not speedups.AVAILABLE:
        missing("tracker/_speedups.c was not built, or from other sources: pip install -e . where there is a C compiler")


class Log:
    """Keeps rows, or refuses them."""

    def __init__(self) -> None:
        self.rows: list[bytes] = []
        self.available = True
        self.refuses = False

    def append(self, rows: list[bytes]) -> int:
        if self.refuses:
            raise SpoolUnavailable("told so by the test")
        self.rows += rows
        return 0


@dataclass
class Side:
    """A desk, and all that came of the visits there."""

    compiled: bool
    links: dict[bytes, Link]
    trusted: tuple[str, ...]
    now_ms: int = NOW_MS
    log: Log = field(default_factory=Log)
    counts: Counts = field(default_factory=Counts)
    answers: list[bytes | None] = field(default_factory=list)
    missed: list[tuple[bytes, int]] = field(default_factory=list)
    taken_by_clerk: int = 0

    def __post_init__(self) -> None:
        async def nobody(_: bytes) -> None:
            return None

        counter = count(2**20 - 3)
        redirector = Redirector(
            links=self.links, ids=ClickIdMaker(keyring=KEYRING, worker=5, random_counter=lambda: next(counter) % 2**20),
            visitor_secret=b"v" * 32, log=self.log, counts=self.counts,
        )
        self.places = Places(trusted=[ip_network(one) for one in self.trusted], ip_mode="truncate", countries=None)
        self.desk = Desk(redirector, sync=None, may_look_up=lambda: False, look_up=nobody,
                         missed=lambda slug, status: self.missed.append((slug, status)), clock_ms=lambda: self.now_ms)
        self.clerk = self.desk.clerk(self.places) if self.compiled else None

    def deliver(self, answer: bytes) -> None:
        self.answers.append(answer)

    def abandon(self) -> None:
        self.answers.append(None)

    def take(self, data: bytes, peer: str = "192.0.2.1", start: int = 0) -> int:
        """What Lane._serve does with the request at `start`: where the next one begins, 0 when it is no plain click."""
        if self.clerk is not None and (after := self.clerk.take(self, data, start, self.places.of(peer, b""), peer)):
            self.taken_by_clerk += 1
            return after
        click = plain_click_in_python(data, start)
        if click is None:
            return 0
        visit, forwarded, after = click
        self.desk.take(self, self.links.get(visit.slug), visit, self.places.of(peer, forwarded))
        return after


@dataclass
class Sides:
    """Both desks."""

    loop: asyncio.AbstractEventLoop
    links: dict[bytes, Link] = field(default_factory=lambda: MORE_LINKS)
    trusted: tuple[str, ...] = ("192.0.2.0/30",)

    def __post_init__(self) -> None:
        async def made() -> list[Side]:
            return [Side(compiled, self.links, self.trusted) for compiled in (True, False)]

        self.both = self.loop.run_until_complete(made())

    def take(self, data: bytes, peer: str = "192.0.2.1") -> int:
        compiled, python = (side.take(data, peer) for side in self.both)
        assert python == compiled, data
        return compiled

    def flush(self) -> None:
        """The end of a loop iteration."""
        for side in self.both:
            side.desk.flush()
        compiled, python = self.both
        assert python.log.rows == compiled.log.rows
        assert python.answers == compiled.answers
        assert (python.counts, python.missed) == (compiled.counts, compiled.missed)
        for side in self.both:
            side.answers.clear()
            side.log.rows.clear()

    @property
    def taken_by_clerk(self) -> int:
        return self.both[0].taken_by_clerk


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


def request(slug: bytes, query: bytes = b"", *headers: bytes, method: bytes = b"GET") -> bytes:
    target = b"/c/" + slug + (b"?" + query if query else b"")
    return b"\r\n".join((method + b" " + target + b" HTTP/1.1", b"Host: a", *headers, b"", b""))


slugs = st.sampled_from([*MORE_LINKS, b"nobody"])
queries = st.lists(st.builds(
    lambda name, value: name + b"=" + value,
    st.sampled_from([b"sub1", b"sub2", b"sub10", b"ext", b"x", b"q", b"y", b"utm_source", b"test", b"%73ub3"]),
    st.sampled_from([b"", b"a", b"1", b"a%20b", b"a+b", b"-._~/?", b"%22", b"%00", b"%c3%a9", b"Facebook", b"v" * 90,
                     b"%01" * 1000]),
), max_size=5).map(b"&".join)
headers = st.lists(st.sampled_from([
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0", b"User-Agent: Googlebot/2.1", b"User-Agent: \xff" + b"u" * 600,
    b"Referer: https://t.co/x", b"Referer: https://blog.example/\xc3\xa9", b"X-Forwarded-For: 203.0.113.7",
    b"X-Forwarded-For: 2001:db8::7, 192.0.2.2", b"X-Forwarded-For: nonsense", b"Purpose: prefetch", b"Connection: keep-alive",
    b"Accept: */*",
]), max_size=4, unique_by=lambda line: line.partition(b":")[0])
visits = st.builds(
    lambda slug, query, lines, method: request(slug, query, *lines, method=method),
    slugs, queries, headers, st.sampled_from([b"GET", b"GET", b"GET", b"HEAD"]),
)
peers = st.sampled_from(["192.0.2.1", "192.0.2.9", "2001:db8::1", "::ffff:192.0.2.1", ""])
happenings = st.sampled_from(
    ["", "", "", "flush", "flush", "a millisecond", "a day", "back an hour", "full", "space", "refused", "drain"])


@settings(max_examples=600, deadline=None)
@given(st.lists(st.tuples(visits, peers, st.integers(1, 3), happenings), max_size=12))
def test_any_visits_leave_the_same_rows_and_answers(
    loop: asyncio.AbstractEventLoop, steps: list[tuple[bytes, str, int, str]]
) -> None:
    sides = Sides(loop)
    for data, peer, times, happening in steps:
        for _ in range(times):
            assert (len(data) if len(data) <= CLICK_HEAD_LIMIT else 0) == sides.take(data, peer)
        for side in sides.both:
            side.now_ms += {"a millisecond": 1, "a day": 86_400_000, "back an hour": -3_600_000}.get(happening, 0)
            side.log.available = happening != "full" and (side.log.available or happening == "space")
            side.log.refuses = happening == "refused"
            if happening == "drain":
                side.desk.drain()
        if happening == "flush":
            sides.flush()
    sides.flush()


WHOLE = (
    b"GET /c/many/?sub1=a%20b&x=y&utm_source=t HTTP/1.1\r\nHost: a:80 \r\nUser-Agent: \tx y \r\nReferer: https://t.co/\r\n"
    b"X-Forwarded-For: 203.0.113.1 \r\nConnection: Keep-Alive\t\r\n\r\n"
)


@pytest.mark.parametrize("at", range(len(WHOLE)))
def test_one_byte_changed_or_missing_is_served_alike(loop: asyncio.AbstractEventLoop, at: int) -> None:
    sides = Sides(loop)
    for byte in range(256):
        data = WHOLE[:at] + bytes((byte,)) + WHOLE[at + 1 :]
        for _ in range(2):      # what is met for the first time is Python's
            sides.take(data)
    for data in (WHOLE[:at], WHOLE[:at] + WHOLE[at + 1 :], WHOLE[:at] + WHOLE[at : at + 1] * 2 + WHOLE[at + 1 :]):
        sides.take(data)
    sides.flush()
    assert sides.taken_by_clerk > 0


def test_visitors_and_ids_are_hashed_alike_whatever_the_length(loop: asyncio.AbstractEventLoop) -> None:
    """BLAKE2b takes 128 bytes at a time: every length around its blocks, and every address there is."""
    sides = Sides(loop, trusted=())
    lengths = [*range(520), 8000]
    for peer in ("192.0.2.1", "2001:db8::1", ""):
        for length in lengths:
            for _ in range(2):
                sides.take(request(b"plain", b"", b"User-Agent: " + b"a" * length), peer)
    sides.flush()
    assert 5 * 513 == sides.taken_by_clerk, "agents of up to 512 bytes that Python has met"


def test_a_location_at_its_limit_is_made_alike(loop: asyncio.AbstractEventLoop) -> None:
    """Every length around it, of values that are written as they are and of such that are three times as long."""
    sides = Sides(loop)
    for length in range(520, 740):
        for query in (b"sub1=" + b"%01" * length, b"sub1=" + b"a" * length + b"&sub2=" + b"%2f" * length + b"&x=" + b"/" * 20):
            before = sides.taken_by_clerk
            sides.take(request(b"many", query))
            long = len(sides.both[1].desk._answers[-1][1].partition(b"Location: ")[2].partition(b"\r")[0]) < 200
            assert sides.taken_by_clerk - before == (not long) or before == 0, "what is cut to its click id is Python's"
    sides.flush()
    assert 100 < sides.taken_by_clerk < 340


def test_a_flood_is_flagged_alike(loop: asyncio.AbstractEventLoop) -> None:
    sides = Sides(loop)
    for _ in range(FLOOD_CLICKS + 20):
        sides.take(request(b"open"))
    sides.flush()
    assert sides.taken_by_clerk == FLOOD_CLICKS + 19


def test_ids_used_up_in_a_millisecond_are_taken_on_by_python(loop: asyncio.AbstractEventLoop) -> None:
    sides = Sides(loop)
    for side in sides.both:
        side.take(request(b"plain"))
        run = side.desk.redirector._ids.run
        for _ in range(2**20 - 3):
            assert run.next(1, 0) is not None
        for _ in range(5):
            side.take(request(b"plain"))
    sides.flush()
    assert sides.taken_by_clerk > 1


def test_requests_one_behind_the_other_are_taken_one_by_one(loop: asyncio.AbstractEventLoop) -> None:
    sides = Sides(loop)
    data = request(b"plain") * 5 + b"GET /c/pl"
    for side in sides.both:
        start, ends = 0, []
        while after := side.take(data, start=start):
            start = after
            ends.append(after)
        assert [len(request(b"plain")) * n for n in range(1, 6)] == ends
        assert side.take(data, start=len(data)) == side.take(data, start=len(data) + 1) == 0
    sides.flush()
    assert sides.taken_by_clerk == 4


def test_what_it_cannot_be_given_is_an_error_and_no_crash(loop: asyncio.AbstractEventLoop) -> None:
    [side, _] = Sides(loop).both
    clerk = side.clerk
    assert clerk is not None
    here = side.places.of("192.0.2.1", b"")
    side.take(request(b"plain"))
    for data, place in (("text", here), (request(b"plain"), (b"",)), (request(b"plain"), (1, 2, 3, 4)),
                        (request(b"plain"), (b"", b"", b"a" * 17, ""))):
        with pytest.raises((TypeError, ValueError)):
            clerk.take(side, data, 0, place, "")  # type: ignore[arg-type]
    for key in (b"", b"k" * 65, "text"):
        with pytest.raises(ValueError, match="64 bytes"):
            clerk.key_visitors(key)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        clerk.open(0, (), [], {}, None)  # type: ignore[arg-type]
    assert 0 == clerk.take(side, request(b"plain"), -1, here, "")
    side.desk.flush()
    assert 1 == len(side.log.rows)
