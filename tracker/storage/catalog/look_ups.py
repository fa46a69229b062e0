"""Asking PostgreSQL for one link that the catalog does not know: bounded in time, in number, and shared.

A link made a moment ago must not fail, and a flood of invented slugs must not become a flood of questions: one question
a key at a time, 50 a second in all, 300 ms each, and a key that was not there is not asked for again for a second.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from tracker.storage.catalog import sql as catalog_sql
from tracker.storage.catalog.sql import Kind
from tracker.storage.postgres import Connection, Pool, create_pool

DEADLINE_SECONDS = 0.3
PER_SECOND = 50.0              # 5 % of a PostgreSQL core for each edge that is flooded; at 500 it would hurt
MISSING_SECONDS = 1.0
MISSING_LIMIT = 4096           # keys remembered as missing

Rows = list[tuple[Kind, tuple[Any, ...]]]


class LookUps:
    """Plain counters: `asked`, `missed` (nothing found), `refused` (over the limit), `shared` (joined another's)."""

    def __init__(self, dsn: str) -> None:
        self.asked = self.missed = self.refused = self.shared = 0
        self._dsn = dsn
        self._pool: Pool | None = None
        self._asking: dict[bytes | int, asyncio.Task[Rows]] = {}
        self._missing: dict[bytes | int, float] = {}
        self._allowance = PER_SECOND
        self._counted_at = time.monotonic()

    def may_ask(self, key: bytes | int | None = None) -> bool:
        """Whether `ask` would ask, or join a question under way. Counts a refusal."""
        if key is not None and key in self._asking:
            return True
        now = time.monotonic()
        if key is not None and self.is_missing(key):
            return False
        self._allowance = min(PER_SECOND, self._allowance + (now - self._counted_at) * PER_SECOND)
        self._counted_at = now
        if self._allowance < 1.0:
            self.refused += 1
            return False
        return True

    def is_missing(self, key: bytes | int) -> bool:
        """Whether PostgreSQL said within the last second that there is none: not asked, or no answer, is False."""
        return time.monotonic() < self._missing.get(key, 0.0)

    async def ask(self, key: bytes | int) -> Rows:
        """The rows of the link and of its program and partner; empty when there is none. After may_ask(key).

        Raises TimeoutError after 300 ms, Unavailable or PostgresError when the question failed.
        """
        task = self._asking.get(key)
        if task is None:
            self._allowance -= 1.0
            self.asked += 1
            task = self._asking[key] = asyncio.create_task(self._ask(key))
            task.add_done_callback(lambda done: self._answered(key, done))
        else:
            self.shared += 1
        # Not wait_for: that would cancel the question, and cancelling talks to the very server that does not answer.
        done, _ = await asyncio.wait({task}, timeout=DEADLINE_SECONDS)
        if not done:
            raise TimeoutError("a look-up took over 300 ms")
        return task.result()

    async def stop(self) -> None:
        for task in list(self._asking.values()):
            task.cancel()
        await asyncio.gather(*self._asking.values(), return_exceptions=True)
        if self._pool is not None:
            self._pool.terminate()

    async def _ask(self, key: bytes | int) -> Rows:
        if self._pool is None:
            self._pool = await create_pool(self._dsn, max_size=2, command_timeout=1.0, application_name="tracker links")
        async with self._pool.acquire(timeout=1.0) as connection:
            return await _rows_of_link(connection, key)

    def _answered(self, key: bytes | int, task: asyncio.Task[Rows]) -> None:
        del self._asking[key]
        if task.cancelled() or task.exception() is not None or task.result():
            return
        self.missed += 1
        if len(self._missing) >= MISSING_LIMIT:
            self._missing.clear()
        self._missing[key] = time.monotonic() + MISSING_SECONDS


async def _rows_of_link(connection: Connection | Any, key: bytes | int) -> Rows:
    links = (
        await connection.fetch(catalog_sql.LINK_BY_SLUG, key.decode("ascii"))
        if isinstance(key, bytes)
        else await connection.fetch(catalog_sql.BY_IDS["links"], [key])
    )
    rows: Rows = []
    for link in links:
        needed: tuple[tuple[Kind, int], ...] = (("programs", link[2]), ("partners", link[3]))
        for kind, number in needed:
            rows += [(kind, tuple(row)) for row in await connection.fetch(catalog_sql.BY_IDS[kind], [number])]
        rows.append(("links", tuple(link)))
    return rows
