"""How a worker comes by its number and keeps it: from the stock on disk, claimed in PostgreSQL as soon as that is there."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from tracker.storage import worker_numbers
from tracker.storage.postgres import PostgresError, Unavailable, connect

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
EXHAUSTED_SECONDS = 30.0
SEEN_SECONDS = 600.0     # between words to PostgreSQL that the number is in use


class NumberTakenError(Exception):
    """PostgreSQL says that another start has our number (a cloned disk): this worker must end and start with a new one."""


async def take_number(dsn: str, root: Path) -> int:
    """A number nobody else has, from the stock under `root`; an empty stock is filled first, which needs PostgreSQL once."""
    told = False
    vain = 0
    while True:
        try:
            return worker_numbers.take(root)
        except worker_numbers.NoNumberError as exc:
            if not told:
                log.info("worker numbers: %s", exc)
                told = True
        try:
            vain = 0 if await _top_up(dsn, root) else vain + 1
            if vain > 1:      # once may only mean that another worker has filled the stock
                log.error("all 32,768 worker numbers are taken; see worker_numbers for those whose spools are lost")
                await asyncio.sleep(EXHAUSTED_SECONDS)
        except (*Unavailable, PostgresError) as exc:
            log.warning("waiting for PostgreSQL to give this machine its first worker numbers: %s: %s", type(exc).__name__, exc)
            await asyncio.sleep(RETRY_SECONDS)


async def _top_up(dsn: str, root: Path) -> int:
    connection = await connect(dsn)
    try:
        return await worker_numbers.top_up(connection, root)
    finally:
        connection.terminate()


async def keep_number(dsn: str, root: Path, number: int, spool_id: int) -> None:
    """Claim the number, fill the stock, and go on saying that it is in use. Raises NumberTakenError."""
    while True:
        try:
            connection = await connect(dsn)
            try:
                if not await worker_numbers.confirm(connection, number, spool_id):
                    raise NumberTakenError(f"worker number {number} belongs to another start; is this disk a clone?")
                await worker_numbers.top_up(connection, root)
            finally:
                connection.terminate()
            await asyncio.sleep(SEEN_SECONDS)
        except (*Unavailable, PostgresError):
            await asyncio.sleep(RETRY_SECONDS)
