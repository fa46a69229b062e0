"""The door for postbacks: `/postback` (GET, POST of a form or JSON) and `POST /v1/conversions`.

HTTP in, HTTP out: what a request holds becomes pairs of names and texts, and goes to postback_intake.py.
Decisions of this door:
- HEAD and other methods: 405. Whatever says that it prefetches: 400; a browser throws a failed prefetch away and asks
  again when somebody really goes there.
- A body is at most 64 KiB, a form or JSON, unencoded (a compressed body could be any size), and here within 10 s. A GET
  has none. Parameters of query and body count together.
- `/v1/conversions` reads up to 1 MB, but only from who holds a token of some program.
- `Idempotency-Key`: order numbers and clicks make a repeated request harmless already. Only where a program allows
  several conversions per key is more needed: there, an item without `event_id` gets key and place as its event id.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from tracker.domain.click_id import Keyring
from tracker.domain.postback_parameters import Pair, read_json, read_urlencoded
from tracker.domain.refusal import Reason, Refused
from tracker.storage.catalog.catalog import Catalog
from tracker.storage.conversions.journal import Journal
from tracker.storage.conversions.recorder import Recorder
from tracker.storage.conversions.refusals import Refusals
from tracker.storage.conversions.unjournalled import UnjournalledRecorder
from tracker.web.framing import PREFETCH_HEADERS, is_prefetch
from tracker.web.postback_answers import AGAIN, answer, answer_json, answer_method_not_allowed, body_of, status_of
from tracker.web.postback_auth import Sender, signed_part
from tracker.web.postback_intake import COMMIT_SECONDS, Delivery, Intake

MOST_BODY = 64 * 1024
MOST_ARRAY_BODY = 1024 * 1024
MOST_ITEMS = 1000
BODY_SECONDS = 10.0

_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,128}")


class PostbackDoor:
    """The routes. `client_ip(request)`: the sender's address, proxies seen through; `clock_ms()`: Unix time in ms;
    `observe(seconds)`: told of each request how long it took from its body read to its answer made; `commit_seconds`: how
    long an answer waits for the commit."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        keyring: Keyring,
        journal: Journal,
        recorder: Recorder,
        unjournalled: UnjournalledRecorder,
        refusals: Refusals,
        client_ip: Callable[[web.Request], str],
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        observe: Callable[[float], None] = lambda _: None,
        commit_seconds: float = COMMIT_SECONDS,
    ) -> None:
        self.intake = Intake(
            catalog=catalog,
            keyring=keyring,
            journal=journal,
            recorder=recorder,
            unjournalled=unjournalled,
            refusals=refusals,
            commit_seconds=commit_seconds,
        )
        self._observe = observe
        self._catalog = catalog
        self._client_ip = client_ip
        self._clock_ms = clock_ms

    def routes(self) -> list[web.RouteDef]:
        """For the public application. Every method comes here, so that every answer is ours."""
        return [web.route("*", "/postback", self.postback), web.route("*", "/v1/conversions", self.conversions)]

    async def postback(self, request: web.Request) -> web.Response:
        """One message."""
        if request.method not in ("GET", "POST"):
            return answer_method_not_allowed("GET, POST")
        try:
            _check_intent(request)
            body = await _read_body(request, MOST_BODY) if request.can_read_body else b""
        except Refused as refused:
            return self._turn_away(request, refused.reason)
        with self._observed():
            return await self._take_one(request, body)

    async def conversions(self, request: web.Request) -> web.Response:
        """One message or an array; for an array, 200 and an outcome per item, unless nothing at all could be kept."""
        if request.method != "POST":
            return answer_method_not_allowed("POST")
        try:
            _check_intent(request)
            bearer = self._check_bearer(request)
            key = _idempotency_key(request)
            body = await _read_json_body(request)
        except Refused as refused:
            return self._turn_away(request, refused.reason)
        with self._observed():
            return await self._take_items(request, body, bearer, key)

    async def _take_one(self, request: web.Request, body: bytes) -> web.Response:
        try:
            pairs = read_urlencoded(_raw_query(request)) + _pairs_of_body(request, body)
        except Refused as refused:
            return self._turn_away(request, refused.reason)
        sender = Sender(
            self._client_ip(request),
            bearer=_bearer(request),
            timestamp=request.headers.get("X-Tracker-Timestamp"),
            hex_digest=request.headers.get("X-Tracker-Signature"),
            signed=lambda: signed_part(request.method, request.raw_path.encode("utf-8", "surrogateescape"), body),
        )
        [outcome] = await self.intake.take([Delivery(pairs)], sender, now_ms=self._clock_ms())
        return answer(outcome)

    async def _take_items(self, request: web.Request, body: bytes, bearer: str, key: str | None) -> web.Response:
        try:
            items, is_array = read_json(body, most_items=MOST_ITEMS)
        except Refused as refused:
            return self._turn_away(request, refused.reason)
        deliveries = [
            Delivery(pairs, None if key is None else f"{key}#{number}") for number, pairs in enumerate(items)
        ]
        sender = Sender(self._client_ip(request), bearer=bearer)
        outcomes = await self.intake.take(deliveries, sender, now_ms=self._clock_ms())
        if not is_array or all(status_of(outcome) in AGAIN for outcome in outcomes):
            return answer(outcomes[0])
        return answer_json([body_of(outcome) for outcome in outcomes])

    @contextmanager
    def _observed(self) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self._observe(time.monotonic() - started)

    def _check_bearer(self, request: web.Request) -> str:
        """A token of any program: what an item may say is judged later, this opens the door to a megabyte."""
        bearer = _bearer(request)
        if not self._catalog.ready:
            raise Refused(Reason.UNAVAILABLE)
        if bearer is None:
            raise Refused(Reason.MISSING_TOKEN)
        if self._catalog.credential_of_token(bearer.encode("utf-8", "replace")) is None:
            raise Refused(Reason.BAD_TOKEN)
        return bearer

    def _turn_away(self, request: web.Request, reason: Reason) -> web.Response:
        response = answer(self.intake.refuse(reason, now_ms=self._clock_ms()))
        if request.can_read_body:
            response.force_close()       # what is left of the body is not worth reading
        return response


