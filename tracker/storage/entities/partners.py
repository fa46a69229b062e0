"""Partners: made, changed, blocked, enrolled in programs, with rates of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tracker.domain.fields import PARTNER
from tracker.domain.mistakes import FieldMistake, Invalid, NotFound
from tracker.storage.entities.table import (
    Page,
    Row,
    Saved,
    Table,
    add_commission,
    current_commissions,
    end_enrolment,
    enrol,
    insert_numbered,
    known,
    page,
    since,
    taken,
)

_INSERT = """
INSERT INTO partners (partner_id, slug, name) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING RETURNING partner_id
"""

_SELECT = """
SELECT p.partner_id, p.slug, p.name, coalesce(current.status, 'active') AS status, p.created_at
  FROM partners AS p
  LEFT JOIN LATERAL (SELECT status FROM partner_statuses AS s WHERE s.partner_id = p.partner_id
                      ORDER BY valid_from DESC LIMIT 1) AS current ON true
"""

_ONE = _SELECT + " WHERE p.slug = $1"
_LIST = _SELECT + " WHERE ($1::text IS NULL OR p.slug > $1) ORDER BY p.slug LIMIT $2"
_LOCK = "SELECT partner_id FROM partners WHERE slug = $1 FOR UPDATE"
_RENAME = "UPDATE partners SET name = $2 WHERE partner_id = $1"
_STATUS = "INSERT INTO partner_statuses (partner_id, valid_from, status) VALUES ($1, clock_timestamp(), $2)"
_PROGRAM = "SELECT program_id FROM programs WHERE slug = $1"
_ENROLMENTS = """
SELECT DISTINCT ON (e.program_id) programs.slug AS program, e.status, e.valid_from
  FROM enrolments AS e JOIN programs USING (program_id) WHERE partner_id = $1 ORDER BY e.program_id, e.valid_from DESC
"""


class Partners(Table):
    """Named by slug. Fields: tracker/domain/fields.py, PARTNER; enrolment and commission say in which `program`."""

    async def create(self, given: Mapping[str, Any]) -> Saved:
        """Raises Invalid, Conflict (slug)."""
        new = PARTNER.check_new(given)
        _check_together(new)
        async with self._transaction() as connection:
            if await connection.fetchval(_LOCK, new["slug"]):
                raise taken("partner")
            number = await insert_numbered(connection, _INSERT, new["slug"], new.get("name", new["slug"]))
            if number is None:
                raise taken("partner")
            warnings = await _apply(connection, number, {"status": "active"}, new)
            return Saved(await _shown(connection, new["slug"]), warnings)

    async def edit(self, slug: str, given: Mapping[str, Any]) -> Saved:
        """Status, enrolment and commission hold from now on. Raises NotFound, Invalid."""
        changes = PARTNER.check_changes(given)
        _check_together(changes)
        async with self._transaction() as connection:
            number = await connection.fetchval(_LOCK, slug)
            if number is None:
                raise NotFound("partner")
            old = dict(await connection.fetchrow(_ONE, slug))
            if changes.get("name", old["name"]) != old["name"]:
                await connection.execute(_RENAME, number, changes["name"])
            warnings = await _apply(connection, number, old, changes)
            return Saved(await _shown(connection, slug), warnings)

    async def show(self, slug: str) -> Row:
        """With enrolments and rates of his own. Raises NotFound."""
        async with self._connection() as connection:
            return await _shown(connection, slug)

    async def list(self, *, limit: int = 100, after: str | None = None) -> Page:
        async with self._connection() as connection:
            return page(await connection.fetch(_LIST, after, limit + 1), limit, "slug")


async def _apply(connection: Any, number: int, old: Row, new: Mapping[str, Any]) -> tuple[str, ...]:
    """Write the dated rows."""
    warnings: list[str] = []
    if new.get("status", old["status"]) != old["status"]:
        await connection.execute(_STATUS, number, new["status"])
        if new["status"] == "blocked":
            warnings.append("blocked: clicks from now on earn nothing; links still lead to their destinations")
    if "program" in new:
        program_id = (await known(connection, _PROGRAM, new["program"], "program"))["program_id"]
        if new.get("enrolment") == "ended":
            await end_enrolment(connection, program_id, number)
        elif told := await enrol(connection, program_id, number):
            warnings.append(told)
        if "commission" in new:
            await add_commission(connection, program_id, number, new.get("event", ""), new["commission"])
    return tuple(warnings)


async def _shown(connection: Any, slug: str) -> Row:
    record = await connection.fetchrow(_ONE, slug)
    if record is None:
        raise NotFound("partner")
    row = dict(record)
    number = row["partner_id"]
    enrolments = await connection.fetch(_ENROLMENTS, number)
    row["enrolments"] = [{**one, "valid_from": since(one["valid_from"])} for one in enrolments]
    row["commissions"] = await current_commissions(connection, program_id=None, partner_id=number)
    return row


def _check_together(clean: Mapping[str, Any]) -> None:
    mistakes = [
        FieldMistake(name, "is about a program: give the program too")
        for name in ("enrolment", "commission")
        if name in clean and "program" not in clean
    ]
    if "event" in clean and "commission" not in clean:
        mistakes.append(FieldMistake("event", "says for what a commission is: give the commission too"))
    if mistakes:
        raise Invalid(*mistakes)
