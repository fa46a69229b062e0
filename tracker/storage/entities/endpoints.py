"""Endpoints: the URLs at which a partner hears of his conversions. Made with a secret that is shown once, changed, paused."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final

from tracker.domain.addresses import Network
from tracker.domain.endpoint import (
    CLICK_MACROS,
    authority_of,
    check_address,
    default_statuses,
    parse_endpoint_url,
    tells_status,
)
from tracker.domain.fields import ENDPOINT
from tracker.domain.link import BadTemplate, Template
from tracker.domain.mistakes import Conflict, FieldMistake, Invalid, NotFound
from tracker.domain.outgoing import secret_text
from tracker.storage.entities.table import Page, Row, Saved, Table, insert_numbered, known, page

LIVING_LIMIT: Final = 10     # of one partner: each sale is sent to all of them
SECRET_BYTES: Final = 32     # Standard Webhooks: 24 to 64

_INSERT = """
INSERT INTO outbox_endpoints (endpoint_id, partner_id, program_id, url, host, method, statuses, events, status, secret)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING RETURNING endpoint_id
"""
# Taken up again, whatever was wrong before is forgotten: what waits is tried at once.
_UPDATE = """
UPDATE outbox_endpoints
   SET url = $2, host = $3, method = $4, statuses = $5, events = $6, status = $7,
       failures = CASE WHEN $8 THEN 0 ELSE failures END, failing_since = CASE WHEN $8 THEN NULL ELSE failing_since END,
       retry_at = CASE WHEN $8 THEN NULL ELSE retry_at END
 WHERE endpoint_id = $1
"""
_SELECT = """
SELECT e.endpoint_id, r.slug AS partner, p.slug AS program, e.url, e.method, e.statuses, e.events, e.status, e.failures,
       e.failing_since, e.created_at
  FROM outbox_endpoints AS e JOIN partners AS r USING (partner_id) LEFT JOIN programs AS p ON p.program_id = e.program_id
"""
_ONE = _SELECT + " WHERE r.slug = $1 AND e.endpoint_id = $2"
_LIST = _SELECT + " WHERE r.slug = $1 AND ($2::int IS NULL OR e.endpoint_id > $2) ORDER BY e.endpoint_id LIMIT $3"
_LOCK_PARTNER = "SELECT partner_id FROM partners WHERE slug = $1 FOR UPDATE"
_PROGRAM = "SELECT program_id FROM programs WHERE slug = $1"
_LIVING = "SELECT count(*) FROM outbox_endpoints WHERE partner_id = $1 AND status <> 'paused'"


class Endpoints(Table):
    """Of a partner (his slug), named by number. Fields: tracker/domain/fields.py, ENDPOINT. `allowed`: private networks."""

    def __init__(self, pool: Any, allowed: Sequence[Network] = ()) -> None:
        super().__init__(pool)
        self._allowed = tuple(allowed)

    async def create(self, partner: str, given: Mapping[str, Any]) -> Saved:
        """Its row with `secret`, shown this once. Raises NotFound (partner), Invalid, Conflict when he has too many."""
        new = {"program": None, "method": "GET", "events": [], "status": "active", **ENDPOINT.check_new(given)}
        template = self._template(new["url"], judged=True)
        new.setdefault("statuses", list(default_statuses(new["method"], template)))
        secret = secrets.token_bytes(SECRET_BYTES)
        async with self._transaction() as connection:
            partner_id = await _lock_partner(connection, partner)
            await _check_living(connection, partner_id)
            program_id = new["program"] and (await known(connection, _PROGRAM, new["program"], "program"))["program_id"]
            number = await insert_numbered(
                connection, _INSERT, partner_id, program_id, new["url"], authority_of(new["url"]).host, new["method"],
                new["statuses"], new["events"], new["status"], secret,
            )  # fmt: skip
            if number is None:
                raise Conflict("no free number was found; try again")
            row = dict(await connection.fetchrow(_ONE, partner, number))
        return Saved({**row, "secret": secret_text(secret)}, _warnings(row, template))

    async def edit(self, partner: str, number: int, given: Mapping[str, Any]) -> Saved:
        """Holds for conversions from now on. `active` takes it up again when it is off or paused. Raises NotFound, Invalid,
        Conflict."""
        changes = ENDPOINT.check_changes(given)
        async with self._transaction() as connection:
            partner_id = await _lock_partner(connection, partner)
            found = await connection.fetchrow(_ONE, partner, number)
            if found is None:
                raise NotFound("endpoint")
            new = {**found, **changes}
            template = self._template(new["url"], judged="url" in changes)
            if found["status"] == "paused" and new["status"] == "active":
                await _check_living(connection, partner_id)
            await connection.execute(
                _UPDATE, number, new["url"], authority_of(new["url"]).host, new["method"], new["statuses"], new["events"],
                new["status"], changes.get("status") == "active" or "url" in changes,
            )  # fmt: skip
            row = dict(await connection.fetchrow(_ONE, partner, number))
        return Saved(row, _warnings(row, template))

    async def show(self, partner: str, number: int) -> Row:
        """Raises NotFound."""
        async with self._connection() as connection:
            row = await connection.fetchrow(_ONE, partner, number)
        if row is None:
            raise NotFound("endpoint")
        return dict(row)

    async def list(self, partner: str, *, limit: int = 100, after: int | None = None) -> Page:
        """Raises NotFound (partner)."""
        async with self._connection() as connection:
            rows = await connection.fetch(_LIST, partner, after, limit + 1)
            if not rows and await connection.fetchval("SELECT 1 FROM partners WHERE slug = $1", partner) is None:
                raise NotFound("partner")
        return page(rows, limit, "endpoint_id")

    def _template(self, url: str, *, judged: bool) -> Template:
        """Refuse now what could never be sent, with the position; an address only in a URL that is new."""
        try:
            template = parse_endpoint_url(url)
            if judged:
                check_address(url, allowed=self._allowed)
        except BadTemplate as exc:
            raise Invalid(FieldMistake(exc.field, exc.message, exc.position)) from exc
        return template


async def _lock_partner(connection: Any, partner: str) -> int:
    partner_id: int | None = await connection.fetchval(_LOCK_PARTNER, partner)
    if partner_id is None:
        raise NotFound("partner")
    return partner_id


async def _check_living(connection: Any, partner_id: int) -> None:
    if await connection.fetchval(_LIVING, partner_id) >= LIVING_LIMIT:
        raise Conflict(f"he has {LIVING_LIMIT} already; pause one first")


def _warnings(row: Row, template: Template) -> tuple[str, ...]:
    told = []
    if row["method"] == "GET":
        if CLICK_MACROS.isdisjoint(template.slots):
            told.append("the URL has neither {ext} nor {sub1} … {sub10}: the partner's tracker cannot say which click it is about")
        if not tells_status(row["method"], template) and row["statuses"] != ["approved"]:
            told.append("the URL has no {status}: the partner's tracker cannot tell a reversal from a sale")
    if row["url"].lower().startswith("http:"):
        told.append("http: everybody on the way can read it")
    return tuple(told)
