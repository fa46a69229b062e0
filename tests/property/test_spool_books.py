"""What a log keeps account of, to the byte: room in segments, space, memory, descriptors, tries."""

import errno
import secrets
from pathlib import Path

import pytest
from model_fs import ModelFs
from spools import DIRECTORY, SEGMENT_BYTES, SPOOL_ID, Clock, a_log, always, failing, read_all, recover

from tracker.storage.spool.log import RETRY_SECONDS, SYNCS_REMEMBERED, UNSYNCED_MAX_BYTES, SpoolUnavailable, Written
from tracker.storage.spool.reader import LogReader
from tracker.storage.spool.segments import DATA_START, FRAME_HEADER_BYTES, parse_header
from tracker.storage.spool.space import Space

AROUND = FRAME_HEADER_BYTES + 4     # bytes of a frame of one row, but for the row
ROOM = SEGMENT_BYTES - DATA_START
EIO = OSError(errno.EIO, "planned failure")


def files_of(fs: ModelFs) -> dict[str, int]:
    return {name: fs.file_size(fs.open_read(DIRECTORY / name)) for name in fs.listdir(DIRECTORY)}


def after_a_power_cut(fs: ModelFs) -> dict[int, bytes]:
    """The rows that are there when nothing survives but what was synced."""
    at = len(fs.ops)
    return recover(fs.after_crash(at, [None] * len(fs.unsafe(at))))


async def test_a_log_that_could_make_no_segment_is_empty_and_leaves_no_file() -> None:
    """An edge starts on a full disk: it must begin to count at 0 when there is room, and close without a trace."""
    fs, clock = ModelFs(), Clock()
    fs.fault = always("fallocate", errno.ENOSPC)
    log = a_log(fs, clock=clock)
    assert (True, 0, 0, 0, 0.0) == (log.healthy, log.write_errors, log.fsync_errors, log.unsynced_bytes, log.unsynced_seconds())
    with pytest.raises(SpoolUnavailable):
        log.prepare()
    assert (Written(0, 0, 0), 0, 0) == (log.written, log.lost_below, log.file_bytes)
    reader = LogReader(DIRECTORY, "clicks", spool_id=SPOOL_ID, log=log, fs=fs)
    assert (None, 0) == (reader.read(0, max_rows=1, max_bytes=1), reader.first_seq)
    fs.fault = failing("")
    log.close()
    log.close()
    assert ([], {}) == (fs.listdir(DIRECTORY), fs._open)


def test_sixty_four_megabytes_may_wait_for_the_disk() -> None:
    """Less, and a slow disk costs clicks; more, and it costs the worker its memory."""
    log = a_log(ModelFs(), unsynced_max_bytes=UNSYNCED_MAX_BYTES)
    for _ in range(64):
        log.append([bytes(2**20)])
    with pytest.raises(SpoolUnavailable, match="does not sync"):
        log.append([b"one more"])


def test_the_first_try_is_made_at_once_whatever_the_clock_says() -> None:
    """A steady clock begins anywhere, also at 0."""
    clock = Clock()
    clock.now = 0.0
    log = a_log(ModelFs(), clock=clock)
    assert 0 == log.append([b"a"])


def test_a_frame_that_just_fits_stays_in_its_segment() -> None:
    fs = ModelFs()
    log = a_log(fs)
    log.append([b"x" * (ROOM - AROUND)])
    assert {"clicks-00000000.seg": SEGMENT_BYTES} == files_of(fs)
    log.append([b""])
    assert ["clicks-00000000.seg", "clicks-00000001.seg"] == fs.listdir(DIRECTORY)


async def test_a_frame_beyond_a_segments_size_gets_one_of_its_own_size() -> None:
    """And what it takes is what it gives back."""
    fs = ModelFs()
    log = a_log(fs)
    for size in (3 * ROOM, 0, ROOM, 0):
        log.append([b"x" * size])
    expected = [DATA_START + AROUND + 3 * ROOM, SEGMENT_BYTES, DATA_START + AROUND + ROOM, SEGMENT_BYTES]
    assert expected == list(files_of(fs).values())
    assert sum(expected) == log.file_bytes == log._space.used_bytes
    await log.sync()
    log.confirmed(2)
    assert 2 == len(log.take_expired(0.0, 0))
    assert sum(expected[2:]) == log.file_bytes == log._space.used_bytes


async def test_a_segment_that_carries_rows_has_room_for_them_and_the_new_one() -> None:
    fs = ModelFs()
    log = a_log(fs)
    for _ in range(3):
        log.append([b"x" * 300])
    fs.fault = failing("fdatasync", EIO)
    await log.sync()
    carried = 3 * (AROUND + 300)
    assert (3, Written(3, DATA_START + carried, 3)) == (log.synced_seq, log.written)
    assert DATA_START + carried == files_of(fs)["clicks-00000003.seg"]
    assert 4 * SEGMENT_BYTES - ROOM + carried == log.file_bytes == log._space.used_bytes
    log.confirmed(3)
    assert 3 == len(log.take_expired(0.0, 0))


