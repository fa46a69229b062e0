"""A place far from the last one read is found in small steps: a failover moves marks back while clicks are answered."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import pytest
from shipping import click_row

from tracker.storage.clicks.rows import CLICK_COLUMNS
from tracker.storage.spool import frame_window
from tracker.storage.spool.reader import SEEK_FRAMES, TURN_FRAMES, Batch, Gap, LogReader
from tracker.storage.spool.segments import DATA_START, frame_is_whole, segment_name
from tracker.storage.spool.spool import Spool

ROWS = 6 * SEEK_FRAMES + 7


@contextmanager
def written(root: Path, rows: list[bytes], *, segment_bytes: int = 2**22) -> Iterator[Spool]:
    """A live spool with a frame for each row."""
    spool = Spool.create(
        root, spool_id=7, worker=1, clicks=CLICK_COLUMNS, max_bytes=2**30, sync="off", clicks_segment_bytes=segment_bytes
    )
    try:
        for row in rows:
            spool.clicks.append([row])
        yield spool
    finally:
        spool.close()


async def test_what_is_read_after_a_seek_is_what_is_read_without(tmp_path: Path) -> None:
    """From either side, in either of two segments, and where nothing is yet."""
    rows = [click_row() for _ in range(ROWS)]
    with written(tmp_path, rows, segment_bytes=2**18) as spool:
        for seq in (0, 1, SEEK_FRAMES - 1, SEEK_FRAMES, 3 * SEEK_FRAMES + 3, ROWS - 1, ROWS):
            for before in (0, ROWS - 1):
                reader = LogReader(spool.path, "clicks", spool_id=7, log=spool.clicks)
                reader.read(before, max_rows=1, max_bytes=1)
                await reader.seek(seq)
                found = reader.read(seq, max_rows=1, max_bytes=1)
                assert (rows[seq] if seq < ROWS else None) == (found.rows if isinstance(found, Batch) else None)
                reader.close()
        assert len(reader.segments) > 1


async def test_a_seek_gives_others_their_turn(tmp_path: Path) -> None:
    """One turn for every so many frames: in one go a full segment would hold up every click for 0.2 s."""
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    with written(tmp_path, [click_row() for _ in range(ROWS)]) as spool:
        reader = LogReader(spool.path, "clicks", spool_id=7, log=spool.clicks)
        other = asyncio.create_task(take_turns())
        await reader.seek(ROWS - 1)
        other.cancel()
        assert turns >= ROWS // SEEK_FRAMES
        reader.close()


async def test_a_place_whose_row_is_gone_is_read_as_the_gap_that_it_is(tmp_path: Path) -> None:
    """A bad sector in the middle of a segment, a segment that a person deleted: seeking there is no error, and hides nothing."""
    rows = [click_row() for _ in range(ROWS)]
    with written(tmp_path, rows, segment_bytes=2**18) as spool:
        live = LogReader(spool.path, "clicks", spool_id=7, log=spool.clicks)
        live.read(0, max_rows=1, max_bytes=1)
        first, second = live.segments[:2]
        live.close()
        file = spool.path / segment_name("clicks", first.index)
        data = bytearray(file.read_bytes())
        lost = second.header.first_seq // 2
        frames = (len(bytes(data).rstrip(b"\0")) - DATA_START) // second.header.first_seq
        data[DATA_START + lost * frames + frames // 2] ^= 1
        file.write_bytes(data)
        reader = LogReader(spool.path, "clicks", spool_id=7)
        await reader.seek(lost)
        found = reader.read(lost, max_rows=1, max_bytes=1)
        assert isinstance(found, Gap)
        assert lost < found.next_seq
        reader.close()
        file.unlink()
        reader = LogReader(spool.path, "clicks", spool_id=7)
        await reader.seek(0)
        found = reader.read(0, max_rows=1, max_bytes=1)
        assert isinstance(found, Gap)
        assert second.header.first_seq == found.next_seq
        reader.close()


async def test_what_is_gathered_is_what_is_read_at_once(tmp_path: Path) -> None:
    """Within its limits, over segments, from anywhere; and read again from there, it is the same."""
    rows = [click_row() for _ in range(12 * TURN_FRAMES)]
    with written(tmp_path, rows, segment_bytes=2**15) as spool:
        reader = LogReader(spool.path, "clicks", spool_id=7, log=spool.clicks)
        rooms = 1, 5000, len(b"".join(rows[: TURN_FRAMES + 1])), 10**6
        for seq, most, room in product((0, 1, TURN_FRAMES, 3 * TURN_FRAMES + 7), (1, TURN_FRAMES + 1, 10**6), rooms):
            for _ in range(2):
                found = await reader.gather(seq, max_rows=most, max_bytes=room)
                assert isinstance(found, Batch)
                want = rows[seq : found.next_seq]
                assert (b"".join(want), [len(row) for row in want], seq) == (found.rows, list(found.lengths), found.first_seq)
                assert list(enumerate(want, seq)) == list(found.numbered())
                size = len(found.rows)
                assert len(want) == 1 or (len(want) <= most and size <= room)
                assert found.next_seq == len(rows) or len(want) == most or size + len(rows[found.next_seq]) > room
        assert len(reader.segments) > 1
        assert await reader.gather(len(rows), max_rows=1, max_bytes=1) is None


async def test_a_gap_ends_what_is_gathered_and_is_told_next(tmp_path: Path) -> None:
    rows = [click_row() for _ in range(3 * TURN_FRAMES)]
    with written(tmp_path, rows) as spool:
        reader = LogReader(spool.path, "clicks", spool_id=7, log=spool.clicks)
        reader.read(2 * TURN_FRAMES + 5, max_rows=1, max_bytes=1)
        (_, _, at), _ = reader._marks
        with (spool.path / segment_name("clicks", 0)).open("r+b") as segment:
            segment.seek(at)
            segment.write(bytes(8))
        reader.close()
        found = await reader.gather(0, max_rows=10**6, max_bytes=10**6)
        assert isinstance(found, Batch)
        assert 2 * TURN_FRAMES + 5 == found.next_seq


async def test_gathering_gives_others_their_turn_wherever_they_read_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look at the oldest row that waits, once a second, must not send the reader back to the start of the segment."""
    frames, start = 40 * TURN_FRAMES, 20 * TURN_FRAMES
    turns = judged = 0

    def judge(data: memoryview, at: int) -> bool:
        nonlocal judged
        judged += 1
        return frame_is_whole(data, at)

    monkeypatch.setattr(frame_window, "frame_is_whole", judge)
    with written(tmp_path, [click_row() for _ in range(frames)]) as spool:
        reader = LogReader(spool.path, "clicks", spool_id=7, log=spool.clicks)

        async def look() -> None:
            nonlocal turns
            while True:
                reader.read(start, max_rows=1, max_bytes=1)
                await asyncio.sleep(0)
                turns += 1

        await reader.seek(start)
        judged = 0
        other = asyncio.create_task(look())
        found = await reader.gather(start, max_rows=frames, max_bytes=2**30)
        other.cancel()
        assert isinstance(found, Batch)
        assert frames - start == len(found.lengths)
        assert 0 <= len(found.lengths) // TURN_FRAMES - turns <= 2
        assert judged <= len(found.lengths) + 3 * turns
        assert reader.read(start, max_rows=1, max_bytes=1) is not None
        assert judged <= len(found.lengths) + 3 * turns + 2


