"""Spools on the disk that no process writes any more: found, locked, looked into, removed.

It exists so that exactly one process ships what an earlier start left, and that nothing goes before it was shipped.
Reading rows belongs to spool/reader.py; deciding when shipped rows have been kept long enough belongs to the shipper,
which knows when the cursor moved last.
"""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracker.storage.spool.fsops import FsOps, RealFs
from tracker.storage.spool.log import SpoolError
from tracker.storage.spool.reader import Gap, LogReader
from tracker.storage.spool.segments import Kind, parse_segment_name, segment_name
from tracker.storage.spool.spool import spool_name

_ABOUT_MAX_BYTES = 65536


def find_spools(root: Path, *, fs: FsOps | None = None) -> list[Path]:
    """The directories under `root` that hold a spool, live or dead, whatever they are called.

    One that denies us access (a volume's lost+found) is not ours. OSError when `root` itself cannot be read.
    """
    fs = fs or RealFs()
    found = []
    for name in fs.listdir(root):
        with contextlib.suppress(PermissionError):
            if not name.endswith(".new") and any(_is_ours(one) for one in fs.listdir(root / name)):
                found.append(root / name)
    return found


class DeadSpool:
    """A spool whose writer is gone, locked by this process until `close` or `remove`.

    `spool_id` is what its files say. `copied`: the directory is not called so, hence it is a copy; the cursor lets each
    row in once, but gaps and the end of a copy prove nothing, so ship the directory with the right name first.
    """

    def __init__(self, fs: FsOps, path: Path, lock_fd: int, spool_id: int, about: dict[str, Any]) -> None:
        """Use `open`."""
        self._fs, self.path, self._lock_fd, self.spool_id, self.about = fs, path, lock_fd, spool_id, about
        self.copied = path.name != spool_name(spool_id)
        self.clicks = LogReader(path, "clicks", spool_id=spool_id, fs=fs)
        self.journal = LogReader(path, "journal", spool_id=spool_id, fs=fs)

    @classmethod
    def open(cls, path: Path, *, fs: FsOps | None = None) -> "DeadSpool | None":
        """Lock the spool in `path`. None when its writer lives, another process ships it, or nothing is in it.

        OSError when the directory cannot be read or locked.
        """
        fs = fs or RealFs()
        try:
            lock_fd = fs.open_lock(path / "lock")
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            if fs.try_lock(lock_fd):
                about = read_about(path, fs=fs)
                spool_id = _spool_id(path, about, fs)
                if spool_id is not None:
                    return cls(fs, path, lock_fd, spool_id, about)
                _remove_rest(fs, path)
        except BaseException:
            fs.close(lock_fd)
            raise
        fs.close(lock_fd)
        return None

    def drop_segments(self, kind: Kind, confirmed_seq: int) -> int:
        """Unlink the log's segments whose rows Postgres has; returns how many went.

        The last one stays: it says where the log ends. For when space is scarce; else a shipped spool is kept whole
        until `remove`.
        """
        dropped = 0
        for link in (self.clicks if kind == "clicks" else self.journal).segments:
            if link.end_seq is not None and link.end_seq <= confirmed_seq:
                with contextlib.suppress(FileNotFoundError):
                    self._fs.unlink(self.path / segment_name(kind, link.index))
                    dropped += 1
        return dropped

    def remove(self, *, clicks: int, journal: int) -> None:
        """Delete the directory and let go of it.

        `clicks` and `journal` are the cursors: the numbers after the last rows that Postgres has for good. SpoolError,
        and nothing happens, when there are rows beyond them.
        """
        for reader, cursor in ((self.clicks, clicks), (self.journal, journal)):
            if reader.end_seq() > cursor:
                raise SpoolError(f"{self.path}: {reader.kind} ends at {reader.end_seq()}, only {cursor} are shipped")
        names = [name for name in self._fs.listdir(self.path) if parse_segment_name(name)]
        for name in names:
            self._fs.unlink(self.path / name)
        _remove_rest(self._fs, self.path)
        self.close()

    def close(self) -> None:
        """Let go of the lock: another process may ship the rest."""
        self.clicks.close()
        self.journal.close()
        self._fs.close(self._lock_fd)


@dataclass(frozen=True, slots=True)
class LogReport:
    """What `verify` found in one log: `rows` with `row_bytes`, from `first_seq` to `end_seq` but for the gaps."""

    kind: Kind
    segments: int
    unreadable: tuple[str, ...]
    rows: int
    row_bytes: int
    first_seq: int
    end_seq: int
    gaps: tuple[Gap, ...]


def verify(path: Path, *, fs: FsOps | None = None) -> Iterator[LogReport]:
    """Read every record of the spool in `path`: clicks, then journal. Takes no lock: a live one is seen in passing."""
    fs = fs or RealFs()
    for kind in ("clicks", "journal"):
        reader = LogReader(path, kind, spool_id=_spool_id(path, read_about(path, fs=fs), fs), fs=fs)
        rows = row_bytes = 0
        gaps: list[Gap] = []
        next_seq = reader.first_seq
        while (found := reader.read(next_seq, max_rows=10_000, max_bytes=4 * 2**20)) is not None:
            if isinstance(found, Gap):
                gaps.append(found)
            else:
                rows, row_bytes = rows + len(found.lengths), row_bytes + len(found.rows)
            next_seq = found.next_seq
        reader.close()
        segments, unreadable = len(reader.segments), tuple(reader.unreadable)
        yield LogReport(kind, segments, unreadable, rows, row_bytes, reader.first_seq, next_seq, tuple(gaps))


def read_about(path: Path, *, fs: FsOps | None = None) -> dict[str, Any]:
    """What `spool.json` says: spool_id (16 hex digits), worker, created, hostname; empty when missing or broken."""
    fs = fs or RealFs()
    try:
        fd = fs.open_read(path / "spool.json")
    except FileNotFoundError:
        return {}
    try:
        about = json.loads(fs.pread(fd, _ABOUT_MAX_BYTES, 0))
    except ValueError:
        return {}
    finally:
        fs.close(fd)
    return about if isinstance(about, dict) else {}


def _spool_id(path: Path, about: dict[str, Any], fs: FsOps) -> int | None:
    """The id in spool.json, else in the first readable segment header; None when there is neither."""
    with contextlib.suppress(KeyError, TypeError, ValueError):
        return int(about["spool_id"], 16)
    for kind in ("clicks", "journal"):
        for link in LogReader(path, kind, spool_id=None, fs=fs).segments:
            return link.header.spool_id
    return None


def _is_ours(name: str) -> bool:
    return name in ("lock", "spool.json") or parse_segment_name(name) is not None


def _remove_rest(fs: FsOps, path: Path) -> None:
    """Remove what stands beside the segments; the lock last, so that a removal cut short is found and finished."""
    for name in ("spool.json", "lock"):
        with contextlib.suppress(FileNotFoundError):
            fs.unlink(path / name)
    with contextlib.suppress(OSError):  # somebody's own file is in it: an empty spool, no harm
        fs.rmdir(path)
        fs.fsync_dir(path.parent)