def _check_intent(request: web.Request) -> None:
    purposes = (value for name in PREFETCH_HEADERS for value in request.headers.getall(name, ()))
    if any(is_prefetch(value.encode("utf-8", "replace")) for value in purposes):
        raise Refused(Reason.PREFETCH)
    if "Content-Encoding" in request.headers:
        raise Refused(Reason.CONTENT_ENCODING)
    if request.method == "GET" and request.can_read_body:
        raise Refused(Reason.BAD_BODY)


async def _read_json_body(request: web.Request) -> bytes:
    if request.content_type != "application/json":
        raise Refused(Reason.UNSUPPORTED_TYPE)
    return await _read_body(request, MOST_ARRAY_BODY)


async def _read_body(request: web.Request, most: int) -> bytes:
    """The whole body. Raises Refused: TOO_LARGE, SLOW_BODY, BAD_BODY (it broke off)."""
    if (request.content_length or 0) > most:
        raise Refused(Reason.TOO_LARGE)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while chunk := await request.content.readany():
                body += chunk
                if len(body) > most:
                    raise Refused(Reason.TOO_LARGE)
    except TimeoutError:
        raise Refused(Reason.SLOW_BODY) from None
    except (web.RequestPayloadError, HttpProcessingError, ConnectionError):
        raise Refused(Reason.BAD_BODY) from None
    return bytes(body)


def _pairs_of_body(request: web.Request, body: bytes) -> list[Pair]:
    if not body:
        return []
    if request.content_type == "application/x-www-form-urlencoded":
        return read_urlencoded(body)
    if request.content_type == "application/json":
        [pairs], _ = read_json(body)
        return pairs
    raise Refused(Reason.UNSUPPORTED_TYPE)


def _raw_query(request: web.Request) -> bytes:
    """The query as sent: aiohttp's own has been decoded and quoted again."""
    return request.raw_path.partition("?")[2].partition("#")[0].encode("utf-8", "surrogateescape")


def _bearer(request: web.Request) -> str | None:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return (token.strip() or None) if scheme.lower() == "bearer" else None


def _idempotency_key(request: web.Request) -> str | None:
    key = request.headers.get("Idempotency-Key")
    if key is not None and not _IDEMPOTENCY_KEY.fullmatch(key):
        raise Refused(Reason.BAD_IDEMPOTENCY_KEY)
    return key