def test_the_limit_of_memory_may_be_reached_and_not_passed_by_more_than_a_frame() -> None:
    log = a_log(ModelFs(), unsynced_max_bytes=AROUND + 100)
    for _ in range(2):
        log.append([b"x" * 100])
    with pytest.raises(SpoolUnavailable, match="does not sync"):
        log.append([b"x" * 100])
    assert (2, 2 * (AROUND + 100), 0) == (log.next_seq, log.unsynced_bytes, log.write_errors)


def test_a_segment_that_could_not_be_made_nor_removed_is_told_by_the_first_reason() -> None:
    """What is left of it has no header and counts for nothing; the next one has another number."""
    fs, clock = ModelFs(), Clock()
    log = a_log(fs, clock=clock)

    def fault(name: str, _path: Path) -> None:
        if name in ("fallocate", "unlink"):
            raise OSError(errno.EIO, name)

    fs.fault = fault
    with pytest.raises(SpoolUnavailable, match="no new segment: fallocate"):
        log.append([b"a"])
    assert (0, {}) == (log._space.used_bytes, fs._open)
    fs.fault = failing("")
    clock.now += RETRY_SECONDS
    assert 0 == log.append([b"b"])
    assert (["clicks-00000000.seg", "clicks-00000001.seg"], {0: b"b"}) == (fs.listdir(DIRECTORY), recover(fs))


async def test_every_descriptor_is_given_back_whatever_failed() -> None:
    """Segments come by the thousand: one left open with each would stop the process at its limit."""
    fs, clock = ModelFs(), Clock()
    log = a_log(fs, clock=clock)
    for fault in (("pwrite", EIO), ("fallocate", EIO), ("fdatasync", EIO), ("fdatasync", EIO, EIO)):
        log.append([b"x" * 300])
        fs.fault = failing(fault[0], *fault[1:])
        for _ in range(2):
            clock.now += 1
            try:
                log.append([b"x" * 300])
                await log.sync()
            except SpoolUnavailable:
                pass
        fs.fault = failing("")
        clock.now += 1
        await log.sync()
        assert 1 == len(fs._open), fault
    log.close()
    assert {} == fs._open


async def test_a_failed_sync_is_tried_once_more_and_then_told() -> None:
    fs = ModelFs()
    log = a_log(fs)
    log.append([b"a"])
    fs.fault = always("fdatasync", errno.EIO)
    with pytest.raises(SpoolUnavailable):
        await log.sync()
    assert (2, 2, 0) == (fs.calls["fdatasync"], log.fsync_errors, log.write_errors)


async def test_rows_that_have_no_file_to_go_to_wait_and_their_sync_says_so() -> None:
    """The sync failed, and the new file cannot be made: nothing may be called safe, nobody may wait for ever."""
    fs, clock = ModelFs(), Clock()
    log = a_log(fs, clock=clock)
    log.append([b"a"])
    fs.fault = lambda name, path: (always("fdatasync", errno.EIO)(name, path), always("fallocate", errno.ENOSPC)(name, path))[0]
    for _ in range(2):
        with pytest.raises(SpoolUnavailable, match="no new segment"):
            await log.sync()
        clock.now += RETRY_SECONDS
    assert (0, AROUND + 1, 1, 2) == (log.synced_seq, log.unsynced_bytes, log.fsync_errors, log.write_errors)
    fs.fault = failing("")
    await log.sync()
    assert (1, 0, True) == (log.synced_seq, log.unsynced_bytes, log.healthy)
    assert {0: b"a"} == after_a_power_cut(fs)


@pytest.mark.parametrize("room", [True, False])
async def test_closing_makes_durable_what_could_not_be_before(room: bool) -> None:
    """The last chance: a moment ago there was no room for a new file, now there may be."""
    fs = ModelFs()
    log = a_log(fs)
    log.append([b"a"])
    fs.fault = lambda name, path: (failing("fdatasync", EIO)(name, path), always("fallocate", errno.ENOSPC)(name, path))[0]
    with pytest.raises(SpoolUnavailable):
        await log.sync()
    if room:
        fs.fault = failing("")
    log.close()
    assert ({0: b"a"} if room else {}) == after_a_power_cut(fs)
    assert (int(room), {}) == (log.synced_seq, fs._open)
    assert {0: b"a"} == recover(fs)


