"""Reading what happened: clicks, conversions, the postback log. For the admin API; nothing is written here.

Clicks are many: they are read by id or within a day, always through their primary key, so that a look touches one or
two partitions. Lists go on behind a key (keyset), never by offset. The questions themselves: records_sql.py.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson

from tracker.domain.click_id import TOKEN_LENGTH, uuid_time_ms
from tracker.domain.mistakes import FieldMistake, Invalid, NotFound
from tracker.storage.entities import records_sql as sql
from tracker.storage.entities.table import Page, Row, Table

SPAN = timedelta(hours=24)   # the longest look at clicks
_KEYED = (("user_agent", "agent_key"), ("referrer", "referrer_key"))
_DAY_MS = 86_400_000
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
FLAGS = {1: "bot", 2: "prefetch", 4: "head", 8: "test", 16: "cleaned", 32: "fallback", 64: "beacon", 128: "flood"}


class Records(Table):
    """Clicks oldest first, conversions and postbacks newest first."""

    async def click(self, click_id: str) -> Row:
        """By token (32 characters) or uuid. Raises Invalid, NotFound."""
        async with self._connection() as connection:
            record = await connection.fetchrow(sql.CLICK, parse_click_id(click_id))
            if record is None:
                raise NotFound("click")
            return _click(record, await _texts(connection, [record]))

    async def clicks(
        self, *, start: datetime, end: datetime, link: str | None = None, program: str | None = None,
        partner: str | None = None, after: str | None = None, limit: int = 100,
    ) -> Page:  # fmt: skip
        """Those of a span of at most 24 hours. Raises Invalid: span too long, unknown link, program or partner."""
        if not timedelta(0) < end - start <= SPAN:
            raise Invalid(FieldMistake("to", "must be after `from`, by 24 hours at most"))
        first, last = _floor(start), _floor(end)
        if after is not None:
            first = max(first, UUID(int=min(parse_uuid(after, "after").int, last.int) + 1))
        async with self._connection() as connection:
            numbers = await connection.fetchrow(sql.NUMBERS, link, program, partner)
            asked = {"link": link, "program": program, "partner": partner}
            absent = [name for name, slug in asked.items() if slug is not None and numbers[name] is None]
            if absent:
                raise Invalid(*(FieldMistake(name, "does not exist") for name in absent))
            found = await connection.fetch(
                sql.CLICKS, first, last, numbers["link"], numbers["program"], numbers["partner"], limit + 1
            )
            texts = await _texts(connection, found)
        rows = [_click(record, texts) for record in found[:limit]]
        return Page(rows, str(rows[-1]["click_id"]) if len(found) > limit else None)

    async def conversion(self, conversion_id: str) -> Row:
        """With the first message, every change and the ledger. Raises Invalid, NotFound."""
        number = parse_uuid(conversion_id, "conversion_id")
        async with self._connection() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
            record = await connection.fetchrow(sql.CONVERSION, number)
            if record is None:
                raise NotFound("conversion")
            row = dict(record)
            first = await connection.fetchrow(sql.FIRST_MESSAGE, number)
            row["first_message"] = dict(first) if first else None
            history = await connection.fetch(sql.HISTORY, number)
            row["history"] = [{**one, "detail": orjson.loads(one["detail"])} for one in history]
            row["ledger"] = [dict(one) for one in await connection.fetch(sql.LEDGER, number)]
        return row

    async def conversions(
        self, *, program: str | None = None, partner: str | None = None, status: str | None = None,
        txid: str | None = None, after: str | None = None, limit: int = 100,
    ) -> Page:  # fmt: skip
        async with self._connection() as connection:
            asked = (program, partner, status, txid)
            found = await connection.fetch(sql.CONVERSIONS, *read_key(after), *asked, limit + 1)
        return timed_page([dict(record) for record in found], limit, "created_at", "conversion_id")

    async def postbacks(
        self, *, program: str | None = None, outcome: str | None = None, conversion_id: str | None = None,
        after: str | None = None, limit: int = 100,
    ) -> Page:  # fmt: skip
        about = None if conversion_id is None else parse_uuid(conversion_id, "conversion_id")
        async with self._connection() as connection:
            found = await connection.fetch(sql.POSTBACKS, *read_key(after), program, outcome, about, limit + 1)
        rows = [{**record, "message": orjson.loads(record["message"])} for record in found]
        return timed_page(rows, limit, "received_at", "message_id")


def parse_click_id(text: str) -> UUID:
    """A token as it travels, or the stored uuid with its dashes (a token may look like a uuid without). Raises Invalid.

    The token's signature is not checked: whoever may read all clicks may ask for any.
    """
    if len(text) == TOKEN_LENGTH:
        try:
            return UUID(bytes=base64.b32hexdecode(text.encode(), casefold=True)[:16])
        except (binascii.Error, ValueError) as exc:
            raise Invalid(FieldMistake("id", "is not a click id")) from exc
    return parse_uuid(text, "id")


def parse_uuid(text: str, name: str) -> UUID:
    if not _UUID.fullmatch(text):
        raise Invalid(FieldMistake(name, "is not an id"))
    return UUID(text)


def _floor(moment: datetime) -> UUID:
    """The least click id of a moment. Raises Invalid outside the years ids can say."""
    ms = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    if not 0 <= ms < 1 << 45:
        raise Invalid(FieldMistake("from", "is not a time of clicks"))
    return UUID(int=ms << 83)


async def _texts(connection: Any, records: Sequence[Mapping[str, Any]]) -> dict[tuple[int, str, bytes], str]:
    """What keys stand for in the rows that leave a text out, by day and column: another row of the day says it."""
    asked: dict[tuple[int, str], set[bytes]] = {}
    for record in records:
        for text, key in _KEYED:
            if record[text] is None and record[key] is not None:
                asked.setdefault((_day(record["click_id"]), text), set()).add(record[key])
    texts = {}
    for (day, text), keys in asked.items():
        first, last = (UUID(int=one * _DAY_MS << 83) for one in (day, day + 1))
        statement = sql.USER_AGENTS if text == "user_agent" else sql.REFERRERS
        for key, said in await connection.fetch(statement, first, last, list(keys)):
            texts[day, text, key] = said
    return texts


def _day(click_id: UUID) -> int:
    return uuid_time_ms(click_id.bytes) // _DAY_MS


def _click(record: Mapping[str, Any], texts: Mapping[tuple[int, str, bytes], str]) -> Row:
    row = dict(record)
    flags = row.pop("flags")
    for text, key in _KEYED:
        said = row.pop(key)
        if row[text] is None:
            row[text] = texts.get((_day(row["click_id"]), text, said))
    row["at"] = datetime.fromtimestamp(uuid_time_ms(row["click_id"].bytes) / 1000, UTC)
    row["flags"] = [name for bit, name in FLAGS.items() if flags & bit]
    row["query"] = None if row["query"] is None else orjson.loads(row["query"])
    row["ip"] = None if row["ip"] is None else str(row["ip"])
    row["visitor"] = f"{row['visitor'] & (1 << 64) - 1:016x}"
    return row


def timed_page(rows: list[Row], limit: int, moment: str, number: str) -> Page:
    """A page of a list ordered by a moment and an id; both are the key to go on behind."""
    shown = rows[:limit]
    return Page(shown, f"{shown[-1][moment].isoformat()}~{shown[-1][number]}" if len(rows) > limit else None)


def read_key(after: str | None) -> tuple[datetime | None, UUID | None]:
    if after is None:
        return None, None
    moment, _, number = after.partition("~")
    try:
        read = datetime.fromisoformat(moment)
    except ValueError as exc:
        raise Invalid(FieldMistake("after", "is not from an answer of this list")) from exc
    if read.tzinfo is None or not 1970 <= read.year <= 3000:       # in UTC it may lie outside the years that Python knows
        raise Invalid(FieldMistake("after", "is not from an answer of this list"))
    return read, parse_uuid(number, "after")
