"""A visit of any bytes: the destination's host is the template's, and the row is one that PostgreSQL stores."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from ipaddress import ip_network
from itertools import count
from typing import Any
from urllib.parse import urlsplit

import pytest
from click_tuples import decode_row
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lane_server import KEYRING, LINKS, Counts, make_link

from tracker.domain.click_id import ClickIdMaker
from tracker.storage.clicks.rows import CLEANED, FLOOD, HEAD, PREFETCH, TEST
from tracker.storage.spool.spool import SpoolUnavailable
from tracker.web.agents import KEY_LIMIT, REFERRER_LIMIT, USER_AGENT_LIMIT, Memo, Places, judge_agent, judge_referrer
from tracker.web.click_route import split_target
from tracker.web.framing import Visit
from tracker.web.redirect import DAY_MS, FLOOD_CLICKS, FLOOD_MS, LOCATION_LIMIT, Redirector

NOW_MS = 1_795_305_600_000
PROXIES = [ip_network("127.0.0.0/8")]
PLACES = Places(trusted=[], ip_mode="full", countries=None)

visible = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="#"), max_size=60).map(str.encode)
escapes = st.lists(st.sampled_from([b"%00", b"%0d%0a", b"%ff", b"%c0%af", b"%ed%a0%80", b"%f4%90%80%80", b"%", b"%4", b"+", b"&",
    b"=", b"a", b"%E2%80%AE",
                                    b"sub1=", b"&sub2=", b"&ext=", b"&q=", b"&click_id=", b"&test=1", b"&utm_source=",
                                    b"%2f%2fevil.example", b"\\", b"@"]),
                   max_size=40).map(b"".join)
long = st.builds(lambda name, value, times: name + value * times, st.sampled_from([b"sub1=", b"x=", b"utm_source=", b""]),
                 st.sampled_from([b"a", b"%c3%a9", b"%00", b"&a=", b"%f0%9f%98%80"]),
                 st.integers(1, 1500)).map(lambda raw: raw[:8000])
queries = st.one_of(visible, escapes, long)
agents = st.one_of(
    st.binary(max_size=80),
    st.builds(lambda prefix, char, times, suffix: prefix + char.encode("utf-8", "surrogatepass") * times + suffix,
              st.sampled_from([b"", b"Mozilla/5.0 (", b"a", b"ab", b"abc"]), st.characters(), st.integers(0, 400),
              st.sampled_from([b"", b"/1.0 CFNetwork/1 Darwin/1", b"/1", b" Safari/1", b"bot/1"])),
)
referrers = st.one_of(st.binary(max_size=80),
    st.text(max_size=600).map(lambda text: b"https://" + text.encode("utf-8", "surrogatepass")),
                      st.sampled_from([b"https://[::1", b"//[", b"https://l.facebook.com./x", b"https://" + b"." * 2000,
                      b"http://\xe2\x84\x80/"]))


class Log:
    """Rows kept in memory."""

    available, refuses, breaks = True, False, False

    def __init__(self) -> None:
        self.rows: list[bytes] = []

    def append(self, rows: list[bytes]) -> int:
        if self.refuses or not self.available:
            raise SpoolUnavailable("told so by the test")
        if self.breaks:
            raise ZeroDivisionError("what nobody foresaw")
        self.rows += rows
        return 0


def redirector(log: Log, counts: Counts) -> Redirector:
    counter = count()
    return Redirector(links=LINKS, ids=ClickIdMaker(keyring=KEYRING, worker=1, random_counter=lambda: next(counter)),
                      visitor_secret=b"v" * 32, log=log, counts=counts)


open_slugs = st.sampled_from([slug for slug, link in LINKS.items() if (NOW_MS < link.open_until_ms) or link.fallback is not None])


@settings(max_examples=500, deadline=None)
@given(open_slugs, queries, agents, referrers, st.booleans(), st.booleans(), st.booleans())
@example(b"open", b"", b"\xe4\xb8\xad" * 40 + b"/1.0 CFNetwork/1 Darwin/1", b"", False, False, False)
@pytest.mark.fault(27, 28, 29)
def test_any_visit_becomes_one_storable_row_and_a_redirect_to_the_templates_host(
    slug: bytes, query: bytes, agent: bytes, referrer: bytes, head: bool, beacon: bool, prefetch: bool
) -> None:
    log, counts, link = Log(), Counts(), LINKS[slug]
    made = redirector(log, counts)
    made.begin(NOW_MS)
    found = made.click(link, Visit(slug, query, agent, referrer, head, prefetch, beacon), PLACES.of("::1", b""))
    assert found is not None
    made.commit()
    counts.assert_law()
    [row] = map(decode_row, log.rows)

    assert re.fullmatch(rb"[!-~]+", found), "one header line of visible characters"
    assert len(found) <= LOCATION_LIMIT
    template = link.destination if (NOW_MS < link.open_until_ms) else link.fallback
    assert template is not None
    assert urlsplit(template.literals[0]).netloc == urlsplit(found).netloc
    assert urlsplit(template.literals[0]).scheme == urlsplit(found).scheme
    for token in re.findall(rb"(?:cid|click_id|c)=([0-9a-v]{32})|#f=([0-9a-v]{32})", found)[:1]:
        click_id = KEYRING.verify(b"".join(token))
        assert (row["click_id"], link.link_id, bool(row["flags"] & TEST)) == (click_id.uuid, click_id.link, click_id.test)

    assert (head, prefetch) == (bool(row["flags"] & HEAD), bool(row["flags"] & PREFETCH))
    for name, limit in (("user_agent", USER_AGENT_LIMIT), ("referrer", REFERRER_LIMIT), ("channel", 64), ("os", 64),
        ("browser", 64),
                        *((f"sub{n}", 1024) for n in range(1, 11)), ("ext", 1024)):
        assert row[name] is None or len(row[name].encode()) <= limit, name
    for name, raw in (("user_agent", agent), ("referrer", referrer)):
        if not row["flags"] & CLEANED:
            assert (raw.decode() or None) == row[name]
    assert "\0" not in repr(row["query"])


@settings(max_examples=300)
@given(st.binary(max_size=60) | st.builds(lambda slug, tail: b"/c/" + slug + tail, st.sampled_from([b"open", b"%6fpen",
    b"op%65n"]), st.binary(max_size=20)))
def test_any_target_has_a_slug_of_ours_or_none(target: bytes) -> None:
    slug, query = split_target(target)
    assert re.fullmatch(rb"[A-Za-z0-9_-]{0,64}", slug)
    assert b"#" not in query


@settings(max_examples=200)
@given(st.text(max_size=30), st.binary(max_size=40))
def test_any_address_and_any_forwarded_line_gives_a_place(peer: str, forwarded: bytes) -> None:
    for mode in ("truncate", "full", "drop"):
        for peer_or_proxy in (peer, "127.0.0.1"):
            place = Places(trusted=PROXIES, ip_mode=mode, countries=None).of(peer_or_proxy, forwarded)
            assert place.country == b"\xff\xff\xff\xff"
            if mode == "drop":
                assert b"\xff\xff\xff\xff" == place.ip_column


def test_a_closed_link_without_fallback_leaves_no_row() -> None:
    log, counts = Log(), Counts()
    made = redirector(log, counts)
    made.begin(NOW_MS)
    for slug in (b"paused", b"archived", b"expired"):
        visit = Visit(slug, b"sub1=a", b"", b"", head=False, prefetch=False, beacon=False)
        assert made.click(LINKS[slug], visit, PLACES.of("::1", b"")) is None
    made.commit()
    assert ([], Counts()) == (log.rows, counts)


def test_a_links_channel_is_cut_to_what_the_statistics_read() -> None:
    """They find it by the last byte of its length: one of 256 bytes would count as none, and what stands behind it as more."""
    log, counts = Log(), Counts()
    made = redirector(log, counts)
    made.begin(NOW_MS)
    link = make_link("wide", channel="\N{WAVING HAND SIGN}" * 64)
    made.click(link, Visit(b"wide", b"", b"", b"", head=False, prefetch=False, beacon=False), PLACES.of("::1", b""))
    made.commit()
    assert "\N{WAVING HAND SIGN}" * 16 == decode_row(log.rows[0])["channel"]


def test_visitors_are_told_apart_by_address_and_agent_and_only_for_a_day() -> None:
    """The hash must not become a name that follows a person: its key changes daily."""
    log, counts = Log(), Counts()
    now = [NOW_MS]
    made = Redirector(links=LINKS, ids=ClickIdMaker(keyring=KEYRING, worker=1, random_counter=lambda: 0),
                      visitor_secret=b"v" * 32, log=log, counts=counts)

    def visitor(ip: str, agent: bytes) -> int:
        visit = Visit(b"open", b"", agent, b"", head=False, prefetch=False, beacon=False)
        made.begin(now[0])
        made.click(LINKS[b"open"], visit, PLACES.of(ip, b""))
        made.commit()
        return int(decode_row(log.rows[-1])["visitor"])

    first = visitor("192.0.2.1", b"a")
    assert first == visitor("192.0.2.1", b"a")
    assert 3 == len({first, visitor("192.0.2.2", b"a"), visitor("192.0.2.1", b"b")})
    now[0] += 86_400_000
    assert first != visitor("192.0.2.1", b"a")
    now[0] -= 86_400_000      # a clock set back over midnight: it is the day before again
    assert first == visitor("192.0.2.1", b"a")


texts = st.sampled_from([b"", b"a", b"b", b"c" * 600])
moments = st.sampled_from([0, 0, 0, 0, 1000, DAY_MS, -DAY_MS, DAY_MS // 2])
spools = st.sampled_from(["takes", "takes", "takes", "takes", "is full", "is known to be full", "breaks"])
visits_at_once = st.lists(st.tuples(st.sampled_from([b"open", b"plain", b"paused"]), texts, texts), max_size=4)


@settings(max_examples=500)
@given(st.lists(st.tuples(moments, spools, visits_at_once), max_size=12))
def test_every_row_has_its_texts_or_another_row_of_its_day_says_them(iterations: list[tuple[int, str, Any]]) -> None:
    """What a row leaves out can be read for ever only if a row that was kept, and will be dropped with it, says it."""
    log, counts = Log(), Counts()
    made, now_ms = redirector(log, counts), NOW_MS
    for step, spool, visits in iterations:
        now_ms += step
        log.available, log.refuses, log.breaks = spool != "is known to be full", spool == "is full", spool == "breaks"
        made.begin(now_ms)
        for slug, agent, referrer in visits:
            visit = Visit(slug, b"", agent, referrer, head=False, prefetch=False, beacon=False)
            made.click(LINKS[slug], visit, PLACES.of("::1", b""))
        with contextlib.suppress(ZeroDivisionError):
            made.commit()
    said: set[tuple[int, str, bytes]] = set()
    repeated = 0
    for row in map(decode_row, log.rows):
        day = (int.from_bytes(row["click_id"], "big") >> 83) // DAY_MS
        for key, text in (("agent_key", "user_agent"), ("referrer_key", "referrer")):
            if row[text] is not None:
                repeated += (day, key, row[key]) in said
                said.add((day, key, row[key]))
            assert row[key] is None or (day, key, row[key]) in said
    calm = all(step >= 0 and spool == "takes" for step, spool, _ in iterations)
    assert not calm or repeated <= sum(len(text) > KEY_LIMIT for _, _, visits in iterations for one in visits for text in one[1:])


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from(["192.0.2.1", "192.0.2.2"]), st.sampled_from([b"open", b"plain"]), st.integers(0, 120),
    st.sampled_from([0, 0, 1, FLOOD_MS // 2, FLOOD_MS, -1, -3_600_000])), max_size=8))
def test_a_flood_is_flagged_from_its_hundred_and_first_click_on(bursts: list[tuple[str, bytes, int, int]]) -> None:
    """Who clicks a link a thousand times is paid for no visitor by whoever reads the flags; nobody else is blamed for it, not
    even for the hour that a clock was set back."""
    log, counts = Log(), Counts()
    made = redirector(log, counts)
    now, since, seen = NOW_MS, -FLOOD_MS, Counter[tuple[str, bytes]]()
    expected = []
    for ip, slug, times, pause in bursts:
        now += pause
        if times and not since <= now < since + FLOOD_MS:
            seen, since = Counter(), now
        for _ in range(times):
            made.begin(now)
            made.click(LINKS[slug], Visit(slug, b"", b"", b"", head=False, prefetch=False, beacon=False), PLACES.of(ip, b""))
            made.commit()
            seen[ip, slug] += 1
            expected.append(seen[ip, slug] > FLOOD_CLICKS)
    assert expected == [bool(decode_row(row)["flags"] & FLOOD) for row in log.rows]


def test_a_memo_never_grows_beyond_its_limit() -> None:
    """A flood of new user agents, of 8 kB each, costs time, never memory."""
    memo: Memo[bytes, int] = Memo(len, limit=10, length=len)
    for n in range(1000):
        key = b"%d" % n * (400 if n % 3 else 1)
        assert len(key) == memo[key]
        assert len(memo) <= 10
        assert sum(map(len, memo)) <= 10 * KEY_LIMIT


@pytest.mark.parametrize("destination",
    ["https://shop.example/?c={click_id}", "https://shop.example/{sub1}/{sub2}?c={click_id}&x={query.x}"])
def test_a_location_too_long_keeps_its_click_id_and_drops_what_the_visitor_sent(destination: str) -> None:
    log, counts = Log(), Counts()
    made = redirector(log, counts)
    made.begin(NOW_MS)
    link = make_link("long", destination, pass_query=True)
    query = b"sub1=" + b"%01" * 1024 + b"&sub2=" + b"%01" * 1024 + b"&y=" + b"z" * 1000
    visit = Visit(b"long", query, b"", b"", head=False, prefetch=False, beacon=False)
    found = made.click(link, visit, PLACES.of("::1", b""))
    assert found is not None
    assert len(found) < 100
    [token] = re.findall(rb"[0-9a-v]{32}", found)
    made.commit()
    assert KEYRING.verify(token).uuid == decode_row(log.rows[0])["click_id"]


def test_agents_and_referrers_of_any_length_are_judged_in_bounded_time() -> None:
    """The headers a visitor may send end at 8 kB, yet what is judged is only the part that is kept."""
    for raw in (b"a" * 8000, b"(" * 8000, b"Mozilla/5.0 " * 600, b"/" * 8000, "é".encode() * 4000, b" " * 8000, b"a/1 " * 2000,
        b";" * 8000):
        for _ in range(20):
            judge_agent(raw)
            judge_referrer(b"https://" + raw)
