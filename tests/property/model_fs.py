"""A file system that remembers every operation, fails on demand, and can be shown as a crash might have left it.

It stands in for `fsops.RealFs`. What a crash may lose follows the weakest promise of POSIX file systems: data is safe
after a successful fdatasync of its file, names after an fsync of their directory; all else survives in any combination,
writes also in part. After a failed fdatasync what was pending on that file is never safe, whatever a later one says.
"""

import errno
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tracker.storage.spool.fsops import FsOps

SECTOR_BYTES = 512
_ROOT = 0

OpKind = Literal["link", "unlink", "move", "write", "truncate", "sync", "sync_failed", "sync_dir"]
# Called before each operation with its name and path: raises what should fail; a number makes a pwrite that short.
Fault = Callable[[str, Path], int | None]
Survivors = Sequence["Op | None"]  # for each unsafe operation: itself, a part of it, or None


class LandedError(OSError):
    """Raised by a `Fault` for a write: the data reached the file, and the call fails all the same."""


@dataclass(frozen=True, slots=True)
class Op:
    """One change: `node` is the file written or the directory changed; the other fields as `kind` needs them."""

    kind: OpKind
    node: int
    name: str = ""
    child: int = 0
    other: int = 0
    other_name: str = ""
    offset: int = 0
    data: bytes = b""
    size: int = 0
    is_directory: bool = False


@dataclass
class _Tree:
    files: dict[int, bytearray]
    directories: dict[int, dict[str, int]]

    def apply(self, op: Op) -> None:
        if op.kind == "link":
            self.directories.setdefault(op.node, {})[op.name] = op.child
        elif op.kind == "unlink":
            self.directories.setdefault(op.node, {}).pop(op.name, None)
        elif op.kind == "move":
            self.directories.setdefault(op.node, {}).pop(op.name, None)
            self.directories.setdefault(op.other, {})[op.other_name] = op.child
        elif op.kind == "write":
            file = self.files.setdefault(op.node, bytearray())
            file.extend(bytes(max(0, op.offset + len(op.data) - len(file))))
            file[op.offset : op.offset + len(op.data)] = op.data
        elif op.kind == "truncate":
            file = self.files.setdefault(op.node, bytearray())
            del file[op.size :]
            file.extend(bytes(op.size - len(file)))


