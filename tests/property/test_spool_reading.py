"""How much a reader gives at once, what it says of what is missing, and how little it looks at for it."""

import asyncio
import errno
from itertools import product
from pathlib import Path

import pytest
from model_fs import LandedError, ModelFs
from spools import COLUMNS, DIRECTORY, SPOOL_ID, a_log, gaps, recover, rows_of

from tracker.storage.spool import frame_window
from tracker.storage.spool.log import Log, SpoolUnavailable
from tracker.storage.spool.reader import SEEK_FRAMES, Batch, Gap, LogReader, chain
from tracker.storage.spool.segments import DATA_START, SegmentHeader, encode_header, frame_is_whole, segment_name

ROWS = [b"aaa", b"b", b"cc", b"dddd", b"e", b"ff"]


class Counting(ModelFs):
    """Counts looks into directories."""

    looks = 0

    def listdir(self, path: Path) -> list[str]:
        self.looks += 1
        return super().listdir(path)


def reader_of(fs: ModelFs, log: Log | None = None) -> LogReader:
    return LogReader(DIRECTORY, "clicks", spool_id=SPOOL_ID, log=log, fs=fs)


def what_fits(start: int, max_rows: int, max_bytes: int) -> list[bytes]:
    """The first row, and those behind it while rows and bytes allow."""
    taken = [ROWS[start]]
    for row in ROWS[start + 1 :]:
        if len(taken) == max_rows or sum(map(len, taken)) + len(row) > max_bytes:
            break
        taken.append(row)
    return taken


@pytest.mark.parametrize("cuts", [[], [3], [1, 2, 4], [1, 2, 3, 4, 5]], ids=str)
def test_a_batch_is_as_large_as_its_limits_allow(cuts: list[int]) -> None:
    """Whatever the frames. Half as much would be twice as many transactions while a backlog of hours is shipped."""
    fs = ModelFs()
    log = a_log(fs)
    for first, end in zip([0, *cuts], [*cuts, len(ROWS)], strict=True):
        log.append(ROWS[first:end])
    for start, max_rows, max_bytes in product(range(len(ROWS)), range(1, 8), range(1, 15)):
        found = reader_of(fs, log).read(start, max_rows=max_rows, max_bytes=max_bytes)
        assert isinstance(found, Batch)
        assert what_fits(start, max_rows, max_bytes) == rows_of(found), (start, max_rows, max_bytes)
        assert COLUMNS == found.columns


def test_a_reader_that_was_closed_reads_on_where_it_was() -> None:
    """Its descriptor is given back, and by then another file may have the number."""
    fs = ModelFs()
    log = a_log(fs)
    log.append(ROWS)
    reader = reader_of(fs, log)
    before, opened = reader.read(2, max_rows=1, max_bytes=1), len(fs._open)
    reader.close()
    assert opened - 1 == len(fs._open)
    fs.close(fs.open_read(DIRECTORY / segment_name("clicks", 0)))
    assert before == reader.read(2, max_rows=1, max_bytes=1)
    reader.close()
    reader.close()
    assert opened - 1 == len(fs._open)


def test_a_log_without_rows_has_an_end_and_a_reader_of_it_something_to_say() -> None:
    """A worker that was killed before its first click: its spool has segments, and nothing in them."""
    fs = ModelFs()
    log = a_log(fs)
    unread = reader_of(fs, log)
    assert ([], [], 0, 0) == (unread.segments, unread.unreadable, unread.first_seq, unread.end_seq())
    log.prepare()
    dead = reader_of(fs)
    assert (1, 0, 0, None) == (len(dead.segments), dead.first_seq, dead.end_seq(), dead.read(0, max_rows=1, max_bytes=1))


def test_segments_count_up_to_the_first_number_of_every_later_one() -> None:
    def header(first_seq: int) -> SegmentHeader:
        return SegmentHeader("clicks", SPOOL_ID, 1, first_seq, COLUMNS)

    headers = {index: header(first_seq) for index, first_seq in ((3, 9), (0, 0), (2, 5), (1, 5))}
    assert [(0, 0, 5), (2, 5, 9), (3, 9, None)] == [(link.index, link.header.first_seq, link.end_seq) for link in chain(headers)]
    assert [] == chain({})


def test_a_whole_frame_of_refused_rows_behind_a_segments_end_is_void() -> None:
    """The write failed though its bytes came to the disk, which cannot even be cut: who was refused must not turn up."""
    fs = ModelFs()
    log = a_log(fs)
    log.append([b"good"])

    def fault(name: str, _path: Path) -> None:
        if name == "pwrite":
            raise LandedError(errno.EIO, "planned failure")
        if name == "ftruncate":
            raise OSError(errno.EIO, "planned failure")

    fs.fault = fault
    with pytest.raises(SpoolUnavailable):
        log.append([b"refused"])
    fs.fault = lambda _name, _path: None
    log.append([b"next"])
    assert {0: b"good", 1: b"next"} == recover(fs)


