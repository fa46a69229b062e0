"""Rows go in and come out: whatever the frames, the batches and the damage."""

from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_fs import ModelFs
from spools import COLUMNS, DIRECTORY, SPOOL_ID, a_log, gaps, read_all, recover

from tracker.storage.spool.fsops import RealFs
from tracker.storage.spool.reader import Batch, LogReader
from tracker.storage.spool.segments import DATA_START, SegmentHeader, encode_header, pack_frame, pack_rows

FRAMES = st.lists(st.lists(st.binary(max_size=60), min_size=1, max_size=6), max_size=25)


@given(frames=FRAMES, max_rows=st.integers(1, 12), max_bytes=st.integers(1, 200))
def test_every_row_comes_back_once_and_in_order(frames: list[list[bytes]], max_rows: int, max_bytes: int) -> None:
    """The shipper sends what the reader gives: a row too many is paid twice, a row too few is lost."""
    fs = ModelFs()
    log = a_log(fs)
    firsts = [log.append(rows) for rows in frames]
    expected = dict(enumerate(row for rows in frames for row in rows))
    assert firsts == list(accumulate(map(len, frames), initial=0))[:-1]
    live = LogReader(DIRECTORY, "clicks", spool_id=SPOOL_ID, log=log, fs=fs)
    assert expected == read_all(live, max_rows=max_rows, max_bytes=max_bytes)
    log.close()
    dead = LogReader(DIRECTORY, "clicks", spool_id=SPOOL_ID, fs=fs)
    assert expected == read_all(dead, max_rows=max_rows, max_bytes=max_bytes)
    assert len(expected) == dead.end_seq()


@given(data=st.data(), frames=FRAMES)
def test_a_live_reader_follows_the_writer_from_any_number(data: st.DataObject, frames: list[list[bytes]]) -> None:
    """After an outage the cursor may go back, and the reader must never see past what the writer has finished."""
    fs = ModelFs()
    log = a_log(fs)
    reader = LogReader(DIRECTORY, "clicks", spool_id=SPOOL_ID, log=log, fs=fs)
    rows: list[bytes] = []
    for frame in frames:
        log.append(frame)
        rows += frame
        start = data.draw(st.integers(0, len(rows)))
        assert dict(enumerate(rows[start:], start)) == read_all(reader, start=start, max_rows=5)
    assert reader.read(len(rows), max_rows=1, max_bytes=1) is None


@given(frames=FRAMES, max_rows=st.integers(1, 12), max_bytes=st.integers(1, 200))
def test_a_batch_keeps_its_limits(frames: list[list[bytes]], max_rows: int, max_bytes: int) -> None:
    """Memory stays flat after an outage of hours only if a batch is bounded."""
    fs = ModelFs()
    log = a_log(fs)
    for rows in frames:
        log.append(rows)
    reader = LogReader(DIRECTORY, "clicks", spool_id=SPOOL_ID, log=log, fs=fs)
    next_seq = 0
    while (batch := reader.read(next_seq, max_rows=max_rows, max_bytes=max_bytes)) is not None:
        assert isinstance(batch, Batch)
        assert len(batch.lengths) <= max_rows
        assert len(batch.rows) <= max_bytes or len(batch.lengths) == 1
        next_seq = batch.next_seq


# Damage. A small log of two segments on a real file system: frames of known places, so that each byte has an owner.

NONCES = (0x1122334455667788, 0x99AABBCCDDEEFF01)
Placed = list[tuple[int, int, int, int, list[bytes]]]  # of each frame: segment, start, end, first number, rows
FRAME_ROWS = [[b"first", b"", b"third row"], [b"x" * 30], [b"4", b"5"], [b"six"], [b"seven" * 5, b"8"]]
SPLIT = 3  # frames 0 to 2 are in the first segment


def _write_log(directory: Path) -> tuple[list[Path], Placed]:
    files: list[Path] = []
    placed: Placed = []
    seq = 0
    for index, (nonce, frames) in enumerate(zip(NONCES, (FRAME_ROWS[:SPLIT], FRAME_ROWS[SPLIT:]), strict=True)):
        data = encode_header(SegmentHeader("clicks", SPOOL_ID, nonce, seq, COLUMNS))
        for rows in frames:
            frame = pack_frame(nonce, seq, len(rows), pack_rows(rows))
            placed.append((index, len(data), len(data) + len(frame), seq, rows))
            data, seq = data + frame, seq + len(rows)
        file = directory / f"clicks-{index:08d}.seg"
        file.write_bytes(data + bytes(300))
        files.append(file)
    return files, placed


def _rows_outside(placed: Placed, segment: int, start: int, end: int) -> dict[int, bytes]:
    """The rows of every frame that has no byte in [start, end) of a segment."""
    rows: dict[int, bytes] = {}
    for index, first, last, seq, frame in placed:
        if index != segment or last <= start or end <= first:
            rows.update(enumerate(frame, seq))
    return rows


def _read(directory: Path) -> tuple[dict[int, bytes], list[tuple[int, int]]]:
    reader = LogReader(directory, "clicks", spool_id=SPOOL_ID, fs=RealFs())
    found = read_all(reader), gaps(reader)
    reader.close()
    return found


