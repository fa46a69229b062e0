"""Where one HTTP request ends, and whether it is a plain click: pure functions over bytes, no socket.

Strict on purpose. What is not exactly a request as RFC 9112 writes it (one Host, at most one Content-Length, no
Transfer-Encoding, Upgrade, Expect, no Connection but keep-alive, no folded line, no bare LF) is not framed here: it goes to
aiohttp with all that follows, for the connection's life, so that there is one opinion on every byte.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple

from tracker import speedups

CLICK_HEAD_LIMIT = 8192       # bytes of a whole plain click, below every limit aiohttp has (8,190 a line, 128 headers)
REMEMBERED = 1024             # bytes of headers worth remembering: those of every browser, without cookies
HEAD_LIMIT = 16_384           # bytes of an unfinished head the lane will hold: 20,000 slow strangers cost 330 MB, not 1.3 GB
FRAME_LIMIT = 65_536          # bytes of a whole request; larger ones are aiohttp's

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_VALUE = rb"[^\x00-\x08\x0a-\x1f\x7f]*+"

# A plain click's first line: method, slug, query.
_LINE: Final = re.compile(rb"(GET|HEAD) /c/([A-Za-z0-9_-]{1,64})[/.,;:!)'\]>]*(?:[?&]([!-\"$-~]*))? HTTP/1\.1\r\n")

# And its headers. Groups: 1 user agent, 2 host, 3 referrer, 4 forwarded, 5 purpose, 6 keep-alive. One expression: a header
# dictionary cost twice as much. Names that matter are matched once each (the conditional fails on a second one, and the last
# alternative does not take them), so a repeated one is no plain click; nor is what aiohttp takes once at most, or not at all.
# All repetitions that could share bytes are possessive: without that, fifty headers before a bad line would be tried in 2^50
# ways, and 60,000 spaces before a bad byte took 13 seconds.
_HEADERS: Final = re.compile(
    rb"(?:"
    rb"[ABDFGIJLNOQVWYZabdfgijlnoqvwyz][!#$%&'*+.^_`|~0-9A-Za-z-]*:" + _VALUE + rb"\r\n"
    rb"|[Ss]ec-(?:[Ff]etch|[Cc][Hh]|[Gg][Pp][Cc])[!#$%&'*+.^_`|~0-9A-Za-z-]*:" + _VALUE + rb"\r\n"
    rb"|[Uu]pgrade-[Ii]nsecure-[Rr]equests:" + _VALUE + rb"\r\n"
    rb"|(?i:user-agent)(?(1)(?!)):[ \t]*+(" + _VALUE + rb")\r\n"
    rb"|(?i:host)(?(2)(?!)):[ \t]*+([A-Za-z0-9._:\[\]-]+)[ \t]*\r\n"
    rb"|(?i:referer)(?(3)(?!)):[ \t]*+(" + _VALUE + rb")\r\n"
    rb"|(?i:x-forwarded-for)(?(4)(?!)):[ \t]*+(" + _VALUE + rb")\r\n"
    rb"|(?i:sec-purpose|purpose|x-moz)(?(5)(?!)):[ \t]*+(" + _VALUE + rb")\r\n"
    rb"|(?i:connection)(?(6)(?!)):[ \t]*+((?i:keep-alive))[ \t]*\r\n"
    rb"|(?!(?i:user-agent|host|referer|x-forwarded-for|sec-purpose|purpose|x-moz|connection|proxy-connection|content-length"
    rb"|content-encoding|content-type|content-location|content-range|transfer-encoding|te|trailer|upgrade|expect|keep-alive"
    rb"|etag|max-forwards|server|sec-websocket-key1):)"
    + _TOKEN + rb":" + _VALUE + rb"\r\n"
    rb"){1,100}+(?(2)|(?!))\r\n"
)

_REQUEST_LINE: Final = re.compile(rb"(?!CONNECT )[A-Z]{1,16} [!-~]{1,8000} HTTP/1\.1\r\n")
_HEADER: Final = re.compile(rb"(" + _TOKEN + rb"):[ \t]*+(" + _VALUE + rb")\r\n")
_UNFRAMED: Final = frozenset((b"transfer-encoding", b"upgrade", b"expect", b"te", b"trailer", b"proxy-connection", b"keep-alive"))
_START: Final = re.compile(rb"[A-Z]{1,16}(?: [!-~]*(?: [HTTP/1.]*\r?)?)?")


class Visit(NamedTuple):
    """What a click's request says, whichever lane read it. Absent headers are b""."""

    slug: bytes
    query: bytes          # raw, after the question mark
    user_agent: bytes
    referrer: bytes
    head: bool
    prefetch: bool
    beacon: bool          # a POST: browsers' sendBeacon and ping


