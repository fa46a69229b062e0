"""Verdicts on who is visiting: user agents, referrers, addresses."""

from hashlib import blake2b
from ipaddress import IPv6Address, ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmdb_writer import MMDBWriter
from netaddr import IPSet

from tracker.storage.clicks.rows import BOT, CLEANED, NULL, inet, text
from tracker.storage.countries import Countries, NoCountries
from tracker.web.agents import REFERRER_LIMIT, USER_AGENT_LIMIT, Memo, Places, judge_agent, judge_referrer, parse_address

CHROME = b"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/129.0.0.0 Safari/537.36"
IPHONE = (
    b"Mozilla/5.0 (iPhone; CPU iPhone OS 17_4 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.4"
    b" Mobile/15E148 Safari/604.1"
)
IPAD = b"Mozilla/5.0 (iPad; CPU OS 16_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148 Safari/604.1"
PIXEL = b"Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/124.0.0.0 Mobile Safari/537.36"
TAB = b"Mozilla/5.0 (Linux; Android 13; SM-X700) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/124.0.0.0 Safari/537.36"
GOOGLEBOT = b"Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"


def columns(row: bytes) -> list[bytes | None]:
    """Text columns as COPY writes them, taken apart."""
    out: list[bytes | None] = []
    while row:
        length = int.from_bytes(row[:4], "big", signed=True)
        out.append(None if length < 0 else row[4:4 + length])
        row = row[4 + max(0, length):]
    return out


def _key(value: bytes | None) -> bytes | None:
    return blake2b(value, digest_size=6).digest() if value else None


@pytest.mark.parametrize(
    ("agent", "device", "os", "browser", "flags"),
    [
        (CHROME, b"desktop", b"Windows", b"Chrome", 0),
        (IPHONE, b"mobile", b"iOS", b"Mobile Safari", 0),
        (IPAD, b"tablet", b"iOS", b"Mobile Safari", 0),
        (PIXEL, b"mobile", b"Android", b"Chrome Mobile", 0),
        (TAB, b"tablet", b"Android", b"Chrome", 0),
        (GOOGLEBOT, b"bot", None, b"Googlebot", BOT),
        (b"curl/8.5.0", b"bot", None, b"curl", BOT),
        (b"", b"bot", None, None, BOT),
        (b"Nintendo Something", b"other", None, None, 0),
    ],
)
def test_an_agent_is_told_by_device_system_and_browser(agent: Any, device: Any, os: Any, browser: Any, flags: Any) -> None:
    verdict = judge_agent(agent)
    assert [device, os, browser, _key(agent), agent or None] == columns(verdict.device + verdict.columns)
    assert [device, os, browser, _key(agent), None] == columns(verdict.device + verdict.again().columns)
    assert flags == verdict.flags


@given(st.binary(max_size=2 * USER_AGENT_LIMIT))
def test_any_agent_is_storable(raw: Any) -> None:
    verdict = judge_agent(raw)
    *names, key, stored = columns(verdict.columns)
    assert [*names, key, None] == columns(verdict.again().columns)
    assert _key(stored) == key
    if stored is not None:
        assert len(stored) <= USER_AGENT_LIMIT
        assert "\0" not in stored.decode()
        assert (stored != raw) == bool(verdict.flags & CLEANED)


@pytest.mark.parametrize(
    ("referrer", "channel"),
    [
        (b"https://l.facebook.com/l.php?u=x", b"facebook"),
        (b"https://t.co/abc", b"x"),
        (b"https://WWW.LinkedIn.com./feed", b"linkedin"),
        (b"https://www.instagram.com/", b"instagram"),
        (b"https://notfacebook.com/", None),
        (b"https://facebook.com.evil.example/", None),
        (b"https://blog.example/facebook.com", None),
        (b"http://[broken", None),
        (b"", None),
    ],
)
def test_a_social_network_is_known_by_its_host_alone(referrer: Any, channel: Any) -> None:
    assert [channel] == columns(judge_referrer(referrer).channel)


@given(st.binary(max_size=2 * REFERRER_LIMIT))
def test_any_referrer_is_storable(raw: Any) -> None:
    verdict = judge_referrer(raw)
    key, stored = columns(verdict.columns)
    assert [key, None] == columns(verdict.again().columns)
    assert _key(stored) == key
    if stored is not None:
        assert 0 < len(stored) <= REFERRER_LIMIT
        assert "\0" not in stored.decode()