def test_closing_gives_room_back_and_counts_a_sync_that_fails() -> None:
    fs = ModelFs()
    log = a_log(fs)
    log.append([b"a"])
    end = log.written.offset
    fs.fault = always("fdatasync", errno.EIO)
    log.close()
    assert {"clicks-00000000.seg": end} == files_of(fs)
    assert (1, 0) == (log.fsync_errors, log.synced_seq)


async def test_a_write_that_fails_on_a_disk_that_cannot_even_cut_costs_its_own_rows() -> None:
    """A whole frame may stay behind the end; it is void, for the next segment begins at its number."""
    fs = ModelFs()
    log = a_log(fs)
    log.append([b"good"])
    fs.fault = lambda name, path: (failing("pwrite", EIO)(name, path), always("ftruncate", errno.EIO)(name, path))[0]
    with pytest.raises(SpoolUnavailable, match="planned failure"):
        log.append([b"refused"])
    fs.fault = failing("")
    assert 1 == log.append([b"next"])
    await log.sync()
    assert {0: b"good", 1: b"next"} == recover(fs)


class BadClose(ModelFs):
    """A disk that complains once more when a file is closed."""

    def close(self, fd: int) -> None:
        super().close(fd)
        if self.fault is not _no_fault:
            raise EIO


def _no_fault(_name: str, _path: Path) -> None:
    return None


async def test_errors_of_closing_mean_nothing() -> None:
    fs = BadClose()
    fs.fault = _no_fault
    log = a_log(fs)
    log.append([b"a"])
    fs.fault = failing("fdatasync", EIO)
    await log.sync()
    assert (1, 1) == (log.synced_seq, log.fsync_errors)
    fs.fault = always("fallocate", errno.ENOSPC)
    with pytest.raises(SpoolUnavailable, match="no new segment"):
        log.append([b"x" * SEGMENT_BYTES])
    fs.fault = _no_fault
    assert {0: b"a"} == recover(fs)


def test_a_nonce_is_any_number_of_64_bits_but_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of fewer, a visitor could guess one, and write frames into his click."""
    for drawn, nonce in ((0, 1), (2**64 - 2, 2**64 - 1)):
        monkeypatch.setattr(secrets, "randbelow", lambda below, drawn=drawn: drawn if below == 2**64 - 1 else 77)
        fs = ModelFs()
        a_log(fs).prepare()
        header = parse_header(fs.pread(fs.open_read(DIRECTORY / "clicks-00000000.seg"), DATA_START, 0))
        assert header is not None
        assert nonce == header.nonce


def test_space_is_scarce_when_more_than_half_is_used() -> None:
    space = Space(ModelFs(), DIRECTORY, 10)
    scarce = []
    for _ in range(10):
        space.take(1)
        scarce.append(space.scarce)
    assert [False] * 5 + [True] * 5 == scarce
    with pytest.raises(OSError, match="TRACKER_SPOOL_MAX_BYTES=10 is used up"):
        space.take(1)
    space.give(10)
    assert 0 == space.used_bytes


async def test_confirming_the_same_again_does_not_begin_a_segments_time_anew() -> None:
    """The shipper confirms with every batch: kept for 24 h from the first time, not for ever."""
    fs = ModelFs()
    log = a_log(fs)
    for _ in range(3):
        log.append([b"x" * 300])
    await log.sync()
    log.confirmed(2)
    assert [] == log.take_expired(0.0, 10)
    log.confirmed(2)
    assert 2 == len(log.take_expired(10.0, 10))
    log.confirmed(99)
    assert 3 == log.confirmed_seq
    assert {2: b"x" * 300} == read_all(LogReader(DIRECTORY, "clicks", spool_id=SPOOL_ID, log=log, fs=fs), start=2)


async def test_how_long_the_disk_took_is_told_of_syncs_that_came_through() -> None:
    """With TRACKER_SYNC=always visitors wait for the disk: who operates it must see how long, and not of a failed try."""
    fs, clock = ModelFs(), Clock()
    log = a_log(fs, clock=clock)
    syncs = iter([(0.25, True), (2.0, False), (0.5, True)])

    def slow(called: str, _at: Path) -> None:
        if called == "fdatasync":
            took, well = next(syncs)
            clock.now += took
            if not well:
                raise EIO

    fs.fault = slow
    for _ in range(2):
        log.append([b"row"])
        await log.sync()
    fs.fault = lambda _name, _path: None
    assert ([0.25, 0.5], 1) == (list(log.sync_seconds), log.fsync_errors)
    assert SYNCS_REMEMBERED == log.sync_seconds.maxlen      # nobody may fetch them
    log.close()


async def test_no_time_is_told_of_a_log_that_is_never_synced() -> None:
    log = a_log(ModelFs(), durable=False)
    log.append([b"row"])
    await log.sync()
    assert [] == list(log.sync_seconds)
    log.close()