PlainClick = tuple[Visit, bytes, int]      # a visit the lane may answer, its X-Forwarded-For, where the next request begins


class Said(NamedTuple):
    """What the headers of a plain click say."""

    user_agent: bytes
    referrer: bytes
    forwarded: bytes
    prefetch: bool


_new = tuple.__new__      # what a NamedTuple calls in the end, at a third of the cost


def plain_click_in_python(data: bytes, start: int) -> PlainClick | None:
    """The request at `start` when it is a plain click and whole; None: something else, judge it with `frame`."""
    head = plain_head(_LINE, data, start)
    if head is None:
        return None
    line, headers, end = head
    said = _remembered(headers) if len(headers) <= REMEMBERED else read_headers(headers)
    if said is None:
        return None
    user_agent, referrer, forwarded, prefetch = said
    method, slug, query = line.groups(b"")
    return _new(Visit, (slug, query, user_agent, referrer, method == b"HEAD", prefetch, False)), forwarded, end


plain_click = speedups.plain_clicks(plain_click_in_python, Visit)


def plain_head(line: re.Pattern[bytes], data: bytes, start: int) -> tuple[re.Match[bytes], bytes, int] | None:
    """The request at `start` if its first line is such a one and its head is whole and short: the line, the headers with the
    empty line behind them, and where they end."""
    first = line.match(data, start, start + CLICK_HEAD_LIMIT)
    if first is None:
        return None
    end = data.find(b"\r\n\r\n", first.end(), start + CLICK_HEAD_LIMIT) + 4
    return None if end < 4 else (first, data[first.end():end], end)


def read_headers(headers: bytes) -> Said | None:
    """What the headers of a plain request say, line ends and the empty line included; None: it is not plain."""
    match = _HEADERS.fullmatch(headers)
    if match is None:
        return None
    agent, _, referrer, forwarded, purpose, _ = match.groups(b"")
    return Said(agent.rstrip(b" \t"), referrer.rstrip(b" \t"), forwarded, purpose != b"" and is_prefetch(purpose))


# A browser sends the same headers with every click but for the referrer, and clicks carry no cookies: what one block of
# headers says is remembered by its bytes. Where proxies add addresses, few are met again, and each costs a tenth more.
_remembered = lru_cache(maxsize=8192)(read_headers)      # of at most REMEMBERED bytes: 10 MB a worker at the very most


PREFETCH_HEADERS: Final = ("Sec-Purpose", "Purpose", "X-Moz")


def is_prefetch(purpose: bytes) -> bool:
    """From Sec-Purpose, Purpose or X-Moz: a page nobody has looked at yet."""
    lowered = purpose.lower()
    return b"prefetch" in lowered or b"prerender" in lowered or b"preview" in lowered


def frame(data: bytes, start: int) -> int:
    """Where the request at `start` ends; beyond len(data) when its body is not whole yet.

    0: the head is not whole yet (and well so far); -1: it cannot be framed.
    """
    head_end = data.find(b"\r\n\r\n", start)
    if head_end < 0:
        return -1 if len(data) - start > HEAD_LIMIT or not _well_begun(data, start) else 0
    line = _REQUEST_LINE.match(data, start)
    if line is None:
        return -1
    position = line.end()
    hosts = length = 0
    lengths: list[bytes] = []
    while position < head_end + 2:
        header = _HEADER.match(data, position)
        if header is None:
            return -1
        position = header.end()
        name = header[1].lower()
        value = header[2].rstrip(b" \t")
        if name in _UNFRAMED or (name == b"connection" and value.lower() != b"keep-alive"):
            return -1
        if name == b"host":
            hosts += 1
        elif name == b"content-length":
            lengths.append(value)
    if position != head_end + 2 or hosts != 1 or len(lengths) > 1:
        return -1
    if lengths:
        if not lengths[0].isdigit() or len(lengths[0]) > 10:
            return -1
        length = int(lengths[0])
    end = head_end + 4 + length
    return -1 if end - start > FRAME_LIMIT else end


def _well_begun(data: bytes, start: int) -> bool:
    """Whether an unfinished head may still become a request: refused early, so that garbage is answered, not waited for."""
    first_line_end = data.find(b"\n", start)
    if first_line_end < 0:
        return _START.fullmatch(data, start) is not None
    return _REQUEST_LINE.match(data, start) is not None and data.count(b"\n", start) == data.count(b"\r\n", start)
