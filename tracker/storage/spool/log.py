"""The writer of one log of a spool: rows in, frames on disk, synced in groups.

It exists to keep one promise: when `append` has returned, the rows outlive this process; when `sync` has returned, they
outlive the machine. Files are only ever added to by the process that made them, at an offset it keeps itself (O_APPEND
behind a preallocated file would write behind the zeros). It knows rows as bytes: what they mean, Postgres, and reading
files back may not live here.

What happens when the disk fails:
- a write that cannot be finished: the segment is cut at the frame's start and replaced; the caller's rows are refused;
- no space: `append` refuses, and tries again at most every RETRY_SECONDS, so that space coming back is enough;
- an fsync error: the kernel may have dropped the pages and called them clean, so that file is never synced or trusted
  again. Everything not yet synced is kept in memory until it is, and goes to a new segment. That segment's header is
  written last: while it has none, readers use the old frames (a `kill -9` just then loses nothing); once it has one,
  they use the new.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from tracker.storage.spool.fsops import FsOps
from tracker.storage.spool.segment_file import SegmentFile, UnsyncedRows
from tracker.storage.spool.segments import DATA_START, FRAME_HEADER_BYTES, Column, Kind, pack_rows, segment_name
from tracker.storage.spool.space import Space

RETRY_SECONDS = 0.1  # between attempts to make a segment: a handful of system calls ten times a second on a full disk
SYNCS_REMEMBERED = 10_000  # two seconds of them, one behind the other on a fast disk: the times are fetched each second
UNSYNCED_MAX_BYTES = 64 * 2**20  # memory for rows not yet synced: 6 s of a full core's clicks (10 MB/s), disk hanging


class SpoolError(Exception):
    """The spool cannot be used as asked; the text says which setting or file and why."""


class SpoolUnavailable(SpoolError):
    """The disk cannot take rows now. Nothing of what was handed over counts as appended (from `sync`: as synced)."""


class Written(NamedTuple):
    """How far a log is written: a reader may read below `offset` of segment `segment`, and no further.

    The three belong together and are set after the bytes are in the file: safe to look at from another thread.
    """

    segment: int
    offset: int
    next_seq: int


class Log:
    """One log of a live spool. All methods run on the event loop's thread; only disk syncs leave it, for `executor`.

    Not `durable` means never synced. Rows are numbered from 0: `next_seq` is the number the next row gets, `synced_seq`
    and `confirmed_seq` follow the last row on the disk and in Postgres. `healthy` is False from an error until a file
    has been written and synced again. `write_errors` and `fsync_errors` only grow. `sync_seconds`: how long the latest disk
    syncs took, for whoever takes them out.
    """

    def __init__(
        self,
        fs: FsOps,
        directory: Path,
        kind: Kind,
        *,
        spool_id: int,
        columns: Sequence[Column],
        segment_bytes: int,
        durable: bool,
        space: Space,
        executor: Executor,
        clock: Callable[[], float] = time.monotonic,
        unsynced_max_bytes: int = UNSYNCED_MAX_BYTES,
    ) -> None:
        self._fs, self._directory, self.kind = fs, directory, kind
        self._spool_id, self.columns, self._segment_bytes = spool_id, tuple(columns), segment_bytes
        self._durable, self._space, self._executor, self._clock = durable, space, executor, clock
        self._unsynced_max_bytes = unsynced_max_bytes
        self.next_seq = self.synced_seq = self.confirmed_seq = 0
        self._written = (0, 0, 0)  # as Written; a plain tuple because every append makes one
        self.healthy = True
        self.write_errors = self.fsync_errors = 0
        self.sync_seconds: deque[float] = deque(maxlen=SYNCS_REMEMBERED)
        self._current: SegmentFile | None = None  # None: the next append or sync makes a segment first
        self._open: list[SegmentFile] = []  # those not wholly synced, and the current one
        self._kept: deque[SegmentFile] = deque()  # every file of the log, oldest first
        self._next_index = 0
        self._retry_at = 0.0
        self._unsynced: deque[UnsyncedRows] = deque()
        self._unsynced_bytes = 0
        self._unsynced_since: float | None = None
        self._carry = False  # the next segment begins with the unsynced rows
        self._directory_dirty = False
        self._syncing: asyncio.Task[SpoolUnavailable | None] | None = None
        self._closed = False

    # Writing

    def append(self, rows: list[bytes]) -> int:
        """Write the rows as one frame; returns the sequence number of the first.

        On return they are in the page cache, whole: they survive this process. SpoolUnavailable when they could not be
        written; then none of them counts, and a later call takes the same numbers.
        """
        first_seq = self.next_seq
        if not rows:
            return first_seq
        if self._unsynced_bytes > self._unsynced_max_bytes:
            self.healthy = False      # ids are flagged until a sync comes through
            raise SpoolUnavailable(f"{self._directory}: the disk does not sync; {self._unsynced_bytes} bytes wait")
        payload = pack_rows(rows)
        size = FRAME_HEADER_BYTES + len(payload)
        segment = self._current
        if segment is None or segment.offset + size > segment.capacity_bytes:
            segment = self._replace(size)
        try:
            segment.append(self._fs, first_seq, len(rows), payload)
        except OSError as exc:  # the segment's earlier frames stand, and are synced with the next group
            self._failed()
            segment.cut(self._fs)
            raise SpoolUnavailable(f"cannot write {segment.path}: {exc.strerror or exc}") from exc
        self.next_seq = next_seq = segment.end_seq
        if self._durable:
            if not self._unsynced:
                self._unsynced_since = self._clock()
            self._unsynced.append((first_seq, len(rows), payload))
            self._unsynced_bytes += size
        self._written = (segment.index, segment.offset, next_seq)
        return first_seq

    def prepare(self) -> None:
        """Make the first segment before the first row comes. SpoolUnavailable when that fails; `append` tries again."""
        if self._current is None:
            self._replace(0)

    def _replace(self, size: int) -> SegmentFile:
        """Make the current segment a new one, with room for a frame of `size` bytes behind the rows it must carry."""
        if self._closed:
            raise SpoolUnavailable(f"{self._directory}: the spool is closed")
        now = self._clock()
        if now < self._retry_at:
            raise SpoolUnavailable(f"{self._directory}: no segment could be made a moment ago")
        carried = list(self._unsynced) if self._carry else []
        carried_bytes = self._unsynced_bytes if self._carry else 0
        capacity_bytes = max(self._segment_bytes, DATA_START + carried_bytes + size)
        index, self._next_index = self._next_index, self._next_index + 1
        try:
            self._space.take(capacity_bytes)
            try:
                segment = SegmentFile.create(
                    self._fs,
                    self._directory / segment_name(self.kind, index),
                    index=index,
                    kind=self.kind,
                    spool_id=self._spool_id,
                    columns=self.columns,
                    carried=carried,
                    next_seq=self.next_seq,
                    capacity_bytes=capacity_bytes,
                )
            except OSError:
                self._space.give(capacity_bytes)
                raise
        except OSError as exc:
            self._failed()
            self._retry_at = now + RETRY_SECONDS
            raise SpoolUnavailable(f"{self._directory}: no new segment: {exc.strerror or exc}") from exc
        self._carry = False
        self._directory_dirty = True
        self._current = segment
        self._open.append(segment)
        self._kept.append(segment)
        self._written = (index, segment.offset, self.next_seq)
        return segment

    def _failed(self) -> None:
        self.write_errors += 1
        self.healthy = False
        self._current = None

    # Syncing

    async def sync(self) -> None:
        """Make every row appended so far durable; callers who come together share one disk sync.

        After a failure it also tries the disk again, so that a log without traffic becomes healthy by itself.
        SpoolUnavailable when the rows are not durable: the disk failed twice running. They stay in memory and in the
        page cache, and the next call goes on.
        """
        target = self.next_seq
        probe = not self.healthy
        while self.synced_seq < target or probe:
            probe = False
            if self._syncing is None:
                self._syncing = asyncio.create_task(self._sync_group())
            error = await asyncio.shield(self._syncing)
            if error is not None and self.synced_seq < target:
                raise SpoolUnavailable(str(error)) from error

    async def _sync_group(self) -> SpoolUnavailable | None:
        error: SpoolUnavailable | None = None
        try:
            for _ in range(2):  # after an fsync error once more at once, on a new file
                error = None
                try:
                    self.prepare()
                except SpoolUnavailable as exc:
                    error = exc
                    if self._carry:  # what is not synced has no file to go to
                        return error
                target, segments = self.next_seq, list(self._open)
                took = await asyncio.get_running_loop().run_in_executor(self._executor, self._flush, segments)
                if not isinstance(took, OSError):
                    if self._durable:
                        self.sync_seconds.append(took)
                    self._synced(target, segments)
                    return error
                self._distrust()
                error = SpoolUnavailable(f"{self._directory}: fsync failed: {took.strerror or took}")
        finally:
            self._syncing = None
        return error

    def _flush(self, segments: list[SegmentFile]) -> float | OSError:
        """In a thread: bring the segments and their names to the disk. The seconds it took, or why not."""
        if not self._durable:
            return 0.0
        began = self._clock()
        try:
            if self._directory_dirty:
                self._directory_dirty = False  # before the call: a segment made meanwhile sets it again
                self._fs.fsync_dir(self._directory)
            for segment in segments:
                self._fs.fdatasync(segment.fd)
        except OSError as exc:
            return exc
        return self._clock() - began

    def _synced(self, target: int, segments: list[SegmentFile]) -> None:
        self.synced_seq = target
        if self._current in segments:  # the file that takes new rows was written to and synced
            self.healthy = True
        while self._unsynced and self._unsynced[0][0] < target:
            self._unsynced_bytes -= FRAME_HEADER_BYTES + len(self._unsynced.popleft()[2])
        self._unsynced_since = self._clock() if self._unsynced else None
        for segment in self._open:
            if segment is not self._current and segment.end_seq <= target:
                segment.close(self._fs)
        self._open = [segment for segment in self._open if segment.fd >= 0]

    def _distrust(self) -> None:
        """After an fsync error: no file with unsynced rows is used again; the next segment carries those rows."""
        self.fsync_errors += 1
        self.healthy = False
        self._carry = bool(self._unsynced)
        self._current = None
        for segment in self._open:
            segment.close(self._fs)
        self._open = []

    def close(self) -> None:
        """Sync what can be synced and close the files. The caller has stopped appending, and no `sync` is running."""
        if self._carry and not self._closed:
            self._retry_at = 0.0
            with contextlib.suppress(SpoolUnavailable):
                self.prepare()
        self._closed = True
        if self._carry:  # still: there is no file for what is not synced, and syncing no file would prove nothing
            return
        if self._current is not None:
            self._current.cut(self._fs)  # gives the preallocated rest back
        if isinstance(self._flush(self._open), OSError):
            self._distrust()
        else:
            self._synced(self.next_seq, self._open)
        for segment in self._open:
            segment.close(self._fs)
        self._open, self._current = [], None

    # What was shipped

    def confirmed(self, next_seq: int) -> None:
        """Postgres has every row below `next_seq` for good: committed, and that commit flushed.

        A lower number than before means that it has lost the rows behind (a failover, a restore): segments that hold
        them are not shipped any more, however scarce space is, and their time begins anew when they are.
        """
        self.confirmed_seq = min(next_seq, self.next_seq)
        for segment in self._kept:
            if segment.end_seq > self.confirmed_seq:
                segment.shipped_at = None

    def take_expired(self, now: float, keep_seconds: float, *, yields: bool = True) -> list[Path]:
        """Strike from the books, oldest first, the files that may go; the caller unlinks them.

        Those whose rows are all confirmed, `keep_seconds` after that was first seen here, or, when the log `yields`,
        at once while space is scarce. Never the current one, nor one not yet synced.
        """
        for segment, successor in pairwise(self._kept):
            if segment.fd >= 0 or max(segment.end_seq, successor.first_seq) > self.confirmed_seq:
                break
            segment.shipped_at = now if segment.shipped_at is None else segment.shipped_at
        expired: list[Path] = []
        while (shipped_at := self._kept[0].shipped_at if self._kept else None) is not None:
            if now - shipped_at < keep_seconds and not (yields and self._space.scarce):
                break
            self._space.give(self._kept[0].capacity_bytes)
            expired.append(self._kept.popleft().path)
        return expired

    # Looking in

    @property
    def written(self) -> Written:
        """How far readers may read."""
        return Written._make(self._written)

    @property
    def lost_below(self) -> int:
        """Rows below this number are in the files or nowhere; the others are in memory too, until the disk has them."""
        return self.synced_seq if self._durable else self.next_seq

    @property
    def unsynced_bytes(self) -> int:
        """Bytes that a power cut would lose now."""
        return self._unsynced_bytes

    def unsynced_seconds(self) -> float:
        """Age of the oldest row that a power cut would lose; 0 when there is none."""
        return 0.0 if self._unsynced_since is None else self._clock() - self._unsynced_since

    @property
    def file_bytes(self) -> int:
        """Disk space of the log's files, shipped ones that are still kept included."""
        return sum(segment.capacity_bytes for segment in self._kept)
