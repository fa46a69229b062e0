"""The file system as the spool sees it: few operations, each one system call.

It exists so that the tests can put a model in its place which loses unsynced data, runs out of space or fails on
demand: a crash between any two operations can then be tried without a disk. No decision may live here, only calls; what
the spool needs beyond these calls is added here and to the model, or not used.
"""

import contextlib
import errno
import fcntl
import os
from pathlib import Path
from typing import Protocol


class FsOps(Protocol):
    """What the spool asks of a file system. Every method raises OSError as the system call does."""

    def open_new(self, path: Path) -> int:
        """Create a file that must not exist, for reading and writing by us only (0600): a spool names visitors."""

    def open_read(self, path: Path) -> int: ...
    def open_lock(self, path: Path) -> int:
        """Open a lock file, made if missing; nothing is ever written to it."""

    def try_lock(self, fd: int) -> bool:
        """Take the exclusive flock, which ends with the descriptor (so with its process); False if another has it."""

    def close(self, fd: int) -> None: ...
    def pwrite(self, fd: int, data: bytes | memoryview, offset: int, /) -> int: ...
    def pread(self, fd: int, size: int, offset: int, /) -> bytes: ...
    def fdatasync(self, fd: int) -> None: ...
    def ftruncate(self, fd: int, size: int) -> None: ...
    def fallocate(self, fd: int, size: int) -> None:
        """Give the file `size` bytes of disk, read as zeros: ENOSPC comes now or never."""

    def file_size(self, fd: int) -> int: ...
    def rename(self, source: Path, target: Path) -> None: ...
    def unlink(self, path: Path) -> None: ...
    def mkdir(self, path: Path, *, parents: bool = False) -> None:
        """Make a directory (0700) that must not exist; with `parents`, those above it too, and it may exist."""

    def rmdir(self, path: Path) -> None: ...
    def listdir(self, path: Path) -> list[str]:
        """The names in a directory, sorted; empty when there is no such directory."""

    def fsync_dir(self, path: Path) -> None:
        """Make creations, renames and removals in a directory durable."""

    def used_bytes(self, root: Path) -> int:
        """The disk space of all files in the directories directly under `root` (blocks, so preallocation counts).

        What denies us access (a volume's lost+found) is not ours and not counted.
        """


class RealFs:
    """The operating system's calls. Python repeats each one that a signal interrupts (PEP 475)."""

    close = staticmethod(os.close)
    pwrite = staticmethod(os.pwrite)
    pread = staticmethod(os.pread)
    ftruncate = staticmethod(os.ftruncate)

    def open_new(self, path: Path) -> int:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def open_read(self, path: Path) -> int:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def open_lock(self, path: Path) -> int:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def try_lock(self, fd: int) -> bool:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def fdatasync(self, fd: int) -> None:
        os.fdatasync(fd)

    def fallocate(self, fd: int, size: int) -> None:
        os.posix_fallocate(fd, 0, size)

    def file_size(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def rename(self, source: Path, target: Path) -> None:
        source.rename(target)

    def unlink(self, path: Path) -> None:
        path.unlink()

    def mkdir(self, path: Path, *, parents: bool = False) -> None:
        path.mkdir(mode=0o700, parents=parents, exist_ok=parents)

    def rmdir(self, path: Path) -> None:
        path.rmdir()

    def listdir(self, path: Path) -> list[str]:
        try:
            return sorted(entry.name for entry in path.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []

    def fsync_dir(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def used_bytes(self, root: Path) -> int:
        total = 0
        with os.scandir(root) as directories:
            for directory in directories:
                with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):  # removed meanwhile, or not ours
                    total += _blocks(Path(directory.path))
        return total


def _blocks(directory: Path) -> int:
    total = 0
    with os.scandir(directory) as files:
        for file in files:
            with contextlib.suppress(FileNotFoundError, PermissionError):
                total += file.stat(follow_symlinks=False).st_blocks * 512  # the unit of st_blocks, whatever the disk's
    return total


def write_all(fs: FsOps, fd: int, data: bytes, offset: int) -> None:
    """Write all of `data` at `offset`, going on after short and interrupted writes. OSError when it cannot finish."""
    rest: bytes | memoryview = data
    while rest:
        try:
            count = fs.pwrite(fd, rest, offset)
        except InterruptedError:
            continue
        if count == len(rest):
            return
        if count == 0:  # a regular file never says this; if a file system does, better an error than a loop
            raise OSError(errno.EIO, "write made no progress")
        rest = memoryview(rest)[count:]
        offset += count
