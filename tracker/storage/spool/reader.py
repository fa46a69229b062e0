"""The rows of a log, read back in order: from a live spool below its writer's offset, or from a dead one by scanning.

It exists for whoever ships rows: it turns files, damage and replacements into what a cursor understands, rows that
follow each other, or a gap. It never writes, and does not know where the rows go.

**Which frame counts.** A segment may repeat rows of an older one: the writer begins a new segment with the rows it
could not sync, or with the number of a frame it could not write. So a segment's frames count only below the first
sequence number of every later segment (`chain`).
"""

import asyncio
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from tracker.storage.spool.frame_window import Frame, FrameWindow, Room
from tracker.storage.spool.fsops import FsOps, RealFs
from tracker.storage.spool.log import Log, Written
from tracker.storage.spool.segments import (
    DATA_START,
    FRAME_HEADER_BYTES,
    Column,
    Kind,
    SegmentHeader,
    parse_header,
    parse_segment_name,
    row_lengths,
    segment_name,
)

SEEK_FRAMES = 200
"""Walked over in one turn of the event loop: 1 ms. A full segment of single rows has 35,000, where an unread place costs 0.2 s."""

TURN_FRAMES = 50           # of single rows, read in one turn of the event loop: 0.1 ms
TURN_BYTES = 96 * 1024     # of rows, as long
_ANY = 2**62


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows `first_seq` to `next_seq` - 1, back to back in `rows`, `lengths` bytes each, described by `columns`."""

    first_seq: int
    next_seq: int
    rows: bytes
    lengths: "array[int]"
    columns: tuple[Column, ...]

    def numbered(self) -> Iterator[tuple[int, bytes]]:
        """Each row with its number."""
        at = 0
        for seq, length in enumerate(self.lengths, self.first_seq):
            yield seq, self.rows[at : at + length]
            at += length


@dataclass(frozen=True, slots=True)
class Gap:
    """Rows `first_seq` to `next_seq` - 1 were written and are in no file any more; `where` tells people the place."""

    first_seq: int
    next_seq: int
    where: str


@dataclass(frozen=True, slots=True)
class Link:
    """A segment that counts, for the rows from its header's first number up to `end_seq` (None: the last one, open)."""

    index: int
    header: SegmentHeader
    end_seq: int | None


def chain(headers: dict[int, SegmentHeader]) -> list[Link]:
    """The segments that count, in order of their rows; those wholly repeated by later ones are left out."""
    links: list[Link] = []
    end_seq: int | None = None
    for index in sorted(headers, reverse=True):
        header = headers[index]
        if end_seq is None or header.first_seq < end_seq:
            links.append(Link(index, header, end_seq))
            end_seq = header.first_seq
    return links[::-1]


