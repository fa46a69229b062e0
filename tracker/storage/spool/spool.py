"""A spool: the directory in which one start of one worker keeps what it acknowledged, until Postgres has it.

    <root>/<16 hex spool id>/lock · spool.json · clicks-00000000.seg … · journal-00000000.seg …

It exists so that nothing ever appends to what another start wrote: each start makes its own directory, holds its lock
for life, and what earlier starts left is only read, shipped and removed (dead_spool.py). The directory appears under
its name by one rename, complete and locked, so nobody can take a spool in the making for a dead one. How rows become
bytes and how a failing disk is survived belongs to spool/log.py; what the rows mean belongs to the callers.
"""

import asyncio
import contextlib
import errno
import json
import platform
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from tracker.storage.spool.fsops import FsOps, RealFs, write_all
from tracker.storage.spool.log import Log, SpoolError, SpoolUnavailable, Written
from tracker.storage.spool.segments import Column, Kind
from tracker.storage.spool.space import Space

__all__ = ["JOURNAL_COLUMNS", "Log", "Space", "Spool", "SpoolError", "SpoolUnavailable", "Written", "spool_name"]

SyncMode = Literal["50ms", "always", "off"]

JOURNAL_COLUMNS = (Column("message", 114),)  # 114: json
# 16 MiB is 1.6 s of a full core's clicks (10 MB/s): small enough that space is free soon after shipping and that one
# lost header costs little, large enough that making one (0.1 ms, on the event loop) is rarer than one append in 1,000.
CLICKS_SEGMENT_BYTES = 16 * 2**20
JOURNAL_SEGMENT_BYTES = 2**20  # 2,000 postbacks of 0.5 KB; the journal of an idle worker should cost little disk
KEEP_CLICKS_SECONDS = 24 * 3600.0  # a failover or restore that loses commits is refilled from what is kept
KEEP_JOURNAL_SECONDS = 7 * 24 * 3600.0  # money: `tracker journal replay` reaches back a week


def spool_name(spool_id: int) -> str:
    """The directory name of a spool: its id as 16 lower-case hex digits."""
    return f"{spool_id:016x}"


