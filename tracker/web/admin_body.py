"""Requests and answers of the admin API: bodies and queries in, JSON out. No route and no rule lives here."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import msgspec
import orjson
from aiohttp import web

from tracker.domain.mistakes import FieldMistake, Invalid
from tracker.storage.entities.table import PAGE_LIMIT, Page, Saved
from tracker.web.errors import BadRequest

BODY_LIMIT: Final = 64 * 1024   # bytes; the largest thing sent is a program with 1,000 networks, 20 kB
BODY_SECONDS = 10.0             # aiohttp tells nobody that chunks turned out to be none, and would wait for ever
DEFAULT_PAGE: Final = 100

_DECODER: Final = msgspec.json.Decoder(dict[str, Any])


async def read_body(request: web.Request) -> dict[str, Any]:
    """The JSON object that was sent. Raises BadRequest. What its fields may be is domain/fields.py's: a struct here
    would tell the first mistake only, and quote unknown names."""
    if request.content_type != "application/json":
        raise BadRequest(415)
    if "Content-Encoding" in request.headers:      # a compressed body could be any size
        raise BadRequest(415, "Send the body without Content-Encoding")
    if (request.content_length or 0) > BODY_LIMIT:
        raise BadRequest(413)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > BODY_LIMIT:
                    raise BadRequest(413)
    except TimeoutError:
        raise BadRequest(408) from None
    except (web.RequestPayloadError, ConnectionError) as exc:      # it broke off
        raise BadRequest(400, "The body cannot be read") from exc
    try:
        return _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise BadRequest(400, "The body is not a JSON object") from exc


def read_query(request: web.Request, *names: str) -> dict[str, str]:
    """The query's parameters, each once and of these names (and limit, after), empty ones left out. Raises Invalid."""
    known = {*names, "limit", "after"}
    given: dict[str, str] = {}
    mistakes = []
    for name, value in request.query.items():
        if name not in known:
            mistakes.append(FieldMistake("", f"an unknown parameter; there are {', '.join(sorted(known))}"))
        elif name in given:
            mistakes.append(FieldMistake(name, "is given twice"))
        elif "\0" in value or len(value) > 300:
            mistakes.append(FieldMistake(name, "cannot be that"))
        elif value:
            given[name] = value
    if mistakes:
        raise Invalid(*mistakes)
    return given


def read_limit(query: Mapping[str, str]) -> int:
    text = query.get("limit", str(DEFAULT_PAGE))
    if not (text.isascii() and text.isdecimal() and len(text) <= 4 and 1 <= int(text) <= PAGE_LIMIT):
        raise Invalid(FieldMistake("limit", f"must be a whole number from 1 to {PAGE_LIMIT}"))
    return int(text)


def read_moment(query: Mapping[str, str], name: str) -> datetime:
    """A time of the query, with its zone. Raises Invalid."""
    wrong = Invalid(FieldMistake(name, "must be a time like 2027-01-31T12:00:00Z"))
    try:
        moment = datetime.fromisoformat(query.get(name, "").replace(" ", "+"))   # a + that nobody escaped
    except ValueError as exc:
        raise wrong from exc
    if moment.tzinfo is None or not 1970 <= moment.year <= 3000:
        raise wrong
    return moment


def read_number(text: str | None, name: str) -> int | None:
    """The number of a coupon or credential. Raises Invalid."""
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= 10 and 1 <= int(text) < 1 << 30):
        raise Invalid(FieldMistake(name, "must be a number from 1 to 1073741823"))
    return int(text)


def dump(value: Any) -> bytes:
    """JSON: money as decimal strings, times as RFC 3339 in UTC, ids as text."""
    return orjson.dumps(value, default=str, option=orjson.OPT_UTC_Z)


def answer(value: Any, status: int = 200) -> web.Response:
    return web.Response(
        status=status, body=dump(value), content_type="application/json", headers={"Cache-Control": "no-store"}
    )


def answer_saved(saved: Saved, status: int = 200) -> web.Response:
    """The row as it is now, and `warnings`."""
    return answer({**saved.row, "warnings": list(saved.warnings)}, status)


def answer_page(page: Page) -> web.Response:
    """`items`, and `after` (null at the end): give it as the parameter to go on."""
    return answer({"items": page.rows, "after": page.after})
