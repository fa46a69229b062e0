"""The 15-bit number in every click id: never in use by two starts of workers, also while PostgreSQL is away.

PostgreSQL gives numbers out (table worker_numbers, a row while one is taken). An edge keeps a few that are reserved
and unused under <spool root>/numbers/, so that a worker can start without PostgreSQL: a start takes one and it is
gone, whatever becomes of the start. A stock counts only on the machine and in the very files it was written for: a
copied disk or a cloned volume must not make ids under the same numbers, so what does not match is thrown away.

A worker that took a number `confirm`s it as soon as PostgreSQL can be reached. What numbers mean inside ids is
domain/click_id.py.
"""

import contextlib
import fcntl
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tracker.domain.click_id import WORKER_LIMIT
from tracker.storage.postgres import Connection

LEAST_STOCK = 4
STARTS_IN_STOCK = 2
"""Starts of all workers without PostgreSQL. A worker that dies is replaced at once: half would be gone in one bad night;
double takes numbers from others (32,768 in all, each start uses one for a day at least)."""
RESERVED_FOR = timedelta(days=30)
"""A reservation nobody used for so long may be given to somebody else, so a stock older than that is not used."""
STOCK_USED_FOR = RESERVED_FOR - timedelta(days=1)  # the two ends are judged by two clocks
FREE_AGAIN_AFTER = timedelta(hours=24)
LOST_AFTER = timedelta(days=30)
"""A number whose owner was silent so long and whose spool nobody shipped is free again: the disk went with the machine,
as a pod's does at each end. Ids stay unique, for the next owner's times are later; only a clock a month wrong, or a worker
that went on for a month without reaching PostgreSQL, could meet them. At a day, an outage would do; never, and 32,768
starts are the last."""
_MACHINE_ID_FILES = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))
_FILE_MAX_BYTES = 4096

_RESERVE = """
    INSERT INTO worker_numbers (number)
    SELECT n FROM generate_series(0, $2 - 1) AS n
     WHERE NOT EXISTS (SELECT 1 FROM worker_numbers AS w WHERE w.number = n)
     ORDER BY random() LIMIT $1
    ON CONFLICT DO NOTHING RETURNING number
"""
# An owner that lives takes back what a shipper of a copy of its disk said of it (last_id_at).
_CONFIRM = """
    UPDATE worker_numbers SET spool_id = $2, seen_at = now(), last_id_at = NULL
     WHERE number = $1 AND (spool_id IS NULL OR spool_id = $2)
"""
_SHIPPED = """
    UPDATE worker_numbers SET last_id_at = greatest(coalesce(last_id_at, now()), to_timestamp($2::bigint / 1000.0))
     WHERE spool_id = $1
"""
_RECLAIM = """
    DELETE FROM worker_numbers
     WHERE (spool_id IS NULL AND seen_at < now() - $1::interval) OR last_id_at < now() - $2::interval
        OR (spool_id IS NOT NULL AND last_id_at IS NULL AND seen_at < now() - $3::interval)
    RETURNING number
"""


class NoNumberError(Exception):
    """The stock on this machine is empty and PostgreSQL has to be reached once; the text says so."""


@dataclass(frozen=True, slots=True)
class _Place:
    """What a stock file must say of the machine and the file it stands in."""

    hostname: str
    machine_id: str

    @classmethod
    def here(cls) -> "_Place":
        for file in _MACHINE_ID_FILES:
            with contextlib.suppress(OSError):
                return cls(platform.node(), file.read_text().strip())
        return cls(platform.node(), "")


def take(root: Path, *, now: datetime | None = None) -> int:
    """Take a number out of the stock under `root` for ever. NoNumberError when there is none; OSError from the disk."""
    now = now or datetime.now(UTC)
    with _locked(root) as stock:
        for file in sorted(stock.glob("*.json")):
            number = _usable(file, now)
            file.unlink()
            _sync(stock)  # before the number is used: after a power cut it must not be in stock again
            if number is not None:
                return number
    raise NoNumberError(f"no worker number in stock under {root}: a worker cannot start before PostgreSQL is reached")


async def top_up(connection: Connection, root: Path, workers: int, *, now: datetime | None = None) -> int:
    """Fill the stock for the starts of so many workers; how many numbers were added. Useless files go. PostgresError, OSError.

    0 with an empty stock: every number is taken. Then wait: `reclaim` frees some in time.
    """
    now = now or datetime.now(UTC)
    with _locked(root) as stock:
        for file in sorted(stock.glob("*.json")):
            if _usable(file, now) is None:
                file.unlink()
        missing = max(LEAST_STOCK, STARTS_IN_STOCK * workers) - len(list(stock.glob("*.json")))
    if missing <= 0:
        return 0
    numbers = [int(record["number"]) for record in await connection.fetch(_RESERVE, missing, WORKER_LIMIT)]
    with _locked(root) as stock:  # never across an await: another worker's start waits for it
        for number in numbers:
            _put(stock, number, now)
        _sync(stock)
    return len(numbers)


async def confirm(connection: Connection, number: int, spool_id: int) -> bool:
    """Make the number this spool's in PostgreSQL. False: it belongs to another spool, or to nobody any more; then the
    worker must make no further id with it and start anew. To be repeated every few minutes."""
    return await connection.execute(_CONFIRM, number, spool_id) == "UPDATE 1"


async def note_shipped(connection: Connection, spool_id: int, last_id_ms: int | None) -> None:
    """All rows of a dead spool are stored: its number is free again FREE_AGAIN_AFTER from now, or from the time inside
    its last click id (ms since the epoch) when that is later: its machine's clock was ahead."""
    await connection.execute(_SHIPPED, spool_id, last_id_ms)


async def reclaim(connection: Connection) -> int:
    """Free what may be given out again; how many numbers that was."""
    return len(await connection.fetch(_RECLAIM, RESERVED_FOR, FREE_AGAIN_AFTER, LOST_AFTER))


@contextmanager
def _locked(root: Path) -> Iterator[Path]:
    """The stock's directory, made if missing, and locked itself against other processes while a few files change.

    A lock file in it would make it look like a spool nobody writes, whose lock goes when it is cleared away.
    """
    stock = root / "numbers"
    stock.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(stock, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield stock
    finally:
        os.close(fd)


def _put(stock: Path, number: int, now: datetime) -> None:
    """Write a stock file that names its own inode: a copy has another one."""
    place = _Place.here()
    fd = os.open(stock / f"{number}.json", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        about = {
            "number": number,
            "reserved": now.isoformat(),
            "inode": os.fstat(fd).st_ino,
            "hostname": place.hostname,
            "machine_id": place.machine_id,
        }
        os.write(fd, json.dumps(about).encode())
        os.fsync(fd)
    finally:
        os.close(fd)


def _usable(file: Path, now: datetime) -> int | None:
    """The number of a stock file; None when it is broken, too old, or was written for another file or machine."""
    place = _Place.here()
    try:
        about = json.loads(file.read_bytes()[:_FILE_MAX_BYTES])
        number = int(about["number"])
        age = now - datetime.fromisoformat(about["reserved"])
        written_for = (about["inode"], about["hostname"], about["machine_id"])
        if written_for != (file.stat().st_ino, place.hostname, place.machine_id) or file.name != f"{number}.json":
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return number if -FREE_AGAIN_AFTER < age < STOCK_USED_FOR and 0 <= number < WORKER_LIMIT else None


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
