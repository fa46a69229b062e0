"""Damage under a reader's eyes: bad sectors, lost headers, rows that move while they are read."""

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_fs import ModelFs
from spools import DIRECTORY, SPOOL_ID, a_log, failing, gaps, read_all, recover

from tracker.storage.spool import frame_window
from tracker.storage.spool.log import SpoolUnavailable
from tracker.storage.spool.reader import Gap, LogReader
from tracker.storage.spool.segments import DATA_START


class BadSector(ModelFs):
    """A disk with one byte that cannot be read."""

    def pread(self, fd: int, size: int, offset: int, /) -> bytes:
        if offset < DATA_START + 5000 < offset + size:
            raise OSError(errno.EIO, "bad sector")
        return super().pread(fd, size, offset)


async def test_a_live_reader_goes_on_when_rows_move_to_a_new_segment() -> None:
    """The shipper may be ahead of the disk: after the move it must neither see rows twice nor miss one."""
    fs = ModelFs()
    log = a_log(fs)
    reader = LogReader(DIRECTORY, "clicks", spool_id=SPOOL_ID, log=log, fs=fs)
    for row in (b"a", b"b", b"c"):
        log.append([row])
    assert read_all(reader) == {0: b"a", 1: b"b", 2: b"c"}
    fs.fault = failing("fdatasync", OSError(errno.EIO, "planned failure"))
    await log.sync()
    log.append([b"d"])
    assert read_all(reader, start=3) == {3: b"d"}
    assert read_all(reader, start=1) == {1: b"b", 2: b"c", 3: b"d"}


@pytest.mark.fault(15)
async def test_what_is_still_in_memory_is_no_gap_though_its_file_reads_as_zeros() -> None:
    """After a failed sync the kernel may drop what it could not write, and a new file may not be had at once: the shipper
    must wait for the rows, not count them as lost."""
    fs = ModelFs()
    log = a_log(fs)
    reader = LogReader(DIRECTORY, "clicks", spool_id=SPOOL_ID, log=log, fs=fs)
    log.append([b"a"])
    await log.sync()
    synced_end = log.written.offset
    log.append([b"b", b"c"])
    fd = fs.open_read(DIRECTORY / "clicks-00000000.seg")
    fs.pwrite(fd, bytes(log.written.offset - synced_end), synced_end)     # dropped
    assert (read_all(reader), gaps(reader)) == ({0: b"a"}, [])
    fs.fault = failing("fdatasync", *[OSError(errno.EIO, "planned failure")] * 2)
    with pytest.raises(SpoolUnavailable):
        await log.sync()
    assert (read_all(reader), gaps(reader)) == ({0: b"a", 1: b"b", 2: b"c"}, [])     # in the file that the second try made
    fs.fault = failing("")
    await log.sync()
    assert (read_all(reader), gaps(reader)) == ({0: b"a", 1: b"b", 2: b"c"}, [])


async def test_damage_in_a_live_log_is_a_gap_with_both_ends() -> None:
    """The shipper counts missing rows as quarantined; without an end it would wait for them for ever."""
    fs = ModelFs()
    log = a_log(fs)
    places = []
    for number in range(4):
        log.append([b"%d" % number, b"x"])
        places.append(log.written.offset)
    await log.sync()
    fd = fs.open_read(DIRECTORY / "clicks-00000000.seg")
    fs.pwrite(fd, b"\xff", places[0] + 30)  # in the second frame
    fs.pwrite(fd, b"\xff", places[2] + 30)  # in the last one
    reader = LogReader(DIRECTORY, "clicks", spool_id=SPOOL_ID, log=log, fs=fs)
    assert gaps(reader) == [(2, 4), (6, 8)]
    assert read_all(reader) == {0: b"0", 1: b"x", 4: b"2", 5: b"x"}


def test_a_segment_without_a_readable_header_is_a_gap() -> None:
    """Its rows cannot be trusted without their columns, but must be counted."""
    fs = ModelFs()
    log = a_log(fs)
    for _ in range(3):
        log.append([b"x" * 300])
    fd = fs.open_read(DIRECTORY / "clicks-00000001.seg")
    fs.pwrite(fd, bytes(DATA_START), 0)
    log.close()
    reader = LogReader(DIRECTORY, "clicks", spool_id=SPOOL_ID, fs=fs)
    assert gaps(reader) == [(1, 2)]
    assert reader.unreadable == ["clicks-00000001.seg"]
    found = reader.read(1, max_rows=1, max_bytes=1)
    assert isinstance(found, Gap)
    assert "clicks-00000002.seg" in found.where


