"""What partners were told, or are to be told: the outbox, for people. Lists and second chances; sending is jobs/outbox.py's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import orjson

from tracker.domain.fields import RETRY
from tracker.domain.mistakes import FieldMistake, Invalid
from tracker.domain.outgoing import message_id
from tracker.storage.entities.records import parse_uuid, read_key
from tracker.storage.entities.table import Page, Row, Table

STATES: Final = ("waiting", "failed", "sent", "given_up")
RETRY_ROWS: Final = 10_000     # in one call
_NUMBER: Final = re.compile("[0-9]{1,10}")

# failed: it was tried, and will be again.
_LIST = """
SELECT * FROM (
       SELECT o.conversion_id, o.entry, o.endpoint_id, r.slug AS partner, p.slug AS program, o.said,
              CASE WHEN o.state = 'waiting' AND o.last_reason IS NOT NULL THEN 'failed' ELSE o.state END AS state,
              o.attempts, o.last_reason, o.last_status, o.tried_at, CASE WHEN o.state = 'waiting' THEN o.due_at END AS due_at,
              o.created_at
         FROM outbox AS o JOIN partners AS r USING (partner_id) JOIN programs AS p ON p.program_id = o.program_id
        WHERE ($1::timestamptz IS NULL
               OR (o.created_at, o.conversion_id, o.entry, o.endpoint_id) < ($1, $2::uuid, $3::int, $4::int))
          AND ($5::text IS NULL OR r.slug = $5) AND ($7::uuid IS NULL OR o.conversion_id = $7)
       ) AS d
 WHERE ($6::text IS NULL OR state = $6)
 ORDER BY created_at DESC, conversion_id DESC, entry DESC, endpoint_id DESC LIMIT $8
"""
# What was outdone by a later step that has been told stays untold: the last word is the right one.
_RETRY = """
UPDATE outbox SET state = 'waiting', due_at = now(), give_up_at = NULL, attempts = 0
 WHERE ctid = ANY (ARRAY(
       SELECT o.ctid FROM outbox AS o JOIN partners AS r USING (partner_id)
        WHERE o.state = 'given_up' AND ($1::text IS NULL OR r.slug = $1) AND ($2::int IS NULL OR o.endpoint_id = $2)
          AND ($3::timestamptz IS NULL OR o.created_at >= $3)
          AND NOT EXISTS (SELECT 1 FROM outbox AS later
                           WHERE later.conversion_id = o.conversion_id AND later.endpoint_id = o.endpoint_id
                             AND later.entry > o.entry AND later.state = 'sent')
        LIMIT $4)) AND state = 'given_up'
"""


class Deliveries(Table):
    """Newest first."""

    async def list(
        self, *, partner: str | None = None, state: str | None = None, conversion_id: str | None = None,
        after: str | None = None, limit: int = 100,
    ) -> Page:  # fmt: skip
        """Raises Invalid."""
        if state is not None and state not in STATES:
            raise Invalid(FieldMistake("state", f"must be one of {', '.join(STATES)}"))
        about = None if conversion_id is None else parse_uuid(conversion_id, "conversion_id")
        async with self._connection() as connection:
            found = await connection.fetch(_LIST, *_read_after(after), partner, state, about, limit + 1)
        rows = [_row(record) for record in found[:limit]]
        return Page(rows, _after(found[limit - 1]) if len(found) > limit else None)

    async def retry(self, given: Mapping[str, Any]) -> Row:
        """Try again what was given up: all, or that of a `partner`, an `endpoint_id`, `since` a moment; at most 10,000 a call.
        `retried`: how many. Endpoints that are off must be taken up again as well. Raises Invalid."""
        asked = RETRY.check_new(given)
        async with self._transaction() as connection:
            status = await connection.execute(
                _RETRY, asked.get("partner"), asked.get("endpoint_id"), asked.get("since"), RETRY_ROWS
            )
        return {"retried": int(status.rpartition(" ")[2])}


def _row(record: Mapping[str, Any]) -> Row:
    said = orjson.loads(record["said"])
    row = {"message_id": message_id(record["conversion_id"], record["entry"], record["endpoint_id"]), **record}
    del row["entry"], row["said"]
    return {**row, **{name: said.get(name) for name in ("event", "txid", "status", "commission", "commission_currency")}}


def _after(record: Mapping[str, Any]) -> str:
    key = (record["created_at"].isoformat(), record["conversion_id"], record["entry"], record["endpoint_id"])
    return "~".join(map(str, key))


def _read_after(after: str | None) -> tuple[Any, Any, int | None, int | None]:
    if after is None:
        return None, None, None, None
    moment, *rest = after.split("~")
    numbers = [int(text) for text in rest[1:] if _NUMBER.fullmatch(text)]
    if len(rest) != 3 or len(numbers) != 2 or max(numbers) >= 1 << 31:
        raise Invalid(FieldMistake("after", "is not from an answer of this list"))
    return *read_key(f"{moment}~{rest[0]}"), numbers[0], numbers[1]
