"""Puts one batch of click rows into PostgreSQL: rows, statistics and the spool's mark in one transaction.

Two ways. The plain one copies the bytes as they were spooled and is what happens. The careful one is for a batch that
PostgreSQL refused in the plain way: it finds the row at fault by halving, puts aside what has no partition, and lets
in once what may be there already. Both leave a transaction open when they raise: the
caller rolls back or drops the connection. Retrying, waiting and deadlines live in shipper.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, islice
from typing import Any, Literal

from tracker.storage.clicks.copy_errors import Fault, fault_of
from tracker.storage.clicks.partitions import covers, partition_bounds
from tracker.storage.clicks.statistics import STATISTICS_COLUMNS, ChannelLimit, StatisticsCount, click_id_at
from tracker.storage.postgres import Connection, PostgresError
from tracker.storage.spool.cursor import SpoolCursor
from tracker.storage.spool.segments import Column

MAX_POISONED = 10
"""Rows at fault in one batch. More is no accident of single rows: something is wrong with all of them, so wait."""

Table = Literal["clicks", "clicks_stray"]

_COPY_HEAD = b"PGCOPY\n\xff\r\n\0" + bytes(8)  # signature, flags, length of the header extension
_COPY_TAIL = b"\xff\xff"
# One message and its copy in the socket's buffer, sent in one turn of the event loop: at 256 kB the p99 of redirects at 10,000/s
# was 1.9 ms, and 1.3 with this.
_CHUNK_BYTES = 64 * 1024
_SLICE_ROWS = 60  # counted in one turn of the event loop: below 0.1 ms

_BEGIN = {True: "BEGIN; SET LOCAL synchronous_commit = on", False: "BEGIN; SET LOCAL synchronous_commit = off"}
_STAGE = "CREATE TEMP TABLE IF NOT EXISTS clicks_staging (LIKE clicks) ON COMMIT DROP"
_UNSTAGE: dict[Table, str] = {
    "clicks": "INSERT INTO clicks SELECT * FROM clicks_staging ON CONFLICT DO NOTHING RETURNING click_id",
    "clicks_stray": "INSERT INTO clicks_stray SELECT * FROM clicks_staging ON CONFLICT DO NOTHING RETURNING click_id",
}
QUARANTINE = """
    INSERT INTO quarantine (spool_id, log, seq, count, reason, record) VALUES ($1, $2, $3, $4, $5, $6)
        ON CONFLICT DO NOTHING