class ModelFs:
    """See the module. `ops` is the history; `fault` decides what fails; `capacity_bytes` is the size of the disk."""

    def __init__(self, *, capacity_bytes: int = 2**40) -> None:
        self.ops: list[Op] = []
        self.fault: Fault = lambda _name, _path: None
        self.capacity_bytes = capacity_bytes
        self.calls: dict[str, int] = {}
        self._tree = _Tree({}, {_ROOT: {}})
        self._nodes = itertools.count(1)
        self._fds = itertools.count(3)
        self._open: dict[int, tuple[int, Path]] = {}
        self._locks: dict[int, int] = {}  # node -> descriptor that holds its lock

    # Crashes

    def unsafe(self, at: int) -> list[Op]:
        """Those of the first `at` operations that a power cut behind them may undo."""
        return [op for index, op in enumerate(self.ops[:at]) if not _is_safe(self.ops[:at], index)]

    def after_crash(self, at: int, fates: Survivors) -> "ModelFs":
        """The disk after a crash behind the first `at` operations; `fates` says what became of each unsafe one."""
        history = self.ops[:at]
        unsafe = [index for index in range(at) if not _is_safe(history, index)]
        fate_of = dict(zip(unsafe, fates, strict=True))
        crashed = ModelFs()
        for index, op in enumerate(history):
            fate = fate_of.get(index, op)
            if fate is not None:
                crashed._tree.apply(fate)
        for op in history:
            if op.kind == "link" and op.is_directory:
                crashed._tree.directories.setdefault(op.child, {})
        crashed._nodes = itertools.count(10_000)
        return crashed

    def after_kill(self, at: int) -> "ModelFs":
        """The file system after kill -9 of its only process: the page cache stays, locks go."""
        return self.after_crash(at, self.unsafe(at))

    # FsOps

    def open_new(self, path: Path) -> int:
        self._enter("open_new", path)
        parent = self._directory(path.parent)
        if path.name in self._tree.directories[parent]:
            raise FileExistsError(errno.EEXIST, "exists", str(path))
        node = next(self._nodes)
        self._do(Op("link", parent, name=path.name, child=node))
        self._tree.files[node] = bytearray()
        return self._descriptor(node, path)

    def open_read(self, path: Path) -> int:
        self._enter("open_read", path)
        return self._descriptor(self._file(path), path)

    def open_lock(self, path: Path) -> int:
        try:
            return self._descriptor(self._file(path), path)
        except FileNotFoundError:
            return self.open_new(path)

    def try_lock(self, fd: int) -> bool:
        return self._locks.setdefault(self._open[fd][0], fd) == fd

    def close(self, fd: int) -> None:
        node = self._open.pop(fd)[0]
        if self._locks.get(node) == fd:
            del self._locks[node]

    def pwrite(self, fd: int, data: bytes | memoryview, offset: int, /) -> int:
        node, path = self._open[fd]
        try:
            short = self._enter("pwrite", path)
        except LandedError:
            self._do(Op("write", node, offset=offset, data=bytes(data)))
            raise
        written = bytes(data) if short is None else bytes(data[:short])
        if written:
            self._do(Op("write", node, offset=offset, data=written))
        return len(written)

    def pread(self, fd: int, size: int, offset: int, /) -> bytes:
        node, path = self._open[fd]
        self._enter("pread", path)
        return bytes(self._tree.files[node][offset : offset + size])

    def fdatasync(self, fd: int) -> None:
        node, path = self._open[fd]
        try:
            self._enter("fdatasync", path)
        except OSError:
            self._do(Op("sync_failed", node))
            raise
        self._do(Op("sync", node))

    def ftruncate(self, fd: int, size: int) -> None:
        node, path = self._open[fd]
        self._enter("ftruncate", path)
        self._do(Op("truncate", node, size=size))

    def fallocate(self, fd: int, size: int) -> None:
        node, path = self._open[fd]
        self._enter("fallocate", path)
        if sum(map(len, self._tree.files.values())) + size > self.capacity_bytes:
            raise OSError(errno.ENOSPC, "no space left on the model")
        self._do(Op("truncate", node, size=size))

    def file_size(self, fd: int) -> int:
        return len(self._tree.files[self._open[fd][0]])

    def rename(self, source: Path, target: Path) -> None:
        self._enter("rename", source)
        parent, to = self._directory(source.parent), self._directory(target.parent)
        child = self._tree.directories[parent][source.name]
        self._do(Op("move", parent, name=source.name, child=child, other=to, other_name=target.name))

    def unlink(self, path: Path) -> None:
        self._enter("unlink", path)
        node = self._file(path)
        self._do(Op("unlink", self._directory(path.parent), name=path.name))
        if all(open_node != node for open_node, _ in self._open.values()):
            self._tree.files.pop(node, None)

    def mkdir(self, path: Path, *, parents: bool = False) -> None:
        if parents:
            for above in [*reversed(path.parents), path]:
                if above != Path("/") and not self._exists(above):
                    self.mkdir(above)
            return
        self._enter("mkdir", path)
        parent = self._directory(path.parent)
        if path.name in self._tree.directories[parent]:
            raise FileExistsError(errno.EEXIST, "exists", str(path))
        node = next(self._nodes)
        self._do(Op("link", parent, name=path.name, child=node, is_directory=True))
        self._tree.directories[node] = {}

    def rmdir(self, path: Path) -> None:
        self._enter("rmdir", path)
        if self._tree.directories[self._directory(path)]:
            raise OSError(errno.ENOTEMPTY, "not empty", str(path))
        self._do(Op("unlink", self._directory(path.parent), name=path.name))

    def listdir(self, path: Path) -> list[str]:
        try:
            return sorted(self._tree.directories[self._directory(path)])
        except (FileNotFoundError, NotADirectoryError):
            return []

    def fsync_dir(self, path: Path) -> None:
        self._enter("fsync_dir", path)
        self._do(Op("sync_dir", self._directory(path)))

    def used_bytes(self, root: Path) -> int:
        return sum(map(len, self._tree.files.values()))

    # Inside

    def _enter(self, name: str, path: Path) -> int | None:
        self.calls[name] = self.calls.get(name, 0) + 1
        return self.fault(name, path)

    def _do(self, op: Op) -> None:
        self.ops.append(op)
        self._tree.apply(op)

    def _descriptor(self, node: int, path: Path) -> int:
        fd = next(self._fds)
        self._open[fd] = (node, path)
        return fd

    def _directory(self, path: Path) -> int:
        node = _ROOT
        for part in path.parts[1:]:
            if node not in self._tree.directories:
                raise NotADirectoryError(errno.ENOTDIR, "not a directory", str(path))
            if part not in self._tree.directories[node]:
                raise FileNotFoundError(errno.ENOENT, "missing", str(path))
            node = self._tree.directories[node][part]
        if node not in self._tree.directories:
            raise NotADirectoryError(errno.ENOTDIR, "not a directory", str(path))
        return node

    def _file(self, path: Path) -> int:
        node = self._tree.directories[self._directory(path.parent)].get(path.name)
        if node is None:
            raise FileNotFoundError(errno.ENOENT, "missing", str(path))
        self._tree.files.setdefault(node, bytearray())
        return node

    def _exists(self, path: Path) -> bool:
        try:
            self._directory(path)
        except FileNotFoundError:
            return False
        return True


