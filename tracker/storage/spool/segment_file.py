"""One segment file while its writer lives: made, appended to, cut, closed.

It exists so that spool/log.py can speak of segments instead of descriptors and offsets. It takes single steps and lets
OSError out; what follows from a failure is decided there.
"""

import contextlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tracker.storage.spool.fsops import FsOps, write_all
from tracker.storage.spool.segments import DATA_START, Column, Kind, SegmentHeader, encode_header, pack_frame

# A frame's rows as they were appended, kept until they are on the disk: first sequence number, rows, payload. A plain
# tuple, as one is made with every append: a named one costs 0.3 µs more, a tenth of all that append does.
UnsyncedRows = tuple[int, int, bytes]


@dataclass(slots=True, eq=False)
class SegmentFile:
    """`offset` is where the next frame goes; `end_seq` follows its last row; `fd` is -1 once it is closed.

    `shipped_at` is when all its rows were first seen confirmed.
    """

    index: int
    path: Path
    fd: int
    nonce: int
    first_seq: int
    capacity_bytes: int
    offset: int
    end_seq: int
    shipped_at: float | None = None

    @classmethod
    def create(
        cls,
        fs: FsOps,
        path: Path,
        *,
        index: int,
        kind: Kind,
        spool_id: int,
        columns: Sequence[Column],
        carried: Sequence[UnsyncedRows],
        next_seq: int,
        capacity_bytes: int,
    ) -> "SegmentFile":
        """Make a file of `capacity_bytes` that begins with the frames of `carried`; `next_seq` follows their last row.

        OSError when it cannot be made; then nothing is left of it, as far as the disk allows.
        """
        first_seq = carried[0][0] if carried else next_seq
        nonce = secrets.randbelow(2**64 - 1) + 1  # never 0: a search for it must not stop at every preallocated byte
        frames = b"".join(pack_frame(nonce, *item) for item in carried)
        header = encode_header(SegmentHeader(kind, spool_id, nonce, first_seq, tuple(columns)))
        fd = fs.open_new(path)
        try:
            fs.fallocate(fd, capacity_bytes)
            write_all(fs, fd, frames, DATA_START)
            write_all(fs, fd, header, 0)  # last: from now on these frames count, and the older ones they repeat do not
        except OSError:
            with contextlib.suppress(OSError):
                fs.close(fd)
                fs.unlink(path)
            raise
        return cls(index, path, fd, nonce, first_seq, capacity_bytes, DATA_START + len(frames), next_seq)

    def append(self, fs: FsOps, first_seq: int, rows: int, payload: bytes) -> None:
        """Write a frame; there is room for it. OSError leaves part of it, or all, behind `offset`."""
        frame = pack_frame(self.nonce, first_seq, rows, payload)
        write_all(fs, self.fd, frame, self.offset)
        self.offset += len(frame)
        self.end_seq = first_seq + rows

    def cut(self, fs: FsOps) -> None:
        """End the file behind its last good frame.

        When even this fails, a broken frame stays; a whole one is void too: the next segment begins at its number.
        """
        with contextlib.suppress(OSError):
            fs.ftruncate(self.fd, self.offset)

    def close(self, fs: FsOps) -> None:
        """Close the descriptor. Its errors mean nothing here: what is not synced is kept in memory."""
        with contextlib.suppress(OSError):
            fs.close(self.fd)
        self.fd = -1
