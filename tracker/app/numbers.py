"""How a worker comes by its number and keeps it: from the stock on disk, claimed in PostgreSQL as soon as that is there."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from tracker.storage.postgres import PostgresError, Unavailable, connect
from tracker.storage.spool import worker_numbers

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
EXHAUSTED_SECONDS = 30.0
CLAIM_SECONDS = 2.0      # a start does not wait longer for a PostgreSQL that does not answer
SEEN_SECONDS = 600.0     # between words to PostgreSQL that the number is in use


class NumberTakenError(Exception):
    """PostgreSQL says that another start has our number (a cloned disk): this worker must end and start with a new one."""


async def take_number(dsn: str, root: Path, spool_id: int, *, workers: int) -> int:
    """A number nobody else has, from the stock under `root`; an empty stock is filled first, which needs PostgreSQL once.

    When PostgreSQL is there, the number is claimed before it is used: the stock of a cloned disk is found out here. And the
    stock is filled again before this start serves, however soon it is killed: the next may come while PostgreSQL is away.
    """
    told = False
    vain = 0
    while True:
        try:
            number = worker_numbers.take(root)
            if await _claimed(dsn, root, number, spool_id, workers):
                return number
            log.error("worker number %d belongs to another start; is this disk a clone? The next one is taken", number)
            continue
        except worker_numbers.NoNumberError as exc:
            if not told:
                log.info("worker numbers: %s", exc)
                told = True
        try:
            vain = 0 if await _top_up(dsn, root, workers) else vain + 1
            if vain > 1:      # once may only mean that another worker has filled the stock
                log.error("all 32,768 worker numbers are taken; see worker_numbers for those whose spools are lost")
                await asyncio.sleep(EXHAUSTED_SECONDS)
        except (*Unavailable, PostgresError) as exc:
            log.warning("waiting for PostgreSQL to give this machine its first worker numbers: %s: %s", type(exc).__name__, exc)
            await asyncio.sleep(RETRY_SECONDS)


async def _top_up(dsn: str, root: Path, workers: int) -> int:
    connection = await connect(dsn)
    try:
        return await worker_numbers.top_up(connection, root, workers)
    finally:
        connection.terminate()


async def _claimed(dsn: str, root: Path, number: int, spool_id: int, workers: int) -> bool:
    """False when PostgreSQL says that somebody else has it; who cannot ask takes it for his own, and asks again later."""
    try:
        async with asyncio.timeout(CLAIM_SECONDS):
            connection = await connect(dsn, timeout=CLAIM_SECONDS)
            try:
                if not await worker_numbers.confirm(connection, number, spool_id):
                    return False
                await worker_numbers.top_up(connection, root, workers)
                return True
            finally:
                connection.terminate()
    except (*Unavailable, PostgresError):
        return True


async def keep_number(dsn: str, root: Path, number: int, spool_id: int, *, workers: int) -> None:
    """Claim the number, fill the stock, and go on saying that it is in use. Raises NumberTakenError."""
    while True:
        try:
            connection = await connect(dsn)
            try:
                if not await worker_numbers.confirm(connection, number, spool_id):
                    raise NumberTakenError(f"worker number {number} belongs to another start; is this disk a clone?")
                await worker_numbers.top_up(connection, root, workers)
            finally:
                connection.terminate()
            await asyncio.sleep(SEEN_SECONDS)
        except (*Unavailable, PostgresError):
            await asyncio.sleep(RETRY_SECONDS)