@pytest.mark.fault(16)
def test_a_segment_cut_at_any_byte_gives_every_frame_before_the_cut(tmp_path: Path) -> None:
    """A crash cuts where it likes; nothing before the cut may be lost, nothing behind it made up."""
    files, placed = _write_log(tmp_path)
    for index, file in enumerate(files):
        whole = file.read_bytes()
        for size in range(len(whole) - 300, -1, -1):
            if 200 < size < DATA_START - 4096 or 4300 < size < DATA_START:
                continue  # the padding of the headers
            file.write_bytes(whole[:size])
            rows, lost = _read(tmp_path)
            expected = _rows_outside(placed, index, size if size >= 4096 else 0, 10**9)
            assert expected == rows
            missing = set(range(9)) - set(rows) if index == 0 else set()  # the end of the last segment proves nothing
            assert missing == {seq for first, end in lost for seq in range(first, end)}
        file.write_bytes(whole)


@pytest.mark.fault(16)
def test_a_flipped_bit_costs_its_own_frame_and_no_other(tmp_path: Path) -> None:
    """Disks flip bits. The frames behind it must be found again, and the damaged one must not be believed."""
    files, placed = _write_log(tmp_path)
    for index, file in enumerate(files):
        data = bytearray(file.read_bytes())
        for bit in range(DATA_START * 8, len(data) * 8):
            data[bit // 8] ^= 1 << bit % 8
            file.write_bytes(data)
            rows, lost = _read(tmp_path)
            assert _rows_outside(placed, index, bit // 8, bit // 8 + 1) == rows
            missing = set(range(max(rows))) - set(rows)  # the end of the last segment proves nothing
            assert missing == {seq for first, end in lost for seq in range(first, end)}
            data[bit // 8] ^= 1 << bit % 8
        file.write_bytes(data)


@pytest.mark.fault(16)
def test_a_flipped_bit_of_one_header_costs_nothing(tmp_path: Path) -> None:
    """The header says what the rows mean: without it a whole segment would be lost to one bit. So it stands there twice."""
    files, placed = _write_log(tmp_path)
    everything = dict(enumerate(row for *_, rows in placed for row in rows))
    for file in files:
        data = bytearray(file.read_bytes())
        for copy in (0, DATA_START // 2):
            length = len(data[copy : copy + DATA_START // 2].rstrip(b"\0"))
            assert 60 < length < 200
            for bit in range(copy * 8, (copy + length) * 8):
                data[bit // 8] ^= 1 << bit % 8
                file.write_bytes(data)
                assert (everything, []) == _read(tmp_path)
                data[bit // 8] ^= 1 << bit % 8
        file.write_bytes(data)


OVERWRITES = st.lists(st.tuples(st.integers(0, 1), st.integers(DATA_START, DATA_START + 500), st.binary(max_size=80)), max_size=5)


@pytest.mark.fault(16)
@settings(max_examples=200)
@given(OVERWRITES)
def test_overwritten_ranges_never_invent_a_row(cuts: list[tuple[int, int, bytes]]) -> None:
    """Any garbage anywhere: what is read is a subset of what was written, and the reader ends."""
    fs = ModelFs()
    fs.mkdir(DIRECTORY, parents=True)
    seq = 0
    for index, (nonce, frames) in enumerate(zip(NONCES, (FRAME_ROWS[:SPLIT], FRAME_ROWS[SPLIT:]), strict=True)):
        fd = fs.open_new(DIRECTORY / f"clicks-{index:08d}.seg")
        data = encode_header(SegmentHeader("clicks", SPOOL_ID, nonce, seq, COLUMNS))
        for rows in frames:
            data += pack_frame(nonce, seq, len(rows), pack_rows(rows))
            seq += len(rows)
        fs.pwrite(fd, data, 0)
        for segment, offset, garbage in cuts:
            if segment == index:
                fs.pwrite(fd, garbage, offset)
    written = dict(enumerate(row for rows in FRAME_ROWS for row in rows))
    assert recover(fs).items() <= written.items()


def test_a_row_that_holds_frames_of_other_segments_stays_a_row() -> None:
    """What a visitor sends is stored in rows: with a marker he could know, he could write clicks himself."""
    fs = ModelFs()
    log = a_log(fs)
    forged = pack_frame(NONCES[0], 0, 1, pack_rows([b"forged"]))
    header = encode_header(SegmentHeader("clicks", SPOOL_ID, NONCES[0], 0, COLUMNS))
    rows = [forged, header[:200], forged * 3, b"\0" * 40]
    for row in rows:
        log.append([row])
    log.close()
    for path in fs.listdir(DIRECTORY):  # damage the first byte of each frame: the search for the next begins inside it
        fd = fs.open_read(DIRECTORY / path)
        fs.pwrite(fd, b"\0", DATA_START)
    assert recover(fs).items() <= dict(enumerate(rows)).items()


def test_a_frame_copied_to_another_place_of_its_segment_is_read_once(tmp_path: Path) -> None:
    """A disk that writes a block twice must not make a click twice."""
    files, placed = _write_log(tmp_path)
    whole = files[0].read_bytes()
    _, start, end, _, _ = placed[0]
    files[0].write_bytes(whole[: len(whole) - 300] + whole[start:end] + bytes(100))
    rows, lost = _read(tmp_path)
    assert dict(enumerate(row for frame in FRAME_ROWS for row in frame)) == rows
    assert lost == []


def test_segments_of_another_spool_are_ignored(tmp_path: Path) -> None:
    """A file copied in from another spool has sequence numbers of its own."""
    _write_log(tmp_path)
    header = SegmentHeader("clicks", SPOOL_ID + 1, 5, 0, COLUMNS)
    (tmp_path / "clicks-00000007.seg").write_bytes(encode_header(header) + pack_frame(5, 0, 1, pack_rows([b"foreign"])))
    rows, lost = _read(tmp_path)
    assert dict(enumerate(row for frame in FRAME_ROWS for row in frame)) == rows
    assert lost == []
