"""A disk that fails in one way, and what the writer makes of it."""

import asyncio
import errno
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import pytest
from model_fs import ModelFs
from spools import DIRECTORY, SEGMENT_BYTES, SPOOL_ID, Clock, a_log, always, failing, read_all, recover

from tracker.storage.spool.log import RETRY_SECONDS, SpoolUnavailable
from tracker.storage.spool.reader import LogReader


class Held(Executor):
    """Makes calls at once and gives their results when the test says so: what is written meanwhile comes too late."""

    def __init__(self) -> None:
        self._results: list[tuple[Future[Any], Any]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        self._results.append((future, fn(*args, **kwargs)))
        return future

    def give_results(self) -> None:
        results, self._results = self._results, []
        for future, result in results:
            future.set_result(result)


async def settle() -> None:
    """Let every ready callback of the loop run."""
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.parametrize("steps", [[1], [3, 5, 40], [InterruptedError()], [9, InterruptedError(), 1]])
def test_short_and_interrupted_writes_are_finished(steps: list[int | OSError]) -> None:
    """The answer goes out when append returns: half a frame would be an acknowledged click that is lost."""
    fs = ModelFs()
    log = a_log(fs)
    log.prepare()
    fs.fault = failing("pwrite", *steps)
    log.append([b"a" * 30, b"b"])
    assert recover(fs) == {0: b"a" * 30, 1: b"b"}


@pytest.mark.fault(14)
@pytest.mark.parametrize("error", [OSError(errno.EIO, "x"), OSError(errno.ENOSPC, "x"), 0], ids=["EIO", "ENOSPC", "0"])
async def test_a_write_that_fails_counts_for_nothing_and_the_next_one_is_good(error: int | OSError) -> None:
    """Rows that were refused are counted as unlogged by the caller: they must not turn up, nor take numbers."""
    fs = ModelFs()
    log = a_log(fs)
    log.append([b"good"])
    end = log.written.offset
    fs.fault = failing("pwrite", 40, error)
    with pytest.raises(SpoolUnavailable):
        log.append([b"refused" * 9])
    assert (log.healthy, log.next_seq, log.write_errors) == (False, 1, 1)
    fd = fs.open_read(DIRECTORY / "clicks-00000000.seg")
    assert fs.file_size(fd) == end
    assert log.append([b"next"]) == 1
    await log.sync()
    assert (log.healthy, log.synced_seq) == (True, 2)
    assert recover(fs) == {0: b"good", 1: b"next"}
    assert read_all(LogReader(DIRECTORY, "clicks", spool_id=SPOOL_ID, log=log, fs=fs)) == {0: b"good", 1: b"next"}


def test_a_full_disk_is_asked_again_ten_times_a_second_and_no_more() -> None:
    """At 20,000 clicks/s, an attempt per click to make a 16 MiB file would take the whole core."""
    fs, clock = ModelFs(), Clock()
    log = a_log(fs, clock=clock, max_bytes=4 * SEGMENT_BYTES)  # failed attempts must not use that up
    log.append([b"a" * 100])
    fs.fault = always("fallocate", errno.ENOSPC)
    before = fs.calls["fallocate"]
    for _ in range(100):
        with pytest.raises(SpoolUnavailable):
            log.append([b"b" * 600])
        clock.now += RETRY_SECONDS / 10
    assert 9 <= fs.calls["fallocate"] - before <= 11
    assert fs.listdir(DIRECTORY) == ["clicks-00000000.seg"]
    fs.fault = failing("")
    clock.now += RETRY_SECONDS
    assert log.append([b"c" * 600]) == 1
    assert recover(fs) == {0: b"a" * 100, 1: b"c" * 600}


@pytest.mark.fault(14)
async def test_a_log_without_traffic_becomes_healthy_when_space_is_back() -> None:
    """An unready worker gets no clicks: if only a click could heal it, it would stay unready for ever."""
    fs, clock = ModelFs(), Clock()
    log = a_log(fs, clock=clock)
    fs.fault = always("fallocate", errno.ENOSPC)
    with pytest.raises(SpoolUnavailable):
        log.append([b"a"])
    clock.now += 1
    await log.sync()
    assert (log.healthy, log.write_errors) == (False, 2)
    fs.fault = failing("")
    clock.now += 1
    await log.sync()
    assert (log.healthy, log.write_errors) == (True, 2)
    assert log.append([b"b"]) == 0


@pytest.mark.fault(14)
async def test_the_space_limit_refuses_rows_until_shipped_segments_go() -> None:
    """The process must stop before the volume is full, and go on when shipping has made room."""
    fs, clock = ModelFs(), Clock()
    log = a_log(fs, max_bytes=3 * SEGMENT_BYTES, clock=clock)
    for _ in range(3):
        log.append([b"x" * 300])
    with pytest.raises(SpoolUnavailable, match="TRACKER_SPOOL_MAX_BYTES"):
        log.append([b"y" * 300])
    await log.sync()  # rows that were taken become durable though there is no room for more
    assert (log.synced_seq, log.healthy) == (3, False)
    assert log.take_expired(0.0, 3600) == []
    log.confirmed(2)
    assert [path.name for path in log.take_expired(0.0, 3600)] == ["clicks-00000000.seg", "clicks-00000001.seg"]
    clock.now += 1
    await log.sync()
    assert log.healthy
    assert log.append([b"z" * 300]) == 3


@pytest.mark.fault(15)
async def test_after_an_fsync_error_the_file_is_never_synced_again_and_its_rows_move() -> None:
    """The kernel marks the pages clean: a second fsync says yes and the rows are gone with the power."""
    fs = ModelFs()
    log = a_log(fs)
    log.append([b"a"])
    await log.sync()
    log.append([b"b"])
    synced: list[str] = []
    errors = [OSError(errno.EIO, "planned failure")]

    def fault(name: str, path: Path) -> None:
        if name == "fdatasync":
            synced.append(path.name)
            if errors:
                raise errors.pop()

    fs.fault = fault
    await log.sync()
    log.append([b"c"])
    await log.sync()
    assert synced == ["clicks-00000000.seg", "clicks-00000001.seg", "clicks-00000001.seg"]
    assert (log.fsync_errors, log.healthy, log.synced_seq, log.unsynced_bytes) == (1, True, 3, 0)
    nothing_else_survives = fs.after_crash(len(fs.ops), [None] * len(fs.unsafe(len(fs.ops))))
    assert recover(nothing_else_survives) == {0: b"a", 1: b"b", 2: b"c"}


async def test_a_disk_that_never_syncs_is_reported_and_loses_nothing() -> None:
    """The rows are still in the page cache and in memory: refusing clicks would lose what is safe from kill -9."""
    fs, clock = ModelFs(), Clock()
    log = a_log(fs, clock=clock)
    fs.fault = always("fdatasync", errno.EIO)
    for row in (b"a", b"b", b"c"):
        log.append([row])
        with pytest.raises(SpoolUnavailable, match="fsync failed"):
            await log.sync()
        clock.now += 1
        assert not log.healthy
    assert log.synced_seq == 0
    assert recover(fs) == {0: b"a", 1: b"b", 2: b"c"}
    log.close()
    assert recover(fs) == {0: b"a", 1: b"b", 2: b"c"}


async def test_memory_for_unsynced_rows_is_bounded() -> None:
    """A disk that hangs in fsync must not take the process with it."""
    fs = ModelFs()
    log = a_log(fs, unsynced_max_bytes=1000)
    refused = 0
    for _ in range(100):
        try:
            log.append([b"x" * 100])
        except SpoolUnavailable:
            refused += 1
    assert log.unsynced_bytes < 1300
    assert refused + log.next_seq == 100
    healthy = [log.healthy]
    await log.sync()
    healthy.append(log.healthy)
    assert [False, True] == healthy, "what goes out meanwhile must say that it has no row"
    assert log.append([b"y"]) == 100 - refused


async def test_rows_appended_during_a_sync_wait_for_the_next_one() -> None:
    """The disk was asked before they were written: to call them safe would be a promise the disk never gave."""
    fs, held = ModelFs(), Held()
    log = a_log(fs, executor=held)
    log.append([b"a"])
    first = asyncio.create_task(log.sync())
    await settle()
    log.append([b"b" * 200])
    log.append([b"c" * 300])  # in the next segment
    second = asyncio.create_task(log.sync())
    await settle()
    held.give_results()
    await settle()
    assert first.done()
    assert not second.done()
    assert log.synced_seq == 1
    assert log.unsynced_bytes > 500
    held.give_results()
    await second
    assert log.synced_seq == 3
    at = len(fs.ops)
    assert recover(fs.after_crash(at, [None] * len(fs.unsafe(at)))) == {0: b"a", 1: b"b" * 200, 2: b"c" * 300}


async def test_names_are_synced_once_for_each_new_segment() -> None:
    """An fsync of the directory is a journal commit of the file system: twenty a second for nothing would be felt."""
    fs = ModelFs()
    log = a_log(fs)
    before = fs.calls["fsync_dir"]
    for _ in range(3):
        log.append([b"x"])
        await log.sync()
    assert fs.calls["fsync_dir"] == before + 1


async def test_callers_share_a_sync_and_a_cancelled_one_stops_nobody() -> None:
    """Two hundred `queued` postbacks must cost two disk syncs, and a caller who gives up must not fail the others."""
    fs, held = ModelFs(), Held()
    log = a_log(fs, executor=held)
    log.append([b"a"])
    callers = [asyncio.create_task(log.sync()) for _ in range(50)]
    await settle()
    callers[0].cancel()
    held.give_results()
    outcomes = await asyncio.gather(*callers, return_exceptions=True)
    assert isinstance(outcomes[0], asyncio.CancelledError)
    assert outcomes[1:] == [None] * 49
    assert fs.calls["fdatasync"] == 1


async def test_shipped_segments_are_kept_for_their_time_from_the_day_they_were_shipped() -> None:
    """A restore that loses commits is refilled from them; counted from writing, an outage's rows would go too early."""
    fs = ModelFs()
    log = a_log(fs)
    for _ in range(4):
        log.append([b"x" * 300])
    await log.sync()
    assert log.take_expired(1000.0, 10) == []
    log.confirmed(2)
    assert log.confirmed_seq == 2
    assert log.take_expired(5000.0, 10) == []
    log.confirmed(4)
    assert log.take_expired(5009.0, 10) == []
    assert [path.name for path in log.take_expired(5010.0, 10)] == ["clicks-00000000.seg", "clicks-00000001.seg"]
    assert [path.name for path in log.take_expired(5019.0, 10)] == ["clicks-00000002.seg"]
    assert log.take_expired(9999.0, 10) == []  # the current segment stays
    assert log.file_bytes == SEGMENT_BYTES


async def test_segments_that_postgres_lost_again_are_kept_however_scarce_space_is() -> None:
    """After a restore they are the only copy: making room of them would lose the clicks for good."""
    fs = ModelFs()
    log = a_log(fs, max_bytes=5 * SEGMENT_BYTES)
    for _ in range(4):
        log.append([b"x" * 300])
    await log.sync()
    log.confirmed(4)
    assert log.take_expired(0.0, 1000, yields=False) == []  # seen as shipped; scarce, but money does not yield
    log.confirmed(1)
    assert [path.name for path in log.take_expired(500.0, 1000)] == ["clicks-00000000.seg"]
    assert log.confirmed_seq == 1
    log.confirmed(4)
    assert log.take_expired(2001.0, 1000, yields=False) == []  # their time begins anew
    assert [path.name for path in log.take_expired(2002.0, 1000)] == ["clicks-00000001.seg"]


async def test_a_segment_that_is_not_synced_stays_though_it_was_shipped() -> None:
    """Its descriptor is still to be synced, and a restore that loses commits would need it."""
    fs = ModelFs()
    log = a_log(fs)
    for _ in range(3):
        log.append([b"x" * 300])
    log.confirmed(3)
    assert log.take_expired(0.0, 0) == []
    await log.sync()
    assert len(log.take_expired(0.0, 0)) == 2


async def test_a_log_that_is_never_synced_keeps_no_rows_in_memory() -> None:
    """TRACKER_SYNC=off promises nothing beyond kill -9, and must cost nothing."""
    fs = ModelFs()
    log = a_log(fs, durable=False)
    for _ in range(3):
        log.append([b"x" * 300])
    assert log.unsynced_bytes == 0
    await log.sync()
    assert "fdatasync" not in fs.calls
    assert log.synced_seq == 3
    assert len(recover(fs)) == 3


def test_a_closed_log_refuses_rows() -> None:
    """A click after the drain must count as unlogged, not go into a spool that another process may own."""
    fs = ModelFs()
    log = a_log(fs)
    log.append([b"a"])
    log.close()
    with pytest.raises(SpoolUnavailable, match="closed"):
        log.append([b"b"])
    assert recover(fs) == {0: b"a"}


async def test_the_age_of_unsynced_rows_is_told() -> None:
    fs, clock = ModelFs(), Clock()
    log = a_log(fs, clock=clock)
    assert log.unsynced_seconds() == 0
    log.append([b"a"])
    clock.now += 2
    log.append([b"b"])
    assert log.unsynced_seconds() == 2
    await log.sync()
    clock.now += 2
    assert log.unsynced_seconds() == 0
    assert log.append([]) == 2
