"""A segment file read frame by frame, from any offset, through a window of bounded size.

It exists so that following a live log, catching up and recovering after a crash are the same code: the caller gives the
offset up to which bytes may be judged, and gets the whole frames below it. Damage is walked over to the next nonce, in
time linear in the file. What rows are expected, or missing, is not known here.
"""

import errno
from pathlib import Path
from typing import NamedTuple

from tracker.storage.spool.fsops import FsOps
from tracker.storage.spool.segments import FRAME_HEADER_BYTES, NONCE_BYTES, frame_is_whole, parse_frame_header

WINDOW_BYTES = 2**20  # memory per reader; a frame that is larger is read whole
_PAGE_BYTES = 4096


class Frame(NamedTuple):
    """A whole frame, at `offset` to `end_offset` of its file; its bytes are `data` from `at` on."""

    offset: int
    end_offset: int
    first_seq: int
    end_seq: int
    data: memoryview
    at: int


class FrameWindow:
    """The frames of one segment file that carry `nonce`. Holds a descriptor until `close`."""

    def __init__(self, fs: FsOps, path: Path, nonce: int) -> None:
        self._fs, self.path, self._nonce = fs, path, nonce
        self._nonce_bytes = nonce.to_bytes(NONCE_BYTES, "big")
        self._fd = fs.open_read(path)
        self._data, self._view, self._start = b"", memoryview(b""), 0

    def close(self) -> None:
        self._fs.close(self._fd)

    def file_bytes(self) -> int:
        """The size of the file, preallocated zeros included."""
        return self._fs.file_size(self._fd)

    def next_frame(self, offset: int, limit: int) -> Frame | None:
        """The first whole frame at or after `offset` that ends at or below `limit`; None when there is none."""
        while offset + FRAME_HEADER_BYTES <= limit:
            at = self._load(offset, FRAME_HEADER_BYTES, limit)
            nonce, payload_bytes, rows, first_seq, _ = parse_frame_header(self._view, at)
            end_offset = offset + FRAME_HEADER_BYTES + payload_bytes
            if nonce == self._nonce and end_offset <= limit:
                at = self._load(offset, end_offset - offset, limit)
                if frame_is_whole(self._view, at):
                    return Frame(offset, end_offset, first_seq, first_seq + rows, self._view, at)
            offset = self._find_nonce(offset + 1, limit)
        return None

    def _find_nonce(self, offset: int, limit: int) -> int:
        while offset + FRAME_HEADER_BYTES <= limit:
            at = self._load(offset, FRAME_HEADER_BYTES, limit)
            found = self._data.find(self._nonce_bytes, at)
            if found >= 0:
                return self._start + found
            offset = self._start + len(self._data) - NONCE_BYTES + 1  # a nonce may begin in the last bytes
        return limit

    def _load(self, offset: int, size: int, limit: int) -> int:
        """Have `size` bytes from `offset` in the window; returns where they begin in it."""
        if offset < self._start or offset + size > self._start + len(self._data):
            wanted = min(max(size, WINDOW_BYTES), limit - offset)
            # Short only when the file was cut behind our back: missing bytes read as zeros, like a hole.
            self._data = self._read(offset, wanted).ljust(size, b"\0")
            self._view, self._start = memoryview(self._data), offset
        return offset - self._start

    def _read(self, offset: int, size: int) -> bytes:
        try:
            return self._fs.pread(self._fd, size, offset)
        except OSError as exc:
            if exc.errno != errno.EIO:
                raise
        end = offset + size
        return b"".join(self._read_page(at, min(_PAGE_BYTES, end - at)) for at in range(offset, end, _PAGE_BYTES))

    def _read_page(self, offset: int, size: int) -> bytes:
        """A page, or zeros where the disk cannot read it: a bad sector costs the frames on it, not the spool."""
        try:
            return self._fs.pread(self._fd, size, offset).ljust(size, b"\0")
        except OSError as exc:
            if exc.errno != errno.EIO:
                raise
            return bytes(size)
