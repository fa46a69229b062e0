"""The usual design's database work, fairly written: a pool, prepared statements, one INSERT a click; a postback is SELECT and
INSERT in one transaction. The same facts as tracker keeps, equal durability, and no answer before the commit.

Both web frameworks beside this file call it, so that they differ in nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import asyncpg

POOL_SIZE: Final = 32      # connections: enough that commits share the syncs of the disk

SCHEMA: Final = """
    CREATE SCHEMA IF NOT EXISTS usual;
    CREATE TABLE IF NOT EXISTS usual.clicks (
        click_id uuid PRIMARY KEY, clicked_at timestamptz NOT NULL DEFAULT now(), link_id integer NOT NULL,
        program_id integer NOT NULL, partner_id integer NOT NULL, ip inet, user_agent text, referrer text, channel text,
        sub1 text, sub2 text, sub3 text, sub4 text, sub5 text, ext text, query jsonb
    );
    CREATE TABLE IF NOT EXISTS usual.conversions (
        conversion_id uuid PRIMARY KEY, program_id integer NOT NULL, event text NOT NULL, txid text NOT NULL,
        click_id uuid NOT NULL, partner_id integer NOT NULL, amount numeric(18, 6) NOT NULL, currency text NOT NULL,
        status text NOT NULL, commission numeric(18, 6) NOT NULL, message jsonb NOT NULL,
        received_at timestamptz NOT NULL DEFAULT now(), UNIQUE (program_id, event, txid)
    );
"""
_INSERT_CLICK: Final = """
    INSERT INTO usual.clicks (click_id, link_id, program_id, partner_id, ip, user_agent, referrer, channel,
                              sub1, sub2, sub3, sub4, sub5, ext, query)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
"""
_FIND_CLICK: Final = "SELECT program_id, partner_id FROM usual.clicks WHERE click_id = $1"
_INSERT_CONVERSION: Final = """
    INSERT INTO usual.conversions (conversion_id, program_id, event, txid, click_id, partner_id, amount, currency, status,
                                   commission, message)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'approved', $9, $10)
    ON CONFLICT (program_id, event, txid) DO NOTHING RETURNING conversion_id
"""
_COLUMNS: Final = ("sub1", "sub2", "sub3", "sub4", "sub5", "ext")


@dataclass(frozen=True, slots=True)
class Link:
    link_id: int
    program_id: int
    partner_id: int
    destination: str


class Store:
    """Links and tokens in memory, everything else in PostgreSQL."""

    def __init__(self, pool: asyncpg.Pool[Any], links: Mapping[str, Link]) -> None:
        self._pool = pool
        self._links = links
        self._tokens = {hashlib.sha256(b"token").digest()}

    @classmethod
    async def open(cls, dsn: str) -> Store:
        pool = await asyncpg.create_pool(dsn, min_size=POOL_SIZE, max_size=POOL_SIZE, server_settings={"jit": "off"})
        await pool.execute(SCHEMA)
        rows = await pool.fetch("SELECT slug, link_id, program_id, partner_id, destination FROM public.links")
        return cls(pool, {row["slug"]: Link(*row[1:]) for row in rows})

    async def close(self) -> None:
        await self._pool.close()

    async def record_click(
        self, slug: str, query: Mapping[str, str], *, ip: str | None, user_agent: str | None, referrer: str | None
    ) -> str | None:
        """Store a click; the destination. None: no such link."""
        link = self._links.get(slug)
        if link is None:
            return None
        click_id = _time_ordered_id()
        rest = {name: value for name, value in query.items() if name not in _COLUMNS}
        await self._pool.execute(
            _INSERT_CLICK, click_id, link.link_id, link.program_id, link.partner_id, ip, user_agent, referrer,
            query.get("utm_source"), *(query.get(name) for name in _COLUMNS), json.dumps(rest) if rest else None,
        )
        return (link.destination.replace("{click_id}", click_id.hex).replace("{sub1}", query.get("sub1", ""))
                .replace("{query.utm_campaign}", query.get("utm_campaign", "")))

    async def record_sale(self, query: Mapping[str, str]) -> tuple[int, dict[str, str]]:
        """Store a postback's sale, once for each order number; HTTP status and the answer's JSON."""
        if hashlib.sha256(query.get("token", "").encode()).digest() not in self._tokens:
            return 401, {"status": "refused"}
        try:
            click_id, amount = UUID(query["click_id"]), Decimal(query["amount"])
        except (KeyError, ValueError, ArithmeticError):
            return 400, {"status": "refused"}
        async with self._pool.acquire() as connection, connection.transaction():
            click = await connection.fetchrow(_FIND_CLICK, click_id)
            if click is None:
                return 404, {"status": "refused"}
            commission = (amount * Decimal("0.1")).quantize(Decimal("0.01"))
            recorded = await connection.fetchval(
                _INSERT_CONVERSION, UUID(bytes=os.urandom(16)), click["program_id"], query.get("event", "sale"), query["txid"],
                click_id, click["partner_id"], amount, query.get("currency", "EUR"), commission, json.dumps(dict(query)),
            )
        return 200, {"status": "recorded", "conversion_id": str(recorded)} if recorded else {"status": "duplicate"}


def _time_ordered_id() -> UUID:
    """As version 7 of RFC 9562: new rows stand side by side in the index, as tracker's do."""
    return UUID(bytes=(time.time_ns() // 10**6).to_bytes(6, "big") + os.urandom(10))
