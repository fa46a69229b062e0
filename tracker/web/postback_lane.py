"""The fast lane's postbacks: the plain GET that networks send, taken without aiohttp. All others are postback.py's.

Same intake, same answers: one request gets one answer, byte for byte, whichever lane took it. Plain is what a plain click
is (framing.py), and shows no credentials but in its query: a head with Authorization or X-Tracker-… is aiohttp's, as are
bodies, prefetches, HEAD, and links that have to be looked up, which waits.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from functools import lru_cache
from http import HTTPStatus
from typing import Final, NamedTuple, Protocol

import orjson
from aiohttp.helpers import rfc822_formatted_time

from tracker.domain.postback_parameters import read_urlencoded
from tracker.web.framing import REMEMBERED, plain_head, read_headers
from tracker.web.postback_answers import Outcome, body_of, headers_of, status_of
from tracker.web.postback_auth import Sender, signed_part
from tracker.web.postback_intake import Delivery, Intake

_BEGIN: Final = b"GET /postback?"
_LINE: Final = re.compile(rb"GET /postback\?([!-\"$-~]*) HTTP/1\.1\r\n")
_CREDENTIALS: Final = re.compile(rb"^(?:authorization|x-tracker-[^:]*):", re.IGNORECASE | re.MULTILINE)


class PlainPostback(NamedTuple):
    """A postback the lane may take."""

    query: bytes          # raw, after the question mark
    forwarded: bytes      # its X-Forwarded-For, b"" when there is none
    end: int              # where the next request begins


class Connection(Protocol):
    """Who waits for an answer."""

    def reply(self, answer: bytes) -> None: ...


def plain_postback(data: bytes, start: int) -> PlainPostback | None:
    """The request at `start` when it is a plain postback and whole; None: something else, judge it with `frame`."""
    if not data.startswith(_BEGIN, start):
        return None
    head = plain_head(_LINE, data, start)
    if head is None:
        return None
    line, headers, end = head
    forwarded = _remembered(headers) if len(headers) <= REMEMBERED else _forwarded(headers)
    return None if forwarded is None else PlainPostback(line[1], forwarded, end)


def _forwarded(headers: bytes) -> bytes | None:
    """What a postback's headers say, if they say no more: X-Forwarded-For."""
    said = read_headers(headers)
    if said is None or said.prefetch or _CREDENTIALS.search(headers):
        return None
    return said.forwarded


_remembered = lru_cache(maxsize=1024)(_forwarded)      # each sender's are the same every time; 1 MB a worker at most


class PostbackLane:
    """One per worker. `draining()`: whether answers close their connections; the others as in PostbackDoor."""

    def __init__(
        self, intake: Intake, *, draining: Callable[[], bool], observe: Callable[[float], None],
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._intake, self._draining, self._observe, self._clock_ms = intake, draining, observe, clock_ms

    def take(self, connection: Connection, query: bytes, client_ip: str) -> bool:
        """Take one; the connection gets its answer in a later turn of the event loop, within 1.5 s, once the message is kept.
        False: nothing was done, it is aiohttp's."""
        started = time.monotonic()
        sender = Sender(client_ip, signed=lambda: signed_part("GET", b"/postback?" + query, b""))

        def answer(outcome: Outcome) -> None:
            self._observe(time.monotonic() - started)
            connection.reply(spell(outcome, closing=self._draining()))

        return self._intake.take_at_once(Delivery(read_urlencoded(query)), sender, answer, now_ms=self._clock_ms())


def spell(outcome: Outcome, *, closing: bool) -> bytes:
    """The bytes of an answer, as aiohttp writes that of postback_answers.answer."""
    status, body = status_of(outcome), orjson.dumps(body_of(outcome))
    return b"%b%d\r\nDate: %b%b\r\n\r\n%b" % (
        _head(status), len(body), rfc822_formatted_time().encode(), b"\r\nConnection: close" if closing else b"", body,
    )


@lru_cache
def _head(status: int) -> bytes:
    """Of an answer with this status, up to its length."""
    headers = "".join(f"{name}: {value}\r\n" for name, value in (headers_of(status) | {"Server": "tracker"}).items())
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{headers}Content-Length: ".encode()
