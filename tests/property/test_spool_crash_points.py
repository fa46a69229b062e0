"""A crash between any two operations of the writer, with everything a file system may then have lost.

After kill -9 (the page cache stays) every row whose `append` had returned is there; after a power cut every row whose
`sync` had returned; and never a row that nobody appended at that number.
"""

import asyncio
import errno
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from model_fs import Inline, LandedError, ModelFs, survivors
from spools import COLUMNS, ROOT, Clock, a_log, recover

from tracker.storage.spool.dead_spool import DeadSpool, find_spools, verify
from tracker.storage.spool.log import Log, SpoolUnavailable
from tracker.storage.spool.spool import Spool


@dataclass
class History:
    """A writer on the model disk, and what it promised after each operation."""

    fs: ModelFs = field(default_factory=ModelFs)
    clock: Clock = field(default_factory=Clock)
    promises: list[tuple[int, int, int]] = field(default_factory=list)  # operations so far, rows appended, rows synced
    attempts: dict[int, set[bytes]] = field(default_factory=dict)
    acknowledged: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.log: Log = a_log(self.fs, clock=self.clock)
        self.start = len(self.fs.ops)
        self._promise()

    def _promise(self) -> None:
        self.promises.append((len(self.fs.ops), self.log.next_seq, self.log.synced_seq))

    def append(self, *rows: bytes) -> None:
        for seq, row in enumerate(rows, self.log.next_seq):
            self.attempts.setdefault(seq, set()).add(row)
        with suppress(SpoolUnavailable):
            self.log.append(list(rows))
            self.acknowledged += rows
        self._promise()

    async def sync(self) -> None:
        with suppress(SpoolUnavailable):
            await self.log.sync()
        self._promise()

    def fail_next(self, name: str, error: int, *, times: int = 1, short: int | None = None, landed: bool = False) -> None:
        """Let the next calls of an operation fail; a write writes `short` bytes before it does, or (`landed`) all."""
        plan: list[int | None] = [None] * times if short is None else [short, *[None] * times]
        before = self.fs.fault

        def fault(called: str, path: Path) -> int | None:
            if called != name or not plan:
                return before(called, path)
            step = plan.pop(0)
            if step is None:
                raise (LandedError if landed else OSError)(error, "planned failure")
            return step

        self.fs.fault = fault

    def check(self, *, exhaustive_up_to: int, seed: int, samples: int) -> int:
        """Crash everywhere; returns how many disks were recovered."""
        rng = random.Random(seed)
        tried = 0
        for at in range(self.start, len(self.fs.ops) + 1):
            kept = [promise for promise in self.promises if promise[0] <= at]
            appended, synced = max(p[1] for p in kept), max(p[2] for p in kept)
            self._judge(self.fs.after_kill(at), appended, f"kill -9 after operation {at}")
            unsafe = self.fs.unsafe(at)
            fates = survivors(unsafe, exhaustive_up_to=exhaustive_up_to, rng=rng, samples=samples)
            for number, fate in enumerate(fates):
                self._judge(self.fs.after_crash(at, fate), synced, f"power cut {number} after operation {at}")
                tried += 1
        return tried

    def _judge(self, disk: ModelFs, promised: int, what: str) -> None:
        rows = recover(disk)
        assert self.acknowledged[:promised] == [rows.get(seq) for seq in range(promised)], f"{what}: lost"
        for seq, row in rows.items():
            assert row in self.attempts.get(seq, ()), f"{what}: invented {seq}"
        assert recover(disk) == rows, f"{what}: recovery after recovery differs"


async def plain(h: History) -> None:
    h.append(b"a" * 100, b"b")
    await h.sync()
    h.append(b"c" * 50)
    h.append(b"d" * 700)
    await h.sync()
    h.append(b"e" * 300)


async def failing_sync(h: History) -> None:
    """The tail goes to a new segment; a crash between its frames and its header must find the old frames."""
    h.append(b"a" * 50)
    await h.sync()
    h.append(b"b" * 60)
    h.append(b"c" * 70)
    h.fail_next("fdatasync", errno.EIO)
    await h.sync()
    h.append(b"d")
    await h.sync()


async def failing_sync_twice(h: History) -> None:
    h.append(b"a" * 50)
    h.append(b"b" * 700)
    h.fail_next("fdatasync", errno.EIO, times=2)
    await h.sync()
    h.append(b"c")
    await h.sync()


async def failing_name_sync(h: History) -> None:
    h.append(b"a" * 50)
    h.fail_next("fsync_dir", errno.EIO)
    await h.sync()
    h.append(b"b")
    await h.sync()


