"""Who is visiting and from where, as far as headers tell: verdicts on user agents, referrers and addresses.

Each verdict is made once per distinct raw value and kept in a bounded memo as finished columns of the click's row.
Bots are judged by the 1,504 patterns of crawler-user-agents in one Rust automaton (1.5 µs a new agent; the same patterns
as one Python expression took 385), then kept and flagged, never dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Generic, NamedTuple, TypeVar
from urllib.parse import urlsplit

import crawleruseragents
import ua_parser
from aiohttp import web
from ua_parser_rs import UserAgentExtractor

from tracker.domain.text import storable
from tracker.storage.clicks.rows import BOT, CLEANED, NULL, inet, keyed, text
from tracker.storage.countries import Countries

USER_AGENT_LIMIT = 512     # bytes kept; real ones end near 300
REFERRER_LIMIT = 1024
NAME_LIMIT = 64            # of an operating system or browser
MEMO_LIMIT = 16_384        # distinct values kept: half as many made a rich load miss
KEY_LIMIT = 512            # bytes of a value kept: real ones end near 300; of 8 kB each they would be 500 MB a worker, so 90

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

K = TypeVar("K")
V = TypeVar("V")


class Memo(dict[K, V], Generic[K, V]):
    """A dict that makes what is missing and forgets everything when full: a flood of new keys costs time, never memory.

    `length(key)` in bytes: what is longer than KEY_LIMIT is made each time, and not kept. `again(value)`: what is kept of a
    value that was given once.
    """

    def __init__(
        self, make: Callable[[K], V], limit: int = MEMO_LIMIT, length: Callable[[K], int] = lambda _: 0,
        again: Callable[[V], V] = lambda value: value,
    ) -> None:
        super().__init__()
        self._make, self._length, self._limit, self._again = make, length, limit, again

    def __missing__(self, key: K) -> V:
        value = self._make(key)
        if self._length(key) <= KEY_LIMIT:
            if len(self) >= self._limit:
                self.clear()
            self[key] = self._again(value)
        return value


class Agent(NamedTuple):
    """A user agent's part of the row: its flags, the column device, and those of os, browser, agent_key and user_agent: said,
    or after it was said (schema.sql, table clicks) left out."""

    flags: int
    device: bytes
    columns: bytes
    columns_again: bytes

    def again(self) -> Agent:
        """For the rows after the first."""
        return self._replace(columns=self.columns_again)


_crawlers = UserAgentExtractor([(d["pattern"], "bot", None, None, None, None) for d in crawleruseragents.CRAWLER_USER_AGENTS_DATA])
_DESKTOP = {"Windows", "Mac OS X", "Linux", "Ubuntu", "Fedora", "Debian", "Chrome OS", "FreeBSD", "OpenBSD"}


def judge_agent(raw: bytes) -> Agent:
    """From the User-Agent header. None given is a bot's way: every browser sends one."""
    kept, changed = storable(raw, USER_AGENT_LIMIT)
    flags = CLEANED if changed else 0
    if not kept:
        return Agent(flags | BOT, text(b"bot"), 4 * NULL, 4 * NULL)
    agent = kept.decode()
    seen = ua_parser.parse(agent)
    os = seen.os.family if seen.os else None
    browser = seen.user_agent.family if seen.user_agent else None
    if _crawlers.extract(agent) is not None:
        flags |= BOT
        device = b"bot"
    elif os == "iOS":
        device = b"tablet" if "iPad" in agent else b"mobile"
    elif os == "Android":
        device = b"mobile" if "Mobile" in agent else b"tablet"
    elif os in _DESKTOP:
        device = b"desktop"
    else:
        device = b"other"
    names = text(_name(os)) + text(_name(browser))
    said, again = keyed(kept)
    return Agent(flags, text(device), names + said, names + again)


def _name(family: str | None) -> bytes | None:
    """Some families are the user agent's own words: cut between characters, since half a character cannot be stored."""
    return storable(family.encode(), NAME_LIMIT)[0] if family else None


class Referrer(NamedTuple):
    """A referrer's part of the row: its flags, the column channel (the social network it belongs to, or null), and the columns
    referrer_key and referrer: said, or left out as an agent's."""

    flags: int
    channel: bytes
    columns: bytes
    columns_again: bytes

    def again(self) -> Referrer:
        """For the rows after the first."""
        return self._replace(columns=self.columns_again)


