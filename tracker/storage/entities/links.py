"""Links: made, changed, shown. Program, partner and slug are for ever; every change is a version that is kept."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from tracker.domain.fields import LINK
from tracker.domain.link import BadTemplate, parse_template
from tracker.domain.mistakes import FieldMistake, Invalid, NotFound
from tracker.storage.entities.table import Page, Row, Saved, Table, enrol, insert_numbered, page, taken

SLUG_LENGTH = 8
SLUG_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"   # no 0/o, 1/l: people read them out; 32^8 is 10^12 slugs

_INSERT = """
INSERT INTO links (link_id, slug, program_id, partner_id, destination, fallback, channel, pass_query, referrer_policy,
                   allow_test, status, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) ON CONFLICT DO NOTHING RETURNING link_id
"""

_UPDATE = """
UPDATE links SET version = version + 1, destination = $2, fallback = $3, channel = $4, pass_query = $5,
                 referrer_policy = $6, allow_test = $7, status = $8, expires_at = $9
 WHERE link_id = $1
"""

_KEEP_VERSION = """
INSERT INTO link_versions (link_id, version, valid_from, destination, fallback, channel, pass_query, referrer_policy,
                           allow_test, status, expires_at)
SELECT link_id, version, clock_timestamp(), destination, fallback, channel, pass_query, referrer_policy, allow_test,
       status, expires_at
  FROM links WHERE link_id = $1
"""

_SELECT = """
SELECT l.link_id, l.slug, p.slug AS program, r.slug AS partner, l.version, l.destination, l.fallback, l.channel,
       l.pass_query, l.referrer_policy, l.allow_test, l.status, l.expires_at, l.created_at
  FROM links AS l JOIN programs AS p USING (program_id) JOIN partners AS r USING (partner_id)
"""

_ONE = _SELECT + " WHERE l.slug = $1"
_LOCK = "SELECT link_id, program_id, partner_id FROM links WHERE slug = $1 FOR UPDATE"
_LIST = (
    _SELECT
    + """
 WHERE ($1::text IS NULL OR l.slug > $1) AND ($2::text IS NULL OR p.slug = $2) AND ($3::text IS NULL OR r.slug = $3)
   AND ($4::text IS NULL OR l.status = $4)
 ORDER BY l.slug LIMIT $5
"""
)
_VERSIONS = """
SELECT version, valid_from, destination, fallback, channel, pass_query, referrer_policy, allow_test, status, expires_at
  FROM link_versions WHERE link_id = $1 ORDER BY version DESC LIMIT 100
"""
_PARENTS = """
SELECT p.program_id, r.partner_id, coalesce((SELECT status FROM partner_statuses AS s WHERE s.partner_id = r.partner_id
                                             ORDER BY valid_from DESC LIMIT 1), 'active') AS partner_status
  FROM (SELECT 1) AS one LEFT JOIN programs AS p ON p.slug = $1 LEFT JOIN partners AS r ON r.slug = $2
"""

_CHANGEABLE = (
    "destination", "fallback", "channel", "pass_query", "referrer_policy", "allow_test", "status", "expires_at",
)  # fmt: skip
_DEFAULTS: Row = {
    "fallback": None, "channel": None, "pass_query": False, "referrer_policy": "origin", "allow_test": False,
    "status": "active", "expires_at": None,
}  # fmt: skip


class Links(Table):
    """Named by slug. Fields: tracker/domain/fields.py, LINK."""

    async def create(self, given: Mapping[str, Any]) -> Saved:
        """The partner is enrolled in the program when he is not. Raises Invalid, Conflict (slug)."""
        new = {**_DEFAULTS, **LINK.check_new(given)}
        _check_templates(new)
        async with self._transaction() as connection:
            parents = await self._parents(connection, new)
            number, slug = await _insert(connection, new, parents)
            await connection.execute(_KEEP_VERSION, number)
            told = await enrol(connection, parents["program_id"], parents["partner_id"])
            row = dict(await connection.fetchrow(_ONE, slug))
        warnings = [told] if told else []
        if parents["partner_status"] == "blocked":
            warnings.append("the partner is blocked: clicks on this link earn nothing")
        return Saved(row, (*warnings, *_template_warnings(row)))

    async def edit(self, slug: str, given: Mapping[str, Any]) -> Saved:
        """What changes anything makes a new version. Raises NotFound, Invalid."""
        changes = LINK.check_changes(given)
        async with self._transaction() as connection:
            locked = await connection.fetchrow(_LOCK, slug)
            if locked is None:
                raise NotFound("link")
            old = dict(await connection.fetchrow(_ONE, slug))
            new = {**old, **changes}
            if new != old:
                _check_templates(new)
                await connection.execute(_UPDATE, locked["link_id"], *(new[name] for name in _CHANGEABLE))
                await connection.execute(_KEEP_VERSION, locked["link_id"])
            row = dict(await connection.fetchrow(_ONE, slug))
        return Saved(row, _template_warnings(row))

    async def show(self, slug: str) -> Row:
        """With its versions, newest first, at most 100. Raises NotFound."""
        async with self._connection() as connection:
            record = await connection.fetchrow(_ONE, slug)
            if record is None:
                raise NotFound("link")
            versions = await connection.fetch(_VERSIONS, record["link_id"])
            return {**record, "versions": [dict(one) for one in versions]}

    async def list(
        self, *, program: str | None = None, partner: str | None = None, status: str | None = None, limit: int = 100,
        after: str | None = None,
    ) -> Page:  # fmt: skip
        async with self._connection() as connection:
            return page(await connection.fetch(_LIST, after, program, partner, status, limit + 1), limit, "slug")

    async def _parents(self, connection: Any, new: Row) -> Row:
        found: Row = dict(await connection.fetchrow(_PARENTS, new["program"], new["partner"]))
        absent = [name for name in ("program", "partner") if found[f"{name}_id"] is None]
        if absent:
            raise Invalid(*(FieldMistake(name, "does not exist") for name in absent))
        return found


async def _insert(connection: Any, new: Row, parents: Row) -> tuple[int, str]:
    """The new link's number and slug."""
    slug: str = new.get("slug") or "".join(secrets.choice(SLUG_ALPHABET) for _ in range(SLUG_LENGTH))
    if await connection.fetchval("SELECT 1 FROM links WHERE slug = $1", slug):
        raise taken("link")
    values = (new[name] for name in _CHANGEABLE)
    number = await insert_numbered(connection, _INSERT, slug, parents["program_id"], parents["partner_id"], *values)
    if number is None:
        raise taken("link")
    return number, slug


def _check_templates(row: Row) -> None:
    """Refuse now what the edges could not compile, with the position."""
    constants = {"program": row["program"], "partner": row["partner"], "link": row.get("slug", "")}
    mistakes = []
    for name in ("destination", "fallback"):
        try:
            if row[name] is not None:
                parse_template(row[name], constants, field=name)
        except BadTemplate as exc:
            mistakes.append(FieldMistake(name, exc.message, exc.position))
    if mistakes:
        raise Invalid(*mistakes)


def _template_warnings(row: Row) -> tuple[str, ...]:
    if "{click_id}" in row["destination"]:
        return ()
    return ("the destination has no {click_id}: the shop cannot say which click a sale belongs to",)
