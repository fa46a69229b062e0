"""The bytes of a spool segment: a header, written twice, and frames of rows.

It stands alone because writer (spool/log.py), reader (spool/reader.py) and whoever looks at a disk after an accident
must agree on every bit. Pure: bytes in, bytes out. No file, clock, randomness or logging may live here.

    segment   header at 0 · the same header at 4096 · frames from 8192 on · zeros (preallocated)
    header    magic 8 · version u16 · kind u8 · 0 u8 · size u32 · spool id u64 · nonce u64 · first sequence u64 ·
              columns u16 · per column: type OID u32, name length u8, name (UTF-8) · crc32 u32 of all before it
    frame     nonce u64 · payload size u32 · rows u32 · first sequence u64 · crc32 u32 of these and payload · payload
    payload   row directory (u32 length of each row) · the rows, back to back

All big-endian. A frame is found by its segment's random nonce only, so no bytes a visitor sends can pose as a frame.

**Why a row directory.** Rows are COPY tuples, whose ends can only be found by walking every column (29 for a click).
The shipper needs the ends twice: to take the fixed-width head of each row for the statistics, and to halve a batch that
Postgres refused. Walking costs about 3 µs a row in Python. The directory costs 4 bytes a row (under 1 % of a click) and
45 ns a row when a frame of 8 or more is written (one `struct.pack` over `map(len, rows)`; 0.3 µs for a frame of one,
beside a write of over 1 µs); read back it is one `array`.
"""

import struct
import sys
import zlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

Kind = Literal["clicks", "journal"]

MAGIC = b"TRKSEG\r\n"  # the line end shows when a file went through a text-mode copy
VERSION = 1
HEADER_SLOT_BYTES = 4096  # one page, and one sector of the largest kind: a torn write spoils one copy, never both
DATA_START = 2 * HEADER_SLOT_BYTES
NONCE_BYTES = 8

_KINDS: tuple[Kind, ...] = ("clicks", "journal")
_HEADER = struct.Struct(">8sHBxIQQQH")
_COLUMN = struct.Struct(">IB")
_CRC = struct.Struct(">I")
_FRAME_HEAD = struct.Struct(">QIIQ")
_FRAME = struct.Struct(">QIIQI")
FRAME_HEADER_BYTES = _FRAME.size


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the rows: its name in the table and the OID of its type, so that a changed table is noticed."""

    name: str
    oid: int


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """What a segment says of itself. `nonce` is random and not 0; `first_seq` is the number of its first row."""

    kind: Kind
    spool_id: int
    nonce: int
    first_seq: int
    columns: tuple[Column, ...]


def segment_name(kind: Kind, index: int) -> str:
    """The file name of segment number `index` of a log: `clicks-00000000.seg`."""
    return f"{kind}-{index:08d}.seg"


def parse_segment_name(name: str) -> tuple[Kind, int] | None:
    """The log and number a file name stands for; None for any other file."""
    for kind in _KINDS:
        digits = name.removeprefix(f"{kind}-").removesuffix(".seg")
        if digits.isascii() and digits.isdigit() and name == segment_name(kind, int(digits)):
            return kind, int(digits)
    return None


def encode_header(header: SegmentHeader) -> bytes:
    """The first DATA_START bytes of a segment: the header, twice. ValueError when the columns do not fit 4 KiB."""
    columns = b"".join(_COLUMN.pack(column.oid, len(name)) + name for column in header.columns for name in [column.name.encode()])
    size = _HEADER.size + len(columns) + _CRC.size
    if size > HEADER_SLOT_BYTES:
        raise ValueError(f"columns need {size} bytes, a segment header has {HEADER_SLOT_BYTES}")
    kind = _KINDS.index(header.kind)
    fixed = (MAGIC, VERSION, kind, size, header.spool_id, header.nonce, header.first_seq, len(header.columns))
    body = _HEADER.pack(*fixed) + columns
    return (body + _CRC.pack(zlib.crc32(body))).ljust(HEADER_SLOT_BYTES, b"\0") * 2


def parse_header(data: bytes) -> SegmentHeader | None:
    """The header in the first DATA_START bytes of a segment, from whichever copy is whole; None when neither is."""
    return _parse_header_copy(data[:HEADER_SLOT_BYTES]) or _parse_header_copy(data[HEADER_SLOT_BYTES:DATA_START])


def _parse_header_copy(data: bytes) -> SegmentHeader | None:
    if len(data) < _HEADER.size:
        return None
    magic, version, kind, size, spool_id, nonce, first_seq, count = _HEADER.unpack_from(data)
    if magic != MAGIC or version != VERSION or not _HEADER.size + _CRC.size <= size <= len(data):
        return None
    end = size - _CRC.size
    if _CRC.unpack_from(data, end)[0] != zlib.crc32(data[:end]):
        return None
    columns = []
    at = _HEADER.size
    for _ in range(count):  # behind the CRC: these bytes are as we wrote them
        oid, name_bytes = _COLUMN.unpack_from(data, at)
        at += _COLUMN.size + name_bytes
        columns.append(Column(data[at - name_bytes : at].decode(), oid))
    return SegmentHeader(_KINDS[kind], spool_id, nonce, first_seq, tuple(columns))


@lru_cache(maxsize=1024)  # frames hold what one loop iteration gathered: rarely above a few hundred rows
def _directory(rows: int) -> struct.Struct:
    return struct.Struct(f">{rows}I")


def pack_rows(rows: Sequence[bytes]) -> bytes:
    """The payload of a frame: the row directory, then the rows."""
    return b"".join((_directory(len(rows)).pack(*map(len, rows)), *rows))


def pack_frame(nonce: int, first_seq: int, rows: int, payload: bytes) -> bytes:
    """A whole frame around `payload`, which `pack_rows` made of `rows` rows; the first is numbered `first_seq`."""
    head = _FRAME_HEAD.pack(nonce, len(payload), rows, first_seq)
    return b"".join((head, _CRC.pack(zlib.crc32(payload, zlib.crc32(head))), payload))


def parse_frame_header(data: bytes | memoryview, at: int) -> tuple[int, int, int, int, int]:
    """The frame header at `at`, unjudged: nonce, payload bytes, rows, first sequence number, crc.

    `data` must hold FRAME_HEADER_BYTES from there. (A plain tuple: this is done once for every frame that is shipped.)
    """
    return _FRAME.unpack_from(data, at)


def frame_is_whole(data: memoryview, at: int) -> bool:
    """Whether the frame at `at` is as it was written; `data` must hold all of what its header announces."""
    _, payload_bytes, rows, _, crc = _FRAME.unpack_from(data, at)
    start = at + FRAME_HEADER_BYTES
    found_crc = zlib.crc32(data[start : start + payload_bytes], zlib.crc32(data[at : at + _FRAME_HEAD.size]))
    return bool(found_crc == crc and 0 < 4 * rows <= payload_bytes)


def row_lengths(data: memoryview, at: int, rows: int) -> "array[int]":
    """The row directory of the frame at `at`: the length of each of its rows, in bytes."""
    start = at + FRAME_HEADER_BYTES
    lengths = array("I", bytes(data[start : start + 4 * rows]))
    if sys.byteorder == "little":  # pragma: no branch - as every machine that the tests have run on
        lengths.byteswap()
    return lengths
