"""A live spool with clicks in it, and what PostgreSQL made of them: for tests of everything between the two."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
from click_tuples import fixed_columns

from tracker.storage.clicks.rows import CLICK_COLUMNS, jsonb, keyed, text
from tracker.storage.clicks.shipper import Shipper, ShipperCounts
from tracker.storage.spool.reader import LogReader
from tracker.storage.spool.segments import Column
from tracker.storage.spool.spool import Spool

DAY_MS = 86_400_000


def now_ms() -> int:
    return int(time.time() * 1000)


def click_id(time_ms: int | None = None, tail: int | None = None) -> bytes:
    """A stored click id of that moment; `tail` instead of random bits makes it reproducible."""
    when = now_ms() if time_ms is None else time_ms
    return (when << 83 | (secrets.randbits(83) if tail is None else tail)).to_bytes(16, "big")


def click_row(
    uuid: bytes | None = None,
    *,
    link: int = 7,
    flags: int = 0,
    channel: bytes | None = b"facebook",
    country: bytes | None = None,
    ip: bytes = b"\0\0\0\x08\x02\x18\0\x04\xc0\x00\x02\0",
    device: bytes | None = b"mobile",
    user_agent: bytes | None = b"Mozilla/5.0",
    again: bool = False,
) -> bytes:
    """A row of `clicks` as the edge spools it; `ip` is the whole field, as `click_rows.inet` makes it. `again`: the user agent
    was said by another row of the day."""
    head = fixed_columns(uuid or click_id(), link, 1, 11, 13, flags, 99)
    texts = [text(channel), text(country), text(device), ip, text(b"Linux"), text(b"Firefox"), keyed(user_agent)[again]]
    return b"".join([head, *texts, keyed(None)[0], *[text(None)] * 11, jsonb(b'{"a":"b"}')])


def nul_row() -> bytes:
    """A row that PostgreSQL refuses: 22021."""
    return click_row(user_agent=b"nul \0 here")


@dataclass(slots=True)
class Shipping:
    """A live spool, its reader, and the shippers made for it (stopped at the end)."""

    spool: Spool
    spool_id: int
    root: Path
    shippers: list[Shipper]

    def append(self, rows: list[bytes]) -> None:
        self.spool.clicks.append(rows)
        for shipper in self.shippers:
            shipper.wake()

    def shipper(self, dsn: str, **options: Any) -> Shipper:
        reader = LogReader(self.spool.path, "clicks", spool_id=self.spool_id, log=self.spool.clicks)
        made = Shipper(dsn, self.spool_id, reader, counts=ShipperCounts(), **options)
        self.shippers.append(made)
        return made


@asynccontextmanager
async def live_spool(
    root: Path, *, columns: tuple[Column, ...] = CLICK_COLUMNS, segment_bytes: int = 2**20
) -> AsyncIterator[Shipping]:
    spool_id = secrets.randbits(62) + 1
    spool = Spool.create(
        root, spool_id=spool_id, worker=1, clicks=columns, max_bytes=2**30, sync="off", clicks_segment_bytes=segment_bytes
    )
    shipping = Shipping(spool, spool_id, root, [])
    try:
        yield shipping
    finally:
        for shipper in shipping.shippers:
            await shipper.stop()
        spool.close()


@asynccontextmanager
async def database(dsn: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


async def eventually(condition: Callable[[], Any], *, seconds: float = 20.0) -> None:
    """Wait until `condition()` (or what it awaits) is true: for what happens in another process."""
    async with asyncio.timeout(seconds):
        while True:
            holds = condition()
            if asyncio.iscoroutine(holds):
                holds = await holds
            if holds:
                return
            await asyncio.sleep(0.01)


async def assert_conserved(db: Any, spool_id: int, appended: int) -> Any:
    """The law of the spool and of the statistics (DESIGN section 6); returns the cursor row."""
    cursor = await db.fetchrow("SELECT * FROM spool_cursors WHERE spool_id = $1 AND log = 'clicks'", spool_id)
    assert appended == cursor["rows_stored"] + cursor["rows_stray"] + cursor["rows_quarantined"]
    assert appended == cursor["next_seq"]
    rows = await db.fetchval("SELECT count(*) FROM clicks")
    for grain in ("click_statistics", "click_source_statistics"):
        assert rows == await db.fetchval(f"SELECT coalesce(sum(clicks), 0) FROM {grain}")
    return cursor