@pytest.mark.parametrize(
    ("written", "address"),
    [
        ("192.0.2.7", "192.0.2.7"), ("192.0.2.7:4711", "192.0.2.7"), ("[2001:db8::1]:443", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"), ("::ffff:192.0.2.7", "192.0.2.7"), ("fe80::1%eth0", "fe80::1"),
        ("unknown", None), ("", None), ("192.0.2", None), ("１92.0.2.1", None),
    ],
)
def test_addresses_are_read_as_proxies_write_them(written: Any, address: Any) -> None:
    read = parse_address(written)
    assert address == (None if read is None else str(read))


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("198.51.100.1", b"203.0.113.9", "198.51.100.1"),                        # a stranger's word
        ("10.0.0.1", b"203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", b"1.1.1.1, 203.0.113.9", "203.0.113.9"),                    # what the client wrote himself stands left of it
        ("10.0.0.1", b"1.1.1.1, 203.0.113.9, 10.0.0.2", "203.0.113.9"),          # two proxies of ours
        ("10.0.0.1", b"10.0.0.3,10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", b"", "10.0.0.1"),
        ("10.0.0.1", b"garbage, 10.0.0.2", "10.0.0.2"),
    ],
)
def test_the_client_is_counted_from_the_right_through_trusted_proxies_only(peer: Any, forwarded: Any, client: Any) -> None:
    """Believing the first forwarded address lets anyone invent visitors, or pass an address list."""
    places = Places(trusted=[ip_network("10.0.0.0/8")], ip_mode="full", countries=None)
    assert client == places.of(peer, forwarded).ip
    assert peer == Places(trusted=[], ip_mode="full", countries=None).of(peer, forwarded).ip


def test_only_so_much_of_an_address_is_stored_as_the_mode_allows() -> None:
    stored = {
        (mode, peer): Places(trusted=[], ip_mode=mode, countries=None).of(peer, b"")[:2]
        for mode in ("truncate", "full", "drop") for peer in ("192.0.2.77", "2001:db8:1:2::3")
    }
    v4, v6 = parse_address("192.0.2.0"), parse_address("2001:db8:1::")
    assert (NULL, inet(v4, 24)) == stored["truncate", "192.0.2.77"]
    assert (NULL, inet(v6, 48)) == stored["truncate", "2001:db8:1:2::3"]
    assert (NULL, inet(parse_address("192.0.2.77"), 32)) == stored["full", "192.0.2.77"]
    assert (NULL, NULL) == stored["drop", "192.0.2.77"]


@pytest.mark.parametrize("shape", [{"country_code": "NP"}, {"country": {"iso_code": "NP"}}, {"country": "np"}])
def test_a_country_file_tells_the_country(tmp_path: Path, shape: Any) -> None:
    """Both shapes that files in the trade have; an address that is in none of it has no country."""
    writer = MMDBWriter(ip_version=4, database_type="test")
    writer.insert_network(IPSet(["203.0.113.0/24"]), shape)
    file = tmp_path / "countries.mmdb"
    writer.to_db_file(str(file))
    places = Places(trusted=[], ip_mode="drop", countries=Countries(file))
    assert (text(b"NP"), NULL) == places.of("203.0.113.9", b"")[:2]
    assert (NULL, NULL) == places.of("192.0.2.1", b"")[:2]
    assert (NULL, NULL) == places.of("2001:db8::1", b"")[:2]      # an IPv4 file: no country, never an error


@pytest.mark.parametrize("shape", [{"country": 7}, {"country": "Nepal"}, {"country": {"names": {}}}, {"country_code": "１２"}, {}])
def test_a_country_file_of_another_kind_costs_no_click(tmp_path: Path, shape: Any) -> None:
    writer = MMDBWriter(ip_version=6, database_type="test")
    writer.insert_network(IPSet(["2001:db8::/32"]), shape)
    file = tmp_path / "countries.mmdb"
    writer.to_db_file(str(file))
    assert Countries(file).of(IPv6Address("2001:db8::1")) is None


def test_a_broken_country_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "x.mmdb").write_bytes(b"no database")
    with pytest.raises(NoCountries, match=r"TRACKER_GEOIP_DB: .* is no \.mmdb file"):
        Countries(Path(tmp_path / "x.mmdb"))


def test_a_memo_forgets_when_it_is_full() -> None:
    """A flood of new user agents may cost time, never memory."""
    made: list[int] = []

    def make(key: int) -> int:
        made.append(key)
        return key

    memo: Memo[int, int] = Memo(make, limit=3)
    for key in range(10):
        assert key == memo[key]
        assert key == memo[key]
        assert len(memo) <= 3
    assert list(range(10)) == made