class Spool:
    """The live spool of this process. Everything but `close` runs on the event loop's thread."""

    clicks: Log
    journal: Log

    def __init__(self, fs: FsOps, path: Path, lock_fd: int, *, clicks: Log, journal: Log, space: Space, executor: Executor) -> None:
        """Use `create`."""
        self._fs, self.path, self._lock_fd = fs, path, lock_fd
        self.clicks, self.journal, self.space, self._executor = clicks, journal, space, executor

    @classmethod
    def create(
        cls,
        root: Path,
        *,
        spool_id: int,
        worker: int,
        clicks: Sequence[Column],
        max_bytes: int,
        sync: SyncMode,
        clicks_segment_bytes: int = CLICKS_SEGMENT_BYTES,
        journal_segment_bytes: int = JOURNAL_SEGMENT_BYTES,
        created: datetime | None = None,
        fs: FsOps | None = None,
        executor: Executor | None = None,
    ) -> "Spool":
        """Make the directory of a new spool under `root` and open its two logs.

        `max_bytes` holds for all spools under `root`. With `sync` "off" the clicks are never synced; the journal always
        is, when asked. SpoolError when the directory cannot be made or `max_bytes` is too small. A disk too full for
        the first segments is no error: the logs start unhealthy and come back with the space.
        """
        fs = fs or RealFs()
        least = 4 * (clicks_segment_bytes + journal_segment_bytes)
        if max_bytes < least:
            raise SpoolError(f"TRACKER_SPOOL_MAX_BYTES={max_bytes} is too small: a worker needs at least {least}")
        path = root / spool_name(spool_id)
        about = {
            "spool_id": spool_name(spool_id),
            "worker": worker,
            "created": (created or datetime.now(UTC)).isoformat(),
            "hostname": platform.node(),
        }
        space = Space(fs, root, max_bytes)
        try:
            lock_fd = _make_directory(fs, root, path, json.dumps(about, indent=1).encode())
            space.measure()
        except OSError as exc:
            raise SpoolError(f"cannot make the spool {path}: {exc.strerror or exc}") from exc
        executor = executor or ThreadPoolExecutor(2, thread_name_prefix="spool-sync")  # one for each log

        def log(kind: Kind, columns: Sequence[Column], segment_bytes: int, *, durable: bool) -> Log:
            made = Log(
                fs,
                path,
                kind,
                spool_id=spool_id,
                columns=columns,
                segment_bytes=segment_bytes,
                durable=durable,
                space=space,
                executor=executor,
            )
            with contextlib.suppress(SpoolUnavailable):
                made.prepare()
            return made

        return cls(
            fs,
            path,
            lock_fd,
            clicks=log("clicks", clicks, clicks_segment_bytes, durable=sync != "off"),
            journal=log("journal", JOURNAL_COLUMNS, journal_segment_bytes, durable=True),
            space=space,
            executor=executor,
        )

    async def sync(self) -> None:
        """Sync both logs: what the 50 ms ticker calls. Cheap when nothing is new. SpoolUnavailable as `Log.sync`."""
        results = await asyncio.gather(self.clicks.sync(), self.journal.sync(), return_exceptions=True)
        for result in results:
            if result is not None:
                raise result

    @property
    def healthy(self) -> bool:
        """Both logs took and synced rows last time; False makes the worker unready."""
        return self.clicks.healthy and self.journal.healthy

    async def prune(self, now: float) -> int:
        """Unlink segments whose time is over (`Log.take_expired`) and measure the space; returns how many files went.

        `now` is in seconds of any steady clock. To be called every few seconds: that is how old the view of other
        workers' files gets.
        """
        expired = self.clicks.take_expired(now, KEEP_CLICKS_SECONDS)
        expired += self.journal.take_expired(now, KEEP_JOURNAL_SECONDS, yields=False)  # money, and little beside clicks
        await asyncio.get_running_loop().run_in_executor(self._executor, self._unlink, expired)
        return len(expired)

    def _unlink(self, files: list[Path]) -> None:
        for file in files:
            with contextlib.suppress(OSError):  # a file that stays is measured, and goes with the directory
                self._fs.unlink(file)
        with contextlib.suppress(OSError):
            if files:
                self._fs.fsync_dir(self.path)
            self.space.measure()

    def close(self) -> None:
        """Sync, close the files and release the lock: from then on the spool is dead, and whoever locks it ships it."""
        self._executor.shutdown(wait=True)
        self.clicks.close()
        self.journal.close()
        self._fs.close(self._lock_fd)


def _make_directory(fs: FsOps, root: Path, path: Path, about: bytes) -> int:
    """Make the directory under another name, lock it, describe it, rename it; returns the descriptor with the lock."""
    _make_root(fs, root)
    if fs.listdir(path):
        raise OSError(errno.EEXIST, "it exists, and a spool is never written by a second start")
    making = path.with_name(f"{path.name}.new")
    fs.mkdir(making)
    lock_fd = fs.open_lock(making / "lock")
    try:
        fs.try_lock(lock_fd)  # nobody else looks into a directory that is called .new
        fd = fs.open_new(making / "spool.json")
        try:
            write_all(fs, fd, about, 0)
            fs.fdatasync(fd)
        finally:
            fs.close(fd)
        fs.fsync_dir(making)
        fs.rename(making, path)
        fs.fsync_dir(root)
    except OSError:
        fs.close(lock_fd)
        raise
    return lock_fd


def _make_root(fs: FsOps, root: Path) -> None:
    """Make `root` and what is missing above it, so that their names outlive a power cut: else all below is lost with them."""
    new, above = [], root
    with contextlib.suppress(PermissionError):  # what we may not list was there before us
        while above != above.parent and not fs.listdir(above):
            new.append(above)
            above = above.parent
    fs.mkdir(root, parents=True)
    for made in new:
        with contextlib.suppress(PermissionError):
            fs.fsync_dir(made.parent)
