"""What the stores of programs, partners, links and coupons have in common: numbers, pages, dated terms, enrolments.

No kind's own columns live here.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, LiteralString

from tracker.domain.fields import Commission, commission_text
from tracker.domain.mistakes import Conflict, FieldMistake, Invalid
from tracker.storage.postgres import Pool

Row = dict[str, Any]

ACQUIRE_SECONDS = 5.0
PAGE_LIMIT = 1000
SINCE_EVER = datetime(1970, 1, 1, tzinfo=UTC)
"""When the first of dated terms begin: nothing earlier can be changed by them, and a click of an edge whose clock is a
little behind is not without terms."""

_NUMBERS = (1 << 30) - 1   # of programs, partners, links, coupons, credentials: 1 … 2^30 - 1
_DRAWS = 20                # at half a billion rows one draw in two is taken: a million to one that 20 are

_ADD_COMMISSION = """
INSERT INTO commission_terms (program_id, partner_id, event, valid_from, kind, rate, amount, currency)
VALUES ($1, $2, $3, coalesce($4, clock_timestamp()), $5, $6, $7, $8)
"""

_CURRENT_COMMISSIONS = """
SELECT DISTINCT ON (c.program_id, c.partner_id, c.event)
       programs.slug AS program, partners.slug AS partner, nullif(c.event, '') AS event, c.kind, c.rate, c.amount,
       c.currency, c.valid_from
  FROM commission_terms AS c JOIN programs USING (program_id) LEFT JOIN partners USING (partner_id)
 WHERE ($1::int IS NULL OR c.program_id = $1) AND ($2::int IS NULL OR c.partner_id = $2)
 ORDER BY c.program_id, c.partner_id, c.event, c.valid_from DESC
"""

_ENROLMENT = """
SELECT status FROM enrolments WHERE program_id = $1 AND partner_id = $2 ORDER BY valid_from DESC LIMIT 1
"""

_ENROL = """
INSERT INTO enrolments (program_id, partner_id, valid_from, status) VALUES ($1, $2, coalesce($3, clock_timestamp()), $4)
ON CONFLICT DO NOTHING
"""


@dataclass(frozen=True, slots=True)
class Saved:
    """A row as it is now, and what the person who saved it should know."""

    row: Row
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a list. `after`: give it to go on behind the last row; None at the end."""

    rows: list[Row] = field(default_factory=list)
    after: str | None = None


class Table:
    """What the stores of each kind have in common."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        async with self._pool.acquire(timeout=ACQUIRE_SECONDS) as connection:
            yield connection

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Any]:
        async with self._connection() as connection, connection.transaction():
            yield connection


async def insert_numbered(connection: Any, statement: LiteralString, *values: Any) -> int | None:
    """Run an INSERT … ON CONFLICT DO NOTHING RETURNING number with a random free number as $1; None: something else
    of the row is taken (its slug)."""
    for _ in range(_DRAWS):
        number = secrets.randbelow(_NUMBERS) + 1
        if await connection.fetchval(statement, number, *values) is not None:
            return number
    return None


async def known(connection: Any, statement: LiteralString, slug: str, field_name: str) -> Row:
    """The row a field refers to by its slug. Raises Invalid when there is none."""
    row = await connection.fetchrow(statement, slug)
    if row is None:
        raise Invalid(FieldMistake(field_name, "does not exist"))
    return dict(row)


async def add_commission(
    connection: Any, program_id: int, partner_id: int, event: str, terms: Commission, valid_from: datetime | None = None
) -> None:
    """Dated terms from then on; None: from now on. Never in the past: what was earned stays earned."""
    await connection.execute(
        _ADD_COMMISSION, program_id, partner_id, event, valid_from, terms.kind, terms.rate, terms.amount, terms.currency
    )


async def current_commissions(connection: Any, *, program_id: int | None, partner_id: int | None) -> list[Row]:
    """The terms that hold now, the ended ones left out."""
    return [
        {
            "program": row["program"],
            "partner": row["partner"],
            "event": row["event"],
            "commission": commission_text(row["rate"], row["amount"], row["currency"]),
            "valid_from": since(row["valid_from"]),
        }
        for row in await connection.fetch(_CURRENT_COMMISSIONS, program_id, partner_id)
        if row["kind"] != "none"
    ]


async def enrol(connection: Any, program_id: int, partner_id: int) -> str | None:
    """See that a partner is in a program from now on; what to tell if he was not."""
    status = await connection.fetchval(_ENROLMENT, program_id, partner_id)
    if status == "active":
        return None
    await connection.execute(_ENROL, program_id, partner_id, SINCE_EVER if status is None else None, "active")
    return f"the partner {'was not in this program and is now' if status is None else 'is in this program again'}"


async def end_enrolment(connection: Any, program_id: int, partner_id: int) -> None:
    if await connection.fetchval(_ENROLMENT, program_id, partner_id) == "active":
        await connection.execute(_ENROL, program_id, partner_id, None, "ended")


def page(records: Sequence[Any], limit: int, key: str) -> Page:
    """A page of `limit` rows from a query that asked for one more."""
    rows = [dict(record) for record in records[:limit]]
    return Page(rows, str(rows[-1][key]) if len(records) > limit else None)


def since(moment: datetime) -> datetime | None:
    """For showing: None means since ever."""
    return None if moment == SINCE_EVER else moment


def taken(what: str, field_name: str = "slug") -> Conflict:
    return Conflict(f"there is a {what} with this {field_name} already; they are never used twice", field_name)
