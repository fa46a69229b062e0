"""What is followed in one loop is what is there: the frames one behind the other, to the byte, within the room given.

The judge knows what was written, frame by frame, and reads nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from model_fs import ModelFs

from tracker.storage.spool import frame_window
from tracker.storage.spool.frame_window import FrameWindow, Room
from tracker.storage.spool.segments import FRAME_HEADER_BYTES, pack_frame, pack_rows

PLACE = Path("/segment")
NONCE = 7


@dataclass(frozen=True)
class Kept:
    """A frame as it lies in the file. `good`: of this segment, and whole."""

    seq: int
    rows: tuple[bytes, ...]
    good: bool
    data: bytes


def _kept(seq: int, rows: tuple[bytes, ...], harm: str) -> Kept:
    data = pack_frame(NONCE + 1 if harm == "another's" else NONCE, seq, len(rows), pack_rows(rows))
    if harm == "flipped":
        data = data[:-1] + bytes([data[-1] ^ 1])
    return Kept(seq, rows, not harm, data)


rows_of = st.lists(st.binary(min_size=1, max_size=6), min_size=1, max_size=4).map(tuple)
a_little = st.sampled_from([*12 * [0], 1, -1])
steps = st.tuples(rows_of, a_little, st.sampled_from([*12 * [""], "flipped", "another's"]))
scarcity = st.sampled_from(["rows", "bytes", "frames", "enough", ""])
windows = st.sampled_from([FRAME_HEADER_BYTES, 60, 100, 2**20])
cuts = st.just(0) | st.integers(0, 400)


@settings(max_examples=500)
@given(
    st.lists(steps, min_size=1, max_size=8), st.integers(0, 8), st.integers(0, 8), scarcity, a_little, windows,
    st.integers(0, 8), cuts, a_little,
)  # fmt: skip
def test_what_is_followed_is_what_was_written(
    made: list[tuple[tuple[bytes, ...], int, str]], begin: int, fitting: int, scarce: str, more: int, window_bytes: int,
    looked_at: int, cut: int, ahead: int,
) -> None:  # fmt: skip
    """From any frame on, into any room, through any window, up to any limit, whatever was looked at before."""
    seq, frames = 100, []
    for rows, hole, harm in made:
        frames.append(_kept(seq + hole, rows, harm))
        seq += hole + len(rows)
    data = b"".join(frame.data for frame in frames)
    starts = [0, *accumulate(len(frame.data) for frame in frames)]
    begin %= len(frames)
    offset, left = starts[begin], frames[begin:]
    first_seq = left[0].seq + ahead
    plenty = Room(1000, 10**6, 1000, 10**6)
    some = left[: fitting % (len(left) + 1)]
    sizes = {
        "rows": sum(len(frame.rows) for frame in some), "bytes": sum(map(len, (row for frame in some for row in frame.rows))),
        "frames": len(some),
    }  # fmt: skip
    sizes["enough"] = sizes["bytes"]
    room = plenty._replace(**{scarce: sizes[scarce] + more}) if scarce else plenty
    limit = max(0, len(data) - cut)

    fs = ModelFs()
    fd = fs.open_new(PLACE)
    fs.pwrite(fd, data, 0)
    before, frame_window.WINDOW_BYTES = frame_window.WINDOW_BYTES, window_bytes
    try:
        window = FrameWindow(fs, PLACE, NONCE)
        window.next_frame(starts[looked_at % len(starts)], len(data))
        held = window._start, window._start + len(window._data)
        run = window.follow(offset, limit, first_seq, room)
    finally:
        frame_window.WINDOW_BYTES = before

    if not held[0] <= offset <= offset + FRAME_HEADER_BYTES <= held[1]:
        held = offset, offset + max(window_bytes, FRAME_HEADER_BYTES)
    end = min(limit, held[1])
    taken: list[Kept] = []
    at, last_at = offset, offset
    for frame in left:
        size = sum(len(row) for one in taken for row in one.rows)
        adds = sum(map(len, frame.rows))
        if (
            not frame.good or frame.seq != first_seq or at + len(frame.data) > end
            or len(taken) >= room.frames or size >= room.enough
            or size + adds > room.bytes or sum(len(one.rows) for one in taken) + len(frame.rows) > room.rows
        ):  # fmt: skip
            break
        taken.append(frame)
        at, last_at, first_seq = at + len(frame.data), at, first_seq + len(frame.rows)
    wanted = [row for frame in taken for row in frame.rows]
    assert (last_at, at, b"".join(wanted), [len(row) for row in wanted]) == (*run[:3], list(run.lengths))