async def torn_write(h: History) -> None:
    h.append(b"a" * 50)
    h.fail_next("pwrite", errno.EIO, short=20)
    h.append(b"b" * 60)
    h.append(b"c" * 60)
    await h.sync()
    h.append(b"d")


async def torn_write_that_cannot_be_cut(h: History) -> None:
    """The refused frame is whole on the disk, and its number is given to other rows."""
    h.append(b"a" * 50)
    h.fail_next("ftruncate", errno.EIO)
    h.fail_next("pwrite", errno.EIO, landed=True)
    h.append(b"b" * 60)
    h.append(b"c" * 60)
    await h.sync()


async def full_disk(h: History) -> None:
    h.append(b"a" * 50)
    h.fail_next("fallocate", errno.ENOSPC)
    h.append(b"b" * 700)
    h.append(b"c" * 700)
    h.clock.now += 1
    h.append(b"d" * 700)
    await h.sync()


ACTS = [
    plain,
    failing_sync,
    failing_sync_twice,
    failing_name_sync,
    torn_write,
    torn_write_that_cannot_be_cut,
    full_disk,
]


@pytest.mark.fault(15)
@pytest.mark.parametrize("act", ACTS)
async def test_a_crash_between_any_two_operations_keeps_every_promise(
    act: Callable[[History], Awaitable[None]],
) -> None:
    """Every prefix of a short history, every subset of up to eight unsafe operations, torn writes included."""
    history = History()
    await act(history)
    assert history.check(exhaustive_up_to=8, seed=1, samples=40) > 100


FAULTS = [
    ("pwrite", errno.EIO),
    ("pwrite", errno.ENOSPC),
    ("fdatasync", errno.EIO),
    ("fsync_dir", errno.EIO),
    ("fallocate", errno.ENOSPC),
    ("open_new", errno.EMFILE),
    ("ftruncate", errno.EIO),
    ("unlink", errno.EIO),
]


@pytest.mark.fault(15)
@pytest.mark.parametrize("seed", range(25))
async def test_a_crash_in_a_random_history_with_random_faults_keeps_every_promise(seed: int) -> None:
    """Faults in combinations nobody thought of; the seed is the test's number."""
    rng = random.Random(seed)
    history = History()
    for step in range(rng.randint(5, 14)):
        if rng.random() < 0.4:
            name, error = rng.choice(FAULTS)
            short = rng.choice([None, rng.randint(0, 60)]) if name == "pwrite" else None
            history.fail_next(name, error, times=rng.randint(1, 3), short=short, landed=rng.random() < 0.3)
        if rng.random() < 0.65:
            history.append(*(b"%d/%d " % (step, n) * rng.randint(0, 30) for n in range(rng.randint(1, 3))))
        else:
            await history.sync()
        history.clock.now += rng.choice([0, 0.05, 0.2])
    history.check(exhaustive_up_to=4, seed=seed, samples=6)
    history.fs.fault = lambda _name, _path: None
    history.clock.now += 1
    await history.sync()
    assert history.log.healthy
    assert history.log.next_seq == history.log.synced_seq


def _a_spool(fs: ModelFs) -> Spool:
    return Spool.create(
        ROOT,
        spool_id=11,
        worker=3,
        clicks=COLUMNS,
        max_bytes=2**30,
        sync="50ms",
        clicks_segment_bytes=9000,
        journal_segment_bytes=9000,
        fs=fs,
        executor=Inline(),
    )


async def test_a_crash_while_a_spool_is_made_or_removed_leaves_nothing_that_stops_a_start() -> None:
    """A half-made or half-removed directory must neither be taken for rows nor raise at every later start."""
    fs = ModelFs()
    spool = _a_spool(fs)
    spool.clicks.append([b"row"])
    await spool.sync()
    spool.close()
    dead = DeadSpool.open(spool.path, fs=fs)
    assert dead is not None
    dead.remove(clicks=1, journal=0)
    assert find_spools(ROOT, fs=fs) == []
    rng = random.Random(1)
    for at in range(len(fs.ops) + 1):
        for fate in survivors(fs.unsafe(at), exhaustive_up_to=6, rng=rng, samples=30):
            disk = fs.after_crash(at, fate)
            for path in find_spools(ROOT, fs=disk):
                assert all(report.end_seq <= 1 for report in verify(path, fs=disk))
                found = DeadSpool.open(path, fs=disk)
                if found is not None:
                    assert found.spool_id == 11
                    found.remove(clicks=1, journal=0)
            assert find_spools(ROOT, fs=disk) == []


def test_the_event_loop_is_not_needed_to_recover() -> None:
    """`tracker spool verify` reads without a loop."""
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()
    assert recover(ModelFs()) == {}