_NETWORKS: Mapping[str, Sequence[str]] = {
    "facebook": ("facebook.com", "fb.com", "fb.me", "messenger.com"),
    "instagram": ("instagram.com",),
    "threads": ("threads.net", "threads.com"),
    "x": ("t.co", "x.com", "twitter.com"),
    "linkedin": ("linkedin.com", "lnkd.in"),
    "youtube": ("youtube.com", "youtu.be"),
    "tiktok": ("tiktok.com",),
    "pinterest": ("pinterest.com", "pin.it"),
    "reddit": ("reddit.com", "redd.it"),
    "telegram": ("t.me", "telegram.org", "telegram.me"),
    "whatsapp": ("whatsapp.com", "wa.me"),
    "snapchat": ("snapchat.com",),
    "discord": ("discord.com", "discord.gg"),
    "bluesky": ("bsky.app",),
    "tumblr": ("tumblr.com",),
    "quora": ("quora.com",),
    "vk": ("vk.com",),
    "twitch": ("twitch.tv",),
}
_NETWORK_OF_HOST = {host: name.encode() for name, hosts in _NETWORKS.items() for host in hosts}


def judge_referrer(raw: bytes) -> Referrer:
    """From the Referer header (sic); android-app: referrers of the networks' apps are not told apart."""
    kept, changed = storable(raw, REFERRER_LIMIT)
    try:
        host = (urlsplit(kept.decode()).hostname or "").rstrip(".")
    except ValueError:
        host = ""
    channel = None
    while host and channel is None:
        channel = _NETWORK_OF_HOST.get(host)
        host = host.partition(".")[2]
    return Referrer(CLEANED if changed else 0, text(channel), *keyed(kept or None))


class Place(NamedTuple):
    """An address's part of the row: columns country and ip; the whole address for the visitor hash, never stored."""

    country: bytes
    ip_column: bytes
    address: bytes
    ip: str


class Places:
    """Addresses of visitors: the peer's, or behind trusted proxies the one X-Forwarded-For names, counted from the right."""

    def __init__(self, *, trusted: Sequence[Network], ip_mode: str, countries: Countries | None) -> None:
        self._trusted, self._ip_mode, self._countries = trusted, ip_mode, countries
        self.trusting = bool(trusted)      # whether X-Forwarded-For is looked at
        self.known: Memo[tuple[str, bytes], Place] = Memo(self._judge, length=lambda key: len(key[1]))

    def of(self, peer: str, forwarded: bytes) -> Place:
        """`peer` is the socket's address, `forwarded` the X-Forwarded-For lines joined by commas, b"" when there is none."""
        return self.known[peer, forwarded if self.trusting else b""]

    def of_request(self, request: web.Request) -> Place:
        """Of a request that aiohttp has read."""
        forwarded = ",".join(request.headers.getall("X-Forwarded-For", ())).encode("utf-8", "surrogateescape")
        return self.of(request.remote or "", forwarded)

    def _judge(self, key: tuple[str, bytes]) -> Place:
        address = self._client(*key)
        if address is None:
            return Place(NULL, NULL, b"", "")
        prefix = address.max_prefixlen if self._ip_mode == "full" else 24 if address.version == 4 else 48
        stored = None if self._ip_mode == "drop" else address
        country = self._countries.of(address) if self._countries else None
        return Place(text(country), inet(stored, prefix), address.packed, str(address))

    def _client(self, peer: str, forwarded: bytes) -> Address | None:
        address = parse_address(peer)
        for hop in reversed(forwarded.split(b",") if forwarded else ()):
            if address is None or not any(address in network for network in self._trusted):
                break
            named = parse_address(hop.decode("ascii", "replace").strip())
            if named is None:
                break
            address = named
        return address


def parse_address(written: str) -> Address | None:
    """An address as proxies write it (with a port, in brackets, with a zone), v4-mapped ones unwrapped; None: not one."""
    written = written.partition("%")[0]
    if written.startswith("["):
        written = written[1:].partition("]")[0]
    elif written.count(":") == 1:
        written = written.partition(":")[0]
    try:
        address = ip_address(written)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