def test_what_is_missing_is_told_with_its_place() -> None:
    """A person looks there: in front of a segment, in front of a frame, or at the end of what was written."""
    fs = ModelFs()
    log = a_log(fs, segment_bytes=DATA_START + 436)     # three frames
    places = []
    for size in (300, 20, 20, 300, 20, 20):
        log.append([b"x" * size])
        places.append((log.written.segment, log.written.offset))
    asyncio.run(log.sync())
    assert [0, 0, 0, 1, 1, 1] == [segment for segment, _ in places]
    for segment, offset in (places[0], places[1], (1, DATA_START), places[4]):
        fs.pwrite(fs.open_read(DIRECTORY / f"clicks-{segment:08d}.seg"), b"\xff", offset + 30)
    reader = reader_of(fs, log)
    found = [reader.read(seq, max_rows=9, max_bytes=999) for seq in (1, 2, 3, 5)]
    assert [
        Gap(1, 3, "before clicks-00000001.seg"), Gap(2, 3, "before clicks-00000001.seg"),
        Gap(3, 4, f"clicks-00000001.seg before {places[3][1]}"), Gap(5, 6, f"clicks-00000001.seg at {places[5][1]}"),
    ] == found


def test_a_segment_that_was_pruned_is_missed_once() -> None:
    """A restore took the mark back to before it. What is left must go on now, not when the next segment is made."""
    fs = ModelFs()
    log = a_log(fs, segment_bytes=DATA_START + 436)     # three frames
    for size in (300, 20, 20, 300, 20, 20):
        log.append([b"x" * size])
    asyncio.run(log.sync())
    reader = reader_of(fs, log)
    assert isinstance(reader.read(3, max_rows=9, max_bytes=999), Batch)
    fs.unlink(DIRECTORY / "clicks-00000000.seg")
    with pytest.raises(FileNotFoundError):
        reader.read(0, max_rows=9, max_bytes=999)
    assert Gap(0, 3, "before clicks-00000001.seg") == reader.read(0, max_rows=9, max_bytes=999)


def test_a_segment_in_the_making_is_not_looked_at() -> None:
    """Its header may be there before the writer counts on it: rows of the old one would go unread."""
    fs = ModelFs()
    log = a_log(fs)
    log.append([b"a"])
    reader = reader_of(fs, log)
    for index, kind in ((1, "clicks"), (0, "journal")):
        fd = fs.open_new(DIRECTORY / f"{kind}-{index:08d}.seg")
        fs.pwrite(fd, encode_header(SegmentHeader("clicks", SPOOL_ID, 5, 0, COLUMNS)), 0)
    found = reader.read(0, max_rows=9, max_bytes=999)
    assert isinstance(found, Batch)
    assert ([b"a"], 1, []) == (rows_of(found), len(reader.segments), reader.unreadable)


def test_a_file_with_the_header_of_another_log_is_unreadable() -> None:
    fs = ModelFs()
    log = a_log(fs)
    log.append([b"a"])
    log.close()
    fd = fs.open_new(DIRECTORY / "clicks-00000007.seg")
    fs.pwrite(fd, encode_header(SegmentHeader("journal", SPOOL_ID, 5, 1, COLUMNS)), 0)
    reader = reader_of(fs)
    assert (["clicks-00000007.seg"], 1, []) == (reader.unreadable, reader.end_seq(), gaps(reader))


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The places of the frames whose checksum was computed."""
    places: list[int] = []

    def counting(data: memoryview, at: int) -> bool:
        places.append(at)
        return frame_is_whole(data, at)

    monkeypatch.setattr(frame_window, "frame_is_whole", counting)
    return places


def test_reading_on_and_reading_again_look_at_no_more_than_the_frame_before(judged: list[int]) -> None:
    """From the start of the segment each time, shipping it would take a time that grows with its square."""
    fs = Counting()
    log = a_log(fs, segment_bytes=2**20)
    for _ in range(100):
        log.append([b"x"])
    reader = reader_of(fs, log)
    for seq in range(100):
        for _ in range(2):
            judged.clear()
            assert reader.read(seq, max_rows=1, max_bytes=99) is not None
            assert len(judged) <= 2
    assert 1 == fs.looks


@pytest.mark.parametrize("dead", [False, True])
async def test_after_a_seek_a_read_looks_at_the_frame_it_gives_and_at_no_other(judged: list[int], dead: bool) -> None:
    fs = ModelFs()
    log = a_log(fs, segment_bytes=2**16)
    rows = 5 * SEEK_FRAMES
    for _ in range(rows // 2):
        log.append([b"x" * 100, b"y" * 100])
    if dead:
        log.close()
    reader = reader_of(fs, None if dead else log)
    assert len(fs.listdir(DIRECTORY)) > 1
    second = reader.segments[1].header.first_seq if dead else None
    for seq in (rows - 1, 1, 3 * SEEK_FRAMES, 0, *([second, second - 1] if second else [])):
        await reader.seek(seq)
        judged.clear()
        found = reader.read(seq, max_rows=1, max_bytes=999)
        assert isinstance(found, Batch)
        assert [b"xy"[seq % 2 : seq % 2 + 1] * 100] == rows_of(found)
        assert 1 == len(judged), seq
    await reader.seek(rows)
    assert reader.read(rows, max_rows=1, max_bytes=999) is None