class LogReader:
    """Reads one log. Not for two threads at once, but free to live in another thread than the log's writer.

    With `log`, the live log in this directory is followed; without, its writer is dead and the files are all there is.
    Segments of another spool (`spool_id`) are ignored. OSError when a file cannot be opened or read.
    """

    def __init__(
        self, directory: Path, kind: Kind, *, spool_id: int | None, log: Log | None = None, fs: FsOps | None = None
    ) -> None:
        self._directory, self.kind, self._spool_id, self._log = directory, kind, spool_id, log
        self._fs = fs or RealFs()
        self._headers: dict[int, SegmentHeader] = {}
        self._unreadable: set[int] = set()
        self._chain: list[Link] = []
        self._looked_at = -1  # the newest segment that the chain was made for
        self._window: tuple[int, FrameWindow] | None = None
        self._marks: list[tuple[int, int, int]] = []  # segment, sequence number, offset of the frame that holds it
        if log is None:
            self._look(None)

    async def gather(self, next_seq: int, *, max_rows: int, max_bytes: int) -> Batch | Gap | None:
        """As `read`, with turns for the event loop: five thousand clicks that came one by one, a frame each, take 10 ms.

        Of a live log, what is there now: each turn brings a frame or two, and running after them one by one cost a click
        a quarter of all it costs.
        """
        if self._log is not None:
            max_rows = min(max_rows, max(1, self._log.next_seq - next_seq))
        parts: list[Batch] = []
        while True:
            found = self._read(next_seq, Room(max_rows, max_bytes, TURN_FRAMES, TURN_BYTES))
            if not isinstance(found, Batch) or (parts and (found.columns != parts[0].columns or len(found.rows) > max_bytes)):
                break
            if not parts:
                begin = self._marks[0]
            self._marks = marks = [begin, self._marks[1]]
            parts.append(found)
            next_seq = found.next_seq
            max_rows, max_bytes = max_rows - len(found.lengths), max_bytes - len(found.rows)
            if max_rows <= 0 or max_bytes <= 0:
                break
            await asyncio.sleep(0)
            self._marks = marks      # whoever reads elsewhere meanwhile does not send us back there
        if len(parts) < 2:
            return parts[0] if parts else found
        lengths: array[int] = array("I")
        for part in parts:
            lengths.extend(part.lengths)
        return Batch(parts[0].first_seq, next_seq, b"".join(part.rows for part in parts), lengths, parts[0].columns)

    def read(self, next_seq: int, *, max_rows: int, max_bytes: int) -> Batch | Gap | None:
        """What follows from row `next_seq` on: rows, a gap, or None when there is nothing (more) to read.

        A batch has at least one row, and else at most `max_rows` and `max_bytes`; it never spans two segments. Reading the
        same rows again is as cheap as reading on.
        """
        return self._read(next_seq, Room(max_rows, max_bytes, _ANY, _ANY))

    def _read(self, next_seq: int, room: Room) -> Batch | Gap | None:
        found = self._find(next_seq, room)
        if self._log is None or not isinstance(found, Gap):
            return found
        # What the writer has in memory is not lost: a file that could not be synced may read as zeros, and its rows come in
        # a new segment.
        end_seq = min(found.next_seq, self._log.lost_below)
        return Gap(next_seq, end_seq, found.where) if end_seq > next_seq else None

    def _find(self, next_seq: int, room: Room) -> Batch | Gap | None:
        written = self._log.written if self._log else None
        if written is not None:
            if next_seq >= written.next_seq:
                return None
            self._look_again(written)
        for link in self._chain:
            if link.end_seq is not None and link.end_seq <= next_seq:
                continue
            if link.header.first_seq > next_seq:
                return Gap(next_seq, link.header.first_seq, f"before {segment_name(self.kind, link.index)}")
            found = self._read_segment(link, written, next_seq, room)
            if found is not None:
                return found
        if written is not None:
            return Gap(next_seq, written.next_seq, f"{segment_name(self.kind, written.segment)} at {written.offset}")
        return None

    async def seek(self, next_seq: int) -> None:
        """Find the place of row `next_seq`, with turns for the event loop: for a `read` far from where the last one ended."""
        written = self._log.written if self._log else None
        if written is not None:
            self._look_again(written)
        for link in self._chain:
            if link.header.first_seq <= next_seq and (link.end_seq is None or next_seq < link.end_seq):
                offset = self._nearest_mark(link, next_seq)
                while (mark := self._walk(link, written, offset, next_seq)) is not None and mark[2] > offset:
                    self._marks = [*self._marks[:2], mark]
                    offset = mark[2]
                    await asyncio.sleep(0)
                return

    def reaches(self, next_seq: int) -> bool:
        """Whether all rows below are written. Of a dead log nobody knows without reading: True."""
        return self._log is None or self._log.next_seq >= next_seq

    @property
    def first_seq(self) -> int:
        """The first row that is still in a file; 0 when there is no file."""
        return self._chain[0].header.first_seq if self._chain else 0

    def end_seq(self) -> int:
        """For a dead log: the number after the last row that its files know of. Scans the last segment."""
        if not self._chain:
            return 0
        last = self._chain[-1]
        return max((frame.end_seq for frame in self._frames(last, None, DATA_START)), default=last.header.first_seq)

    @property
    def segments(self) -> list[Link]:
        """The segments that count, oldest first."""
        return list(self._chain)

    @property
    def unreadable(self) -> list[str]:
        """Files of this log without a readable header: damaged, another spool's, or just being made when power went."""
        return [segment_name(self.kind, index) for index in sorted(self._unreadable)]

    def close(self) -> None:
        """Give the descriptor back. The reader may be used again."""
        if self._window is not None:
            self._window[1].close()
            self._window = None

    def _look_again(self, written: Written) -> None:
        if self._looked_at < written.segment:
            self._look(written)

    def _look(self, written: Written | None) -> None:
        """See which segments there are, up to the one being written."""
        indexes = [
            parsed[1]
            for parsed in map(parse_segment_name, self._fs.listdir(self._directory))
            if parsed is not None and parsed[0] == self.kind and (written is None or parsed[1] <= written.segment)
        ]
        headers: dict[int, SegmentHeader] = {}
        for index in indexes:
            header = self._headers.get(index) or self._read_header(index)
            if header is not None:
                headers[index] = header
        self._unreadable = set(indexes) - set(headers)
        self._headers, self._chain = headers, chain(headers)
        self._looked_at = -1 if written is None else written.segment

    def _read_header(self, index: int) -> SegmentHeader | None:
        fd = self._fs.open_read(self._directory / segment_name(self.kind, index))
        try:
            header = parse_header(self._fs.pread(fd, DATA_START, 0))
        finally:
            self._fs.close(fd)
        if header is None or header.kind != self.kind or self._spool_id not in (None, header.spool_id):
            return None
        return header

    def _opened(self, link: Link, written: Written | None) -> tuple[FrameWindow, int]:
        """A segment's window, and the offset up to which its bytes may be judged."""
        if self._window is None or self._window[0] != link.index:
            self.close()
            path = self._directory / segment_name(self.kind, link.index)
            try:
                self._window = (link.index, FrameWindow(self._fs, path, link.header.nonce))
            except FileNotFoundError:  # its time was over: whoever asks again is told what is left
                self._looked_at = -1
                raise
        window = self._window[1]
        live = written is not None and written.segment == link.index
        return window, written.offset if written is not None and live else window.file_bytes()

    def _frames(self, link: Link, written: Written | None, offset: int) -> Iterator[Frame]:
        """The frames of a segment from `offset` on, also those behind the link's end."""
        window, limit = self._opened(link, written)
        while (frame := window.next_frame(offset, limit)) is not None:
            yield frame
            offset = frame.end_offset

    def _nearest_mark(self, link: Link, next_seq: int) -> int:
        """The offset of a frame at or before the one that holds row `next_seq`."""
        marks = (at for index, seq, at in self._marks if index == link.index and seq <= next_seq)
        return max(marks, default=DATA_START)

    def _walk(self, link: Link, written: Written | None, offset: int, next_seq: int) -> tuple[int, int, int] | None:
        """A mark some frames on from `offset`, at most at the frame that holds row `next_seq`; None: there is no frame."""
        mark = None
        for frame in islice(self._frames(link, written, offset), SEEK_FRAMES):
            if frame.first_seq > next_seq:
                break
            mark = link.index, frame.first_seq, frame.offset
            if frame.end_seq > next_seq:
                break
        return mark

    def _read_segment(self, link: Link, written: Written | None, next_seq: int, room: Room) -> Batch | Gap | None:
        window, limit = self._opened(link, written)
        offset = mark = first_mark = self._nearest_mark(link, next_seq)
        parts: list[bytes | memoryview] = []
        lengths: array[int] = array("I")
        expected, size = next_seq, 0
        while len(lengths) < room.rows and size < room.bytes and len(parts) < room.frames:
            rows_left = room.rows - len(lengths)
            if link.end_seq is not None:
                rows_left = min(rows_left, link.end_seq - expected)
            run = window.follow(offset, limit, expected, Room(rows_left, room.bytes - size, room.frames, room.enough))
            if run.lengths:     # whole frames, nothing odd; what is odd is one frame's
                if not parts:
                    first_mark = offset
                mark, offset = run.last_at, run.end_at
                parts.append(run.rows)
                lengths.extend(run.lengths)
                expected, size = next_seq + len(lengths), size + len(run.rows)
                if room.enough < _ANY:
                    break
                continue
            frame = window.next_frame(offset, limit)
            if frame is None or (link.end_seq is not None and frame.first_seq >= link.end_seq):
                break
            mark, offset = frame.offset, frame.end_offset
            if frame.end_seq <= expected:  # read before, or a copy
                continue
            if frame.first_seq > expected:
                if parts:
                    break
                return Gap(next_seq, frame.first_seq, f"{segment_name(self.kind, link.index)} before {frame.offset}")
            if not parts:
                first_mark = mark
            part, part_lengths = _take(frame, expected, room.rows - len(lengths), room.bytes - size, at_least_one=not parts)
            parts.append(part)
            lengths.extend(part_lengths)
            expected, size = next_seq + len(lengths), size + len(part)
            if expected < frame.end_seq:
                break
        if not lengths:
            return None
        self._marks = [(link.index, next_seq, first_mark), (link.index, expected, mark)]
        return Batch(next_seq, expected, b"".join(parts), lengths, link.header.columns)


def _take(frame: Frame, first_seq: int, max_rows: int, max_bytes: int, *, at_least_one: bool) -> tuple[memoryview, "array[int]"]:
    """The rows of a frame from `first_seq` on, as many as fit."""
    rows = frame.end_seq - frame.first_seq
    lengths = row_lengths(frame.data, frame.at, rows)
    skip = first_seq - frame.first_seq
    start = frame.at + FRAME_HEADER_BYTES + 4 * rows
    end = frame.at + frame.end_offset - frame.offset
    if skip:
        start += sum(lengths[:skip])
        lengths = lengths[skip:]
    if len(lengths) > max_rows or end - start > max_bytes:
        count = size = 0
        for length in lengths[:max_rows]:
            if size + length > max_bytes and not (at_least_one and count == 0):
                break
            count, size = count + 1, size + length
        lengths, end = lengths[:count], start + size
    return frame.data[start:end], lengths
