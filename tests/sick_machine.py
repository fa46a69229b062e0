"""A machine that fails on command, for real processes: its disk refuses calls, its clock jumps.

Python runs `sitecustomize` at every start, so a directory of ours in PYTHONPATH puts this between a process, its workers too,
and the operating system: no switch in the program, no right to mount or to trace is needed. What fails is said by files in
that directory, which each call looks at; so a test turns a fault on and off while the processes run.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SHIM = '''
import errno, os, time
orders = {orders!r}
unsynced = {{}}                     # descriptor -> ranges written since its last good sync

def order(name):
    """The error a call shall fail with; an order that ends in .once is for whoever takes it first."""
    try:
        with open(os.path.join(orders, name)) as file:
            return int(file.read())
    except (FileNotFoundError, ValueError):
        pass
    try:
        os.rename(os.path.join(orders, name + ".once"), os.path.join(orders, name + ".taken"))
    except FileNotFoundError:
        return 0
    with open(os.path.join(orders, name + ".taken")) as file:
        return int(file.read())

def failing(name, call):
    def called(*arguments, **options):
        number = order(name)
        if number:
            raise OSError(number, os.strerror(number))
        return call(*arguments, **options)
    return called

real_pwrite, real_fdatasync = os.pwrite, os.fdatasync

def pwrite(fd, data, offset):
    number = order("pwrite")
    if number:
        raise OSError(number, os.strerror(number))
    written = real_pwrite(fd, data, offset)
    unsynced.setdefault(fd, []).append((offset, written))
    return written

def fdatasync(fd):
    number = order("fdatasync")
    if number:                      # the kernel may drop what it could not write, and call the pages clean
        for offset, length in unsynced.pop(fd, []):
            real_pwrite(fd, bytes(length), offset)
        raise OSError(number, os.strerror(number))
    real_fdatasync(fd)
    unsynced.pop(fd, None)

real_close = os.close

def close(fd):
    unsynced.pop(fd, None)
    real_close(fd)

os.pwrite, os.fdatasync, os.close = pwrite, fdatasync, close
os.posix_fallocate = failing("fallocate", os.posix_fallocate)

real_time, real_time_ns = time.time, time.time_ns

def offset_ns():
    try:
        with open(os.path.join(orders, "clock")) as file:
            return int(file.read() or 0)
    except FileNotFoundError:
        return 0

time.time = lambda: real_time() + offset_ns() / 1e9
time.time_ns = lambda: real_time_ns() + offset_ns()
'''


class SickMachine:
    """`environ(of_a_tracker)` is what a process must be started with to live on it."""

    def __init__(self, directory: Path) -> None:
        self._orders = directory / "orders"
        self._orders.mkdir(parents=True)
        (directory / "sitecustomize.py").write_text(_SHIM.format(orders=str(self._orders)))
        self._directory = directory

    def environ(self, environ: dict[str, str]) -> dict[str, str]:
        return {**environ, "PYTHONPATH": f"{self._directory}{os.pathsep}{environ['PYTHONPATH']}"}

    @contextmanager
    def failing(self, error: int, *calls: str) -> Iterator[None]:
        """Meanwhile these calls (pwrite, fdatasync, fallocate) end in `error`, in every process."""
        for call in calls:
            self._order(call, error)
        try:
            yield
        finally:
            for call in calls:
                (self._orders / call).unlink()

    def fail_once(self, call: str, error: int = errno.EIO) -> None:
        """The next such call of any process fails; a sync also loses what it should have brought to the disk."""
        self._order(f"{call}.once", error)

    @property
    def has_failed(self) -> bool:
        """Whether what was to fail once has failed."""
        return any(self._orders.glob("*.taken"))

    def set_clock(self, seconds: float) -> None:
        """From now on the wall clock of every process differs by so much from this one's."""
        self._order("clock", int(seconds * 1e9))

    def _order(self, name: str, what: int) -> None:
        draft = self._orders / f"{name}.draft"
        draft.write_text(str(what))
        draft.replace(self._orders / name)
