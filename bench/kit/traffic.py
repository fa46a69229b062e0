"""What the load consists of: clicks as browsers send them, the same bytes for every contender and every run.

Rich: 4,000 different user agents over 1,000 links, with the parameters that networks and ad platforms add, a tenth of
them escaped, and the headers of a browser that follows a link. Plain: one browser over the same links, with two sub ids.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

LINKS: Final = 1000
AGENTS: Final = 4000

_HOST: Final = b"go.example"
_SHAPES: Final = Path(__file__).with_name("user_agents.txt")
_RANGE: Final = re.compile(r"\{(\d+)-(\d+)\}")
_REFERRERS: Final = (
    "https://www.facebook.com/", "https://l.instagram.com/", "https://t.co/", "https://www.youtube.com/", "https://www.google.com/",
    "https://blog.example/posts/{}", "https://coupons.example/shop/{}", "https://www.reddit.com/r/deals/comments/{}/",
)
_SOURCES: Final = ("newsletter", "facebook", "google", "tiktok", "blog", "youtube", "coupons", "partner-a")
_ID_LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"      # as in gclid and fbclid


def user_agents(count: int = AGENTS) -> list[str]:
    """`count` different user agents in a fixed, mixed order: the shapes in turn, their version numbers drawn."""
    rng = random.Random(42)
    shapes = [line for line in _SHAPES.read_text().splitlines() if line and not line.startswith("#")]
    found: dict[str, None] = {}
    while len(found) < count:
        for shape in shapes:
            found[_RANGE.sub(lambda span: str(rng.randint(int(span[1]), int(span[2]))), shape)] = None
    agents = list(found)[:count]
    rng.shuffle(agents)
    return agents


def rich_clicks(*, host: bytes = _HOST) -> list[bytes]:
    """4,000 requests, one a user agent. About 640 bytes each."""
    rng = random.Random(7)
    return [
        b"GET /c/l%d?%b HTTP/1.1\r\nHost: %b\r\nConnection: keep-alive\r\nUpgrade-Insecure-Requests: 1\r\nUser-Agent: %b\r\n"
        b"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\nSec-Fetch-Site: cross-site\r\n"
        b"Sec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\nReferer: %b\r\nAccept-Encoding: gzip, deflate, br\r\n"
        b"Accept-Language: en-US,en;q=0.9\r\n\r\n"
        % (rng.randint(1, LINKS), _query(rng, number).encode(), host, agent.encode(), _referrer(rng).encode())
        for number, agent in enumerate(user_agents())
    ]


def plain_clicks(*, host: bytes = _HOST, links: Sequence[int] = range(1, LINKS + 1)) -> list[bytes]:
    """A request for each link, 1,000 of them, all of one browser. About 190 bytes each."""
    return [
        b"GET /c/l%d?sub1=aff%d&sub2=banner-%d HTTP/1.1\r\nHost: %b\r\n"
        b"User-Agent: Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:140.0) Gecko/20100101 Firefox/140.0\r\nAccept: */*\r\n\r\n"
        % (number, number % 50, number % 400, host)
        for number in links
    ]


def postbacks(tokens: list[str], serial: bytes) -> list[bytes]:
    """One request for each click token: a new sale every time it is sent."""
    return [
        b"GET /postback?click_id=%b&event=sale&txid=T%b&amount=%d.%02d&currency=EUR&token=token HTTP/1.1\r\n"
        b"Host: %b\r\nUser-Agent: shop/1.0\r\n\r\n" % (token.encode(), serial, 5 + number % 90, number % 100, _HOST)
        for number, token in enumerate(tokens)
    ]


def others(tokens: list[str], serial: bytes) -> list[bytes]:
    """What else comes to a click's host, a quarter each: a new sale, the same told again, one with a wrong token, no such path.

    The last two are refused, 401 and 404.
    """
    told = postbacks(tokens, serial)
    found = []
    for number, sale in enumerate(told):
        again = sale.replace(serial, b"-%d" % number)
        strange = b"GET /favicon-%d.ico HTTP/1.1\r\nHost: %b\r\n\r\n" % (number, _HOST)
        found += [sale, again, again.replace(b"token=token", b"token=wrong"), strange]
    return found


def mixed(clicks: list[bytes], others: list[bytes], *, share: float) -> list[bytes]:
    """The clicks, with others strewn in so that they are `share` of all."""
    rng = random.Random(11)
    count = round(len(clicks) * share / (1 - share))
    requests = [*clicks, *(others[number % len(others)] for number in range(count))]
    rng.shuffle(requests)
    return requests


def _query(rng: random.Random, number: int) -> str:
    source = rng.choice(_SOURCES)
    parts = [f"sub1=aff{number % 50}", f"sub2=banner-{rng.randint(1, 400)}", f"utm_source={source}", "utm_medium=cpc"]
    parts.append(f"utm_campaign={'spring%20sale' if number % 10 == 0 else 'spring-sale'}")
    if number % 3 == 0:
        parts.append(f"ext={rng.getrandbits(64):016x}")
    if number % 2 == 0:
        name, length = ("fbclid", 61) if source == "facebook" else ("gclid", 91)
        parts.append(f"{name}={''.join(rng.choices(_ID_LETTERS, k=length))}")
    return "&".join(parts)


def _referrer(rng: random.Random) -> str:
    return rng.choice(_REFERRERS).format(rng.randint(1, 500))