async def test_what_comes_while_it_is_gathered_is_left_for_the_next_time(tmp_path: Path) -> None:
    """Clicks come with every turn of the event loop: after them a gathering would run, a frame a turn, for as long as they do."""
    with written(tmp_path, [click_row() for _ in range(3 * TURN_FRAMES)]) as spool:
        reader = LogReader(spool.path, "clicks", spool_id=7, log=spool.clicks)
        gathering = asyncio.create_task(reader.gather(TURN_FRAMES, max_rows=10**6, max_bytes=2**30))
        for _ in range(20 * TURN_FRAMES):
            await asyncio.sleep(0)
            spool.clicks.append([click_row()])
        found = gathering.result()
        assert isinstance(found, Batch)
        assert 3 * TURN_FRAMES == found.next_seq
        assert spool.clicks.next_seq > found.next_seq


async def test_how_far_a_live_log_reaches_is_known_of_a_dead_one_it_is_not(tmp_path: Path) -> None:
    """Who ships asks whether a full batch is there; rows of a dead log are there, or will never be."""
    with written(tmp_path, [click_row()] * 3) as spool:
        live = LogReader(spool.path, "clicks", spool_id=7, log=spool.clicks)
        dead = LogReader(spool.path, "clicks", spool_id=7)
        assert [True, True, False] == [live.reaches(seq) for seq in (2, 3, 4)]
        assert dead.reaches(4)
        live.close()
        dead.close()