async def test_writer_and_readers_give_every_descriptor_back() -> None:
    """Segments come by the thousand: one descriptor left open with each would stop the process at its limit."""
    fs = ModelFs()
    log = a_log(fs)
    readers = [LogReader(DIRECTORY, "clicks", spool_id=SPOOL_ID, log=log, fs=fs)]
    for _ in range(4):
        log.append([b"x" * 300])
        await log.sync()
        assert len(fs._open) <= 2       # the current segment's, and the reader's
        read_all(readers[0])
    log.close()
    readers.append(LogReader(DIRECTORY, "clicks", spool_id=SPOOL_ID, fs=fs))
    assert 4 == readers[1].end_seq()
    for reader in readers:
        reader.close()
    assert {} == fs._open


def test_a_sector_that_cannot_be_read_costs_only_the_rows_on_it() -> None:
    """One bad sector must not keep everything behind it, nor stop every start."""
    fs = BadSector()
    log = a_log(fs, segment_bytes=64 * 1024)
    for number in range(20):
        log.append([b"%02d" % number * 500])
    log.close()
    rows = recover(fs)
    assert set(range(20)) - set(rows) == {3, 4, 5, 6, 7}  # the page from 12,288 to 16,384, and what reaches into it
    assert all(row == b"%02d" % number * 500 for number, row in rows.items())


def test_a_window_with_one_readable_page_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """However small the window: only a whole one of which nothing can be read says that the disk is gone."""
    monkeypatch.setattr(frame_window, "WINDOW_BYTES", 8192)      # two pages
    fs = BadSector()
    log = a_log(fs, segment_bytes=64 * 1024)
    for number in range(20):
        log.append([b"%02d" % number * 500])
    log.close()
    lost = set(range(20)) - set(recover(fs))
    assert 4 in lost
    assert len(lost) <= 8      # what reaches into two pages


class Gone(ModelFs):
    """A disk that opens files and, while `gone`, reads nothing of them but their headers."""

    gone = True

    def pread(self, fd: int, size: int, offset: int, /) -> bytes:
        if self.gone and offset >= DATA_START:
            raise OSError(errno.EIO, "no such device")
        return super().pread(fd, size, offset)


def test_a_disk_that_is_gone_is_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Danger: what is skipped as damaged is never looked at again, and the disk comes back with every row."""
    monkeypatch.setattr(frame_window, "WINDOW_BYTES", 8192)
    fs = Gone()
    log = a_log(fs, segment_bytes=64 * 1024)
    for number in range(20):
        log.append([b"%02d" % number * 500])
    log.close()
    with pytest.raises(OSError, match="no such device"):
        recover(fs)
    fs.gone = False
    assert 20 == len(recover(fs))


@given(data=st.data(), window_bytes=st.integers(1, 120))
def test_the_window_size_makes_no_difference(data: st.DataObject, window_bytes: int) -> None:
    """A nonce that lies across two windows must be found: else a frame behind damage would be lost now and then."""
    fs = ModelFs()
    log = a_log(fs)
    for size in data.draw(st.lists(st.integers(0, 40), min_size=2, max_size=8)):
        log.append([b"x" * size])
    fd = fs.open_read(DIRECTORY / "clicks-00000000.seg")
    fs.pwrite(fd, b"\xff" * 3, DATA_START + data.draw(st.integers(0, 60)))
    log.close()
    expected = recover(fs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frame_window, "WINDOW_BYTES", window_bytes)
        assert recover(fs) == expected


def test_no_window_size_hides_what_follows_damage() -> None:
    """Each size that puts the end of a window somewhere else in a frame: at a nonce's first byte, inside it, behind it."""
    fs = ModelFs()
    log = a_log(fs)
    for size in (9, 30, 0, 17, 3):
        log.append([b"x" * size])
    fd = fs.open_read(DIRECTORY / "clicks-00000000.seg")
    for damaged in (DATA_START + 30, DATA_START + 100):
        fs.pwrite(fd, b"\xff", damaged)
    log.close()
    expected = {2: b"", 3: b"x" * 17, 4: b"xxx"}
    for window_bytes in range(1, 240):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(frame_window, "WINDOW_BYTES", window_bytes)
            assert expected == recover(fs), window_bytes


@pytest.mark.parametrize("steps", [[errno.ESTALE], [errno.EIO, errno.ESTALE]], ids=str)
def test_a_disk_that_is_gone_is_no_bad_sector(steps: list[int]) -> None:
    """Rows that cannot be read for another reason than damage are there all the same: the shipper tries again later."""
    fs = ModelFs()
    log = a_log(fs)
    log.append([b"a"])
    log.close()
    reader = LogReader(DIRECTORY, "clicks", spool_id=SPOOL_ID, fs=fs)
    fs.fault = failing("pread", *(OSError(step, "planned failure") for step in steps))
    with pytest.raises(OSError, match="planned failure") as raised:
        reader.read(0, max_rows=1, max_bytes=1)
    assert errno.ESTALE == raised.value.errno
    assert {0: b"a"} == read_all(reader)
