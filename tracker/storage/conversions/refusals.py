"""Refused postbacks: counted always, and a sample of them kept in the postback log for people to find their mistake.

It exists so that a refusal costs PostgreSQL nothing when it happens: rows wait here and go out in batches, at most
PER_SECOND of them, so that a flood of forgeries is a number on a counter and no load. Nothing waits for this, and what
finds no room is only counted. Why a postback is refused is decided at the door.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any
from uuid import UUID, uuid4

import orjson

from tracker.domain.refusal import Reason
from tracker.storage.postgres import Pool, PostgresError, Unavailable, as_uuid, create_pool

log = logging.getLogger(__name__)

PER_SECOND = 100               # rows: enough to see every mistake of a set-up, too few to be felt by PostgreSQL
MOST_WAITING = 1000            # ten seconds of them, 4 MB at the very most
FLUSH_SECONDS = 1.0            # between batches of PER_SECOND
RETRY_SECONDS = 5.0
STOP_SECONDS = 2.0

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_INSERT = """
INSERT INTO postback_log (message_id, received_at, outcome, reason, program_id, click_id, message)
SELECT message_id, received_at, 'refused', reason, program_id, click_id, message
  FROM unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::integer[], $5::uuid[], $6::jsonb[])
    AS r (message_id, received_at, reason, program_id, click_id, message)
    ON CONFLICT DO NOTHING
"""


@dataclass(frozen=True, slots=True)
class Refusal:
    """One refused postback. `message`: its clean parameters without secrets; `click_id`: 16 bytes, of a verified id."""

    reason: Reason
    received_ms: int
    message: Mapping[str, Any]
    program_id: int | None = None
    click_id: bytes | None = None


class Refusals:
    """Plain numbers for /metrics: `counts` by reason, `written` rows, `dropped` ones nobody will find in the log."""

    def __init__(self, dsn: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.counts: dict[Reason, int] = dict.fromkeys(Reason, 0)
        self.written = self.dropped = 0
        self._dsn = dsn
        self._clock = clock
        self._allowance = float(PER_SECOND)
        self._allowed_at = clock()
        self._waiting: deque[tuple[UUID, Refusal]] = deque()
        self._pool: Pool | None = None
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def count(self, reason: Reason) -> bool:
        """Count a refusal; whether the log has room for its row. Ask this before making the row."""
        self.counts[reason] += 1
        now = self._clock()
        self._allowance = min(PER_SECOND, self._allowance + (now - self._allowed_at) * PER_SECOND)
        self._allowed_at = now
        if self._allowance < 1 or len(self._waiting) >= MOST_WAITING:
            self.dropped += 1
            return False
        self._allowance -= 1
        return True

    def keep(self, refusal: Refusal) -> None:
        """Have the row written, some time. After count said yes."""
        self._waiting.append((uuid4(), refusal))
        self._wake.set()

    def start(self) -> None:
        """Begin to write."""
        self._task = asyncio.create_task(self._write_for_ever())

    async def stop(self) -> None:
        """Write what waits, for STOP_SECONDS at most, and end."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=STOP_SECONDS)
        with contextlib.suppress(*Unavailable, PostgresError):
            async with asyncio.timeout(STOP_SECONDS):
                while self._waiting:
                    await self._write_batch()
        self.dropped += len(self._waiting)
        self._waiting.clear()
        if self._pool is not None:
            self._pool.terminate()

    async def _write_for_ever(self) -> None:
        told = False
        while True:
            await self._wake.wait()
            await asyncio.sleep(FLUSH_SECONDS)
            try:
                await self._write_batch()
                told = False
            except (*Unavailable, PostgresError) as exc:
                if not told:
                    log.warning("refusals wait for PostgreSQL: %s", type(exc).__name__)
                told = True
                await asyncio.sleep(RETRY_SECONDS)
            if not self._waiting:
                self._wake.clear()

    async def _write_batch(self) -> None:
        """Write what waits longest. It stays at the head until PostgreSQL has it, or says that it never will."""
        batch = list(islice(self._waiting, PER_SECOND))
        try:
            await self._write(batch)
            self.written += len(batch)
        except PostgresError as exc:
            if (exc.sqlstate or "")[:2] not in ("22", "23"):
                raise
            self.dropped += len(batch)
            log.exception("refusals that PostgreSQL does not take")
        for _ in batch:
            self._waiting.popleft()

    async def _write(self, batch: list[tuple[UUID, Refusal]]) -> None:
        if self._pool is None:
            self._pool = await create_pool(self._dsn, max_size=1, application_name="tracker refusals")
        await self._pool.execute(
            _INSERT,
            [message_id for message_id, _ in batch],
            [_EPOCH + timedelta(milliseconds=refusal.received_ms) for _, refusal in batch],
            [refusal.reason.value for _, refusal in batch],
            [refusal.program_id for _, refusal in batch],
            [None if refusal.click_id is None else as_uuid(refusal.click_id) for _, refusal in batch],
            [orjson.dumps(dict(refusal.message)).decode() for _, refusal in batch],
        )
