"""Coupons: codes that credit a partner without a click. One code a program, whatever its case, for ever."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tracker.domain.fields import COUPON
from tracker.domain.mistakes import FieldMistake, Invalid, NotFound
from tracker.domain.program import coupon_key
from tracker.storage.entities.table import Page, Row, Saved, Table, enrol, insert_numbered, known, page, taken

_INSERT = """
INSERT INTO coupons (coupon_id, program_id, partner_id, code, valid_from, valid_to)
VALUES ($1, $2, $3, $4, coalesce($5, now()), $6) ON CONFLICT DO NOTHING RETURNING coupon_id
"""

_SELECT = """
SELECT c.coupon_id, p.slug AS program, r.slug AS partner, c.code, c.valid_from, c.valid_to, c.created_at
  FROM coupons AS c JOIN programs AS p USING (program_id) JOIN partners AS r USING (partner_id)
"""

_ONE = _SELECT + " WHERE c.coupon_id = $1"
_LIST = (
    _SELECT
    + """
 WHERE ($1::int IS NULL OR c.coupon_id > $1) AND ($2::text IS NULL OR p.slug = $2) AND ($3::text IS NULL OR r.slug = $3)
 ORDER BY c.coupon_id LIMIT $4
"""
)
_UPDATE = "UPDATE coupons SET valid_from = $2, valid_to = $3 WHERE coupon_id = $1"
_LOCK = "SELECT coupon_id FROM coupons WHERE coupon_id = $1 FOR UPDATE"
_LOCK_PROGRAM = "SELECT program_id FROM programs WHERE slug = $1 FOR NO KEY UPDATE"
_PARTNER = "SELECT partner_id FROM partners WHERE slug = $1"
# What may have the key $2: ASCII by PostgreSQL's rule, in no locale (Turkish has an I of its own); all else is compared
# here by the doors' own rule, coupon_key, of which lower() knows only some alphabets under some locales.
_ALIKE = """
SELECT c.coupon_id, c.code FROM coupons AS c JOIN programs AS p USING (program_id)
 WHERE p.slug = $1 AND (lower(c.code COLLATE "C") = $2 OR c.code ~ '[^ -~]')
"""


class Coupons(Table):
    """Named by coupon_id; `find` gives it. Fields: tracker/domain/fields.py, COUPON."""

    async def create(self, given: Mapping[str, Any]) -> Saved:
        """The partner is enrolled in the program when he is not. Raises Invalid, Conflict (code)."""
        new = {"valid_from": None, "valid_to": None, **COUPON.check_new(given)}
        _check_span(new)
        async with self._transaction() as connection:
            program_id = (await known(connection, _LOCK_PROGRAM, new["program"], "program"))["program_id"]
            partner_id = (await known(connection, _PARTNER, new["partner"], "partner"))["partner_id"]
            if await _find(connection, new["program"], new["code"]) is not None:
                raise taken("coupon", "code")
            values = (program_id, partner_id, new["code"], new["valid_from"], new["valid_to"])
            number = await insert_numbered(connection, _INSERT, *values)
            if number is None:
                raise taken("coupon", "code")
            told = await enrol(connection, program_id, partner_id)
            return Saved(dict(await connection.fetchrow(_ONE, number)), (told,) if told else ())

    async def edit(self, coupon_id: int, given: Mapping[str, Any]) -> Saved:
        """Raises NotFound, Invalid."""
        changes = COUPON.check_changes(given)
        async with self._transaction() as connection:
            if await connection.fetchval(_LOCK, coupon_id) is None:
                raise NotFound("coupon")
            new = {**await connection.fetchrow(_ONE, coupon_id), **changes}
            _check_span(new)
            await connection.execute(_UPDATE, coupon_id, new["valid_from"], new["valid_to"])
            return Saved(dict(await connection.fetchrow(_ONE, coupon_id)))

    async def show(self, coupon_id: int) -> Row:
        """Raises NotFound."""
        async with self._connection() as connection:
            record = await connection.fetchrow(_ONE, coupon_id)
        if record is None:
            raise NotFound("coupon")
        return dict(record)

    async def find(self, program: str, code: str) -> int:
        """The coupon_id of a program's code, in any case. Raises NotFound."""
        async with self._connection() as connection:
            number = await _find(connection, program, code)
        if number is None:
            raise NotFound("coupon")
        return number

    async def list(
        self, *, program: str | None = None, partner: str | None = None, limit: int = 100, after: int | None = None
    ) -> Page:
        async with self._connection() as connection:
            return page(await connection.fetch(_LIST, after, program, partner, limit + 1), limit, "coupon_id")


async def _find(connection: Any, program: str, code: str) -> int | None:
    key = coupon_key(code)
    for row in await connection.fetch(_ALIKE, program, key):
        if coupon_key(row["code"]) == key:
            number: int = row["coupon_id"]
            return number
    return None


def _check_span(new: Row) -> None:
    if new["valid_to"] is not None and new["valid_from"] is not None and new["valid_to"] <= new["valid_from"]:
        raise Invalid(FieldMistake("valid_to", "must be after valid_from"))
