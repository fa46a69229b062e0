"""Programs: made, changed, shown; their dated terms. Credentials are credentials.py's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tracker.domain.fields import PROGRAM
from tracker.domain.mistakes import FieldMistake, Invalid, NotFound
from tracker.storage.entities.table import (
    SINCE_EVER,
    Page,
    Row,
    Saved,
    Table,
    add_commission,
    current_commissions,
    insert_numbered,
    page,
    since,
    taken,
)

_INSERT = """
INSERT INTO programs (program_id, slug, name, currency, auth_mode, ip_allow, several_per_key, pending_cap)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING RETURNING program_id
"""

_UPDATE = """
UPDATE programs SET name = $2, currency = $3, auth_mode = $4, ip_allow = $5, several_per_key = $6, pending_cap = $7
 WHERE program_id = $1
"""

_ADD_TERMS = """
INSERT INTO program_terms (program_id, valid_from, window_days, default_status)
VALUES ($1, coalesce($2, clock_timestamp()), $3, $4)
"""

_SELECT = """
SELECT p.program_id, p.slug, p.name, p.currency, p.auth_mode, p.ip_allow, p.several_per_key, p.pending_cap,
       terms.window_days, terms.default_status, p.created_at
  FROM programs AS p
  LEFT JOIN LATERAL (SELECT window_days, default_status FROM program_terms AS t WHERE t.program_id = p.program_id
                      ORDER BY valid_from DESC LIMIT 1) AS terms ON true
"""

_ONE = _SELECT + " WHERE p.slug = $1"
_LIST = _SELECT + " WHERE ($1::text IS NULL OR p.slug > $1) ORDER BY p.slug LIMIT $2"
_LOCK = "SELECT program_id FROM programs WHERE slug = $1 FOR UPDATE"
_TERMS = "SELECT valid_from, window_days, default_status FROM program_terms WHERE program_id = $1 ORDER BY valid_from"
_CREDENTIALS = """
SELECT c.credential_id, c.kind, c.label, c.created_at, c.revoked_at
  FROM credentials AS c JOIN credential_programs USING (credential_id) WHERE program_id = $1 ORDER BY c.created_at
"""

_CHANGEABLE = ("name", "currency", "auth_mode", "ip_allow", "several_per_key", "pending_cap")
_DEFAULTS: Row = {
    "auth_mode": "token", "ip_allow": [], "several_per_key": False, "pending_cap": 1000,
    "window_days": 30, "default_status": "approved",
}  # fmt: skip


class Programs(Table):
    """Named by slug. Fields: tracker/domain/fields.py, PROGRAM."""

    async def create(self, given: Mapping[str, Any]) -> Saved:
        """Raises Invalid, Conflict (slug)."""
        clean = PROGRAM.check_new(given)
        _refuse_event_alone(clean)
        new = {**_DEFAULTS, "name": clean["slug"], **clean}
        async with self._transaction() as connection:
            if await connection.fetchval(_LOCK, new["slug"]):
                raise taken("program")
            number = await insert_numbered(connection, _INSERT, new["slug"], *(new[name] for name in _CHANGEABLE))
            if number is None:
                raise taken("program")
            await connection.execute(_ADD_TERMS, number, SINCE_EVER, new["window_days"], new["default_status"])
            if "commission" in new:
                await add_commission(connection, number, 0, new.get("event", ""), new["commission"], SINCE_EVER)
            row = await _shown(connection, new["slug"])
        return Saved(row, _warnings(row))

    async def edit(self, slug: str, given: Mapping[str, Any]) -> Saved:
        """Terms (window_days, default_status, commission) hold from now on. Raises NotFound, Invalid."""
        changes = PROGRAM.check_changes(given)
        _refuse_event_alone(changes)
        async with self._transaction() as connection:
            number = await connection.fetchval(_LOCK, slug)
            if number is None:
                raise NotFound("program")
            old = dict(await connection.fetchrow(_ONE, slug))
            new = {**old, **changes}
            if any(new[name] != old[name] for name in _CHANGEABLE):
                await connection.execute(_UPDATE, number, *(new[name] for name in _CHANGEABLE))
            if (new["window_days"], new["default_status"]) != (old["window_days"], old["default_status"]):
                await connection.execute(_ADD_TERMS, number, None, new["window_days"], new["default_status"])
            if "commission" in changes:
                await add_commission(connection, number, 0, changes.get("event", ""), changes["commission"])
            row = await _shown(connection, slug)
        return Saved(row, _warnings(row))

    async def show(self, slug: str) -> Row:
        """With terms, commissions and credentials (never their secrets). Raises NotFound."""
        async with self._connection() as connection:
            return await _shown(connection, slug)

    async def list(self, *, limit: int = 100, after: str | None = None) -> Page:
        async with self._connection() as connection:
            return page(await connection.fetch(_LIST, after, limit + 1), limit, "slug")


async def _shown(connection: Any, slug: str) -> Row:
    record = await connection.fetchrow(_ONE, slug)
    if record is None:
        raise NotFound("program")
    row = dict(record)
    number = row["program_id"]
    terms = await connection.fetch(_TERMS, number)
    row["terms"] = [{**term, "valid_from": since(term["valid_from"])} for term in terms]
    row["commissions"] = await current_commissions(connection, program_id=number, partner_id=None)
    row["credentials"] = [dict(one) for one in await connection.fetch(_CREDENTIALS, number)]
    return row


def _refuse_event_alone(clean: Mapping[str, Any]) -> None:
    if "event" in clean and "commission" not in clean:
        raise Invalid(FieldMistake("event", "says for what a commission is: give the commission too"))


def _warnings(row: Row) -> tuple[str, ...]:
    living = {one["kind"] for one in row["credentials"] if one["revoked_at"] is None}
    told = []
    if row["auth_mode"] == "open":
        told.append(
            "auth_mode open: whoever has a click id can report a conversion; they stay pending, at most "
            f"{row['pending_cap']} a day, until somebody decides"
        )
    elif row["auth_mode"] == "ip":
        told.append("auth_mode ip: whoever can send from these networks is believed; addresses can be shared")
        if not row["ip_allow"]:
            told.append("ip_allow is empty: nobody can send postbacks")
        if any(network.prefixlen == 0 for network in row["ip_allow"]):
            told.append("ip_allow holds a network that is the whole Internet")
    elif row["auth_mode"] not in living:
        told.append(f"no postback is accepted until the program has a credential of kind {row['auth_mode']}")
    if not row["commissions"]:
        told.append("no commission is set: conversions owe nothing")
    return tuple(told)