def _is_safe(history: list[Op], index: int) -> bool:
    op = history[index]
    if op.kind in ("sync", "sync_failed", "sync_dir"):
        return True
    later = history[index + 1 :]
    if op.kind in ("write", "truncate"):
        outcome = next((x.kind for x in later if x.node == op.node and x.kind in ("sync", "sync_failed")), None)
        return outcome == "sync"
    places = {op.node, op.other} if op.kind == "move" else {op.node}
    return any(x.kind == "sync_dir" and x.node in places for x in later)


def survivors(unsafe: list[Op], *, exhaustive_up_to: int, rng: random.Random, samples: int) -> Iterator[Survivors]:
    """What may survive of the unsafe operations.

    When they are few, every subset, and every subset with its last write torn; else none, all, and `samples` random
    choices among prefixes and subsets, torn or not.
    """
    if len(unsafe) <= exhaustive_up_to:
        for chosen in itertools.product((False, True), repeat=len(unsafe)):
            subset = [op if kept else None for op, kept in zip(unsafe, chosen, strict=True)]
            yield subset
            yield from _torn(subset)
        return
    yield [None] * len(unsafe)
    yield unsafe
    for _ in range(samples):
        end = rng.randint(0, len(unsafe))
        prefix = rng.random() < 0.5
        subset = [op if (index < end if prefix else rng.random() < 0.5) else None for index, op in enumerate(unsafe)]
        yield rng.choice([subset, *_torn(subset)])


def _torn(ops: Survivors) -> Iterator[Survivors]:
    """The same with the last write cut: its first sectors only, its last sectors only, its first bytes only."""
    index = max((index for index, op in enumerate(ops) if op is not None and op.kind == "write"), default=-1)
    op = ops[index] if index >= 0 else None
    if op is None:
        return
    middle = min(len(op.data), SECTOR_BYTES * max(1, len(op.data) // SECTOR_BYTES // 2))
    for part in (
        replace(op, data=op.data[:middle]),
        replace(op, data=op.data[middle:], offset=op.offset + middle),
        replace(op, data=op.data[: len(op.data) // 3]),
    ):
        yield [*ops[:index], part, *ops[index + 1 :]]


class Inline(Executor):
    """Runs what is submitted at once: threads would make a history depend on their timing."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as exc:
            future.set_exception(exc)
        return future


_: type[FsOps] = ModelFs  # mypy checks here that the model has every operation