"""


class BatchRefusedError(Exception):
    """The batch as a whole makes no sense to PostgreSQL: more than MAX_POISONED rows at fault, or another number of rows
    than ours. Treated as an outage."""


@dataclass(frozen=True)
class ClickBatch:
    """Rows to store, as the reader gives them: COPY tuples back to back, numbered from `first_seq`, `lengths` bytes each."""

    first_seq: int
    rows: bytes
    lengths: Sequence[int]
    columns: tuple[Column, ...]

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def starts(self) -> list[int]:
        """Where each row begins in `rows`."""
        return [0, *accumulate(self.lengths)][:-1]

    def row(self, index: int) -> bytes:
        """The COPY tuple of one row."""
        end = self.starts[index + 1] if index + 1 < len(self.starts) else len(self.rows)
        return self.rows[self.starts[index] : end]

    @property
    def column_names(self) -> list[str]:
        return [column.name for column in self.columns]


@dataclass(slots=True)
class Stored:
    """What became of a batch. `stored` counts the `duplicates` too: rows that were there already."""

    next_seq: int
    stored: int = 0
    stray: int = 0
    quarantined: int = 0
    duplicates: int = 0


async def store_plainly(
    connection: Connection, cursor: SpoolCursor, batch: ClickBatch, channels: ChannelLimit, *, synchronous: bool
) -> Stored:
    """The usual way. PostgresError with any fault, CursorMovedError; commits when it returns."""
    await connection.execute(_BEGIN[synchronous])
    await cursor.advance(connection, batch.first_seq, stored=len(batch))
    count = StatisticsCount()
    starts = islice(accumulate(batch.lengths, initial=0), len(batch))
    counting = asyncio.create_task(_count(count, batch.rows, starts))      # while PostgreSQL takes the rows
    try:
        await _copy(connection, "clicks", batch.column_names, batch.rows, len(batch))
        await counting
    finally:
        counting.cancel()
        await asyncio.gather(counting, return_exceptions=True)      # rows that PostgreSQL refuses may not be countable either
    await _copy_statistics(connection, count, channels)
    await cursor.commit(connection)
    return Stored(batch.first_seq + len(batch), stored=len(batch))


async def store_carefully(
    connection: Connection, cursor: SpoolCursor, batch: ClickBatch, channels: ChannelLimit, *, synchronous: bool
) -> Stored:
    """For a batch refused before. PostgresError only for outages, CursorMovedError, BatchRefusedError; commits too."""
    await connection.execute(_BEGIN[synchronous])
    await cursor.hold(connection, batch.first_seq)
    bounds = await partition_bounds(connection)
    sorting = _Sorting(connection, batch)
    homes: dict[Table, list[int]] = {"clicks": [], "clicks_stray": []}
    for index, start in enumerate(batch.starts):
        click_id = int.from_bytes(click_id_at(batch.rows, start), "big")
        homes["clicks" if covers(bounds, click_id) else "clicks_stray"].append(index)
    for table, indexes in homes.items():
        await sorting.store(indexes, table)
    for index, reason in sorting.poisoned:
        place = (cursor.spool_id, cursor.log, batch.first_seq + index)
        await connection.execute(QUARANTINE, *place, 1, reason, batch.row(index))
    await _copy_statistics(connection, sorting.count, channels)
    stored, stray, quarantined = sorting.done["clicks"], sorting.done["clicks_stray"], len(sorting.poisoned)
    await cursor.advance(connection, batch.first_seq, stored=stored, stray=stray, quarantined=quarantined)
    await cursor.commit(connection)
    return Stored(batch.first_seq + len(batch), stored, stray, quarantined, sorting.duplicates)


async def store_gap(connection: Connection, cursor: SpoolCursor, first_seq: int, next_seq: int) -> None:
    """Sequence numbers that damage took count as quarantined. Commits."""
    lost = next_seq - first_seq
    await connection.execute(_BEGIN[True])
    await cursor.advance(connection, first_seq, stored=0, quarantined=lost)
    await connection.execute(QUARANTINE, cursor.spool_id, cursor.log, first_seq, lost, "damaged", None)
    await cursor.commit(connection)


@dataclass(slots=True)
class _Sorting:
    """The careful way's book-keeping: every row of the batch ends in exactly one of `done` and `poisoned`."""

    connection: Connection
    batch: ClickBatch
    count: StatisticsCount = field(default_factory=StatisticsCount)
    done: dict[Table, int] = field(default_factory=lambda: {"clicks": 0, "clicks_stray": 0})
    poisoned: list[tuple[int, str]] = field(default_factory=list)
    duplicates: int = 0
    staged: bool = False

    async def store(self, indexes: list[int], table: Table) -> None:
        """Store these rows, halving around those that PostgreSQL refuses."""
        if not indexes:
            return
        if self.staged:
            await self.connection.execute(_STAGE)
        await self.connection.execute("SAVEPOINT part")
        try:
            await self._put(indexes, table)
        except PostgresError as error:
            fault = fault_of(error)
            if fault not in (Fault.POISON, Fault.DUPLICATE):
                raise
            reason = f"{error.sqlstate} {error.message}"
            await self.connection.execute("ROLLBACK TO SAVEPOINT part; RELEASE SAVEPOINT part")
        else:
            await self.connection.execute("RELEASE SAVEPOINT part")
            return
        if fault is Fault.DUPLICATE:
            self.staged = True
            await self.store(indexes, table)
        elif len(indexes) > 1:
            middle = len(indexes) // 2
            await self.store(indexes[:middle], table)
            await self.store(indexes[middle:], table)
        elif len(self.poisoned) == MAX_POISONED:
            raise BatchRefusedError(f"more than {MAX_POISONED} rows at fault; the last: {reason}")
        else:
            self.poisoned.append((indexes[0], reason))

    async def _put(self, indexes: list[int], table: Table) -> None:
        rows = b"".join(map(self.batch.row, indexes))
        fresh = indexes
        if self.staged:
            await _copy(self.connection, "clicks_staging", self.batch.column_names, rows, len(indexes))
            landed = {record["click_id"].bytes for record in await self.connection.fetch(_UNSTAGE[table])}
            await self.connection.execute("TRUNCATE clicks_staging")
            fresh = [index for index in indexes if click_id_at(self.batch.rows, self.batch.starts[index]) in landed]
        else:
            await _copy(self.connection, table, self.batch.column_names, rows, len(indexes))
        self.done[table] += len(indexes)
        self.duplicates += len(indexes) - len(fresh)
        if table == "clicks":  # strays count when they are moved in
            await _count(self.count, self.batch.rows, [self.batch.starts[index] for index in fresh])


async def _copy(connection: Connection, table: str, columns: Sequence[str], rows: bytes, expected: int) -> None:
    status = await connection.copy_to_table(table, source=_framed(rows), columns=columns, format="binary")
    if status != f"COPY {expected}":
        raise BatchRefusedError(f"{table}: {status} where {expected} rows were sent")


def _framed(rows: bytes) -> Any:
    """One message when small. Else pieces, with a turn for the event loop between them: clicks are answered in it."""
    if len(rows) <= _CHUNK_BYTES:
        return memoryview(b"".join((_COPY_HEAD, rows, _COPY_TAIL)))  # asyncpg takes bytes for the name of a file
    return _pieces(memoryview(rows))


async def _pieces(rows: memoryview) -> AsyncIterator[bytes | memoryview]:
    yield _COPY_HEAD
    for start in range(0, len(rows), _CHUNK_BYTES):
        yield rows[start : start + _CHUNK_BYTES]
        await asyncio.sleep(0)
    yield _COPY_TAIL


async def _count(count: StatisticsCount, rows: bytes, starts: Iterable[int]) -> None:
    todo = iter(starts)
    while part := list(islice(todo, _SLICE_ROWS)):
        count.add(rows, part)
        await asyncio.sleep(0)


async def _copy_statistics(connection: Connection, count: StatisticsCount, channels: ChannelLimit) -> None:
    pieces, total = [], 0
    for piece, tuples in count.encode(channels, _SLICE_ROWS):
        pieces.append(piece)
        total += tuples
        await asyncio.sleep(0)
    if total:
        await _copy(connection, "click_stats_new", STATISTICS_COLUMNS, b"".join(pieces), total)
