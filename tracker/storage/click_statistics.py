"""Counts click rows by quarter hour, link, kind, channel, country and device: COPY tuples in, COPY tuples out.

The shipper counts every row it ships inside an edge's event loop, so nothing is decoded: a row's fields are already
in the form that COPY wants, and the key of a count is made of slices of them. Only the time, the flags and the
lengths on the way are read. About 1 µs a row. Pure: no await, no clock, no connection. Layout of a row: schema.sql,
table clicks.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice

from tracker.storage.segments import Column

BUCKET_MS = 15 * 60 * 1000
STATISTICS_COLUMNS = (
    "bucket", "link_id", "program_id", "partner_id", "kind", "channel", "country", "device", "clicks",
)  # fmt: skip

# What the offsets below rely on. Segments whose rows begin otherwise are held (click_store.py).
LEADING_COLUMNS = (
    "click_id", "link_id", "link_version", "program_id", "partner_id", "flags", "visitor",
    "channel", "country", "ip", "device",
)  # fmt: skip

_CLICK_ID_AT = 6  # u16 column count, i32 length
_CHANNEL_AT = 78  # first byte of its text; its length stands in the four bytes before
# time (48 of the id's bits) · link_id to partner_id with their lengths · flags' low byte · length of channel
_HEAD = struct.Struct(">6xIH10x32s7xB12xi")
_LENGTH = struct.Struct(">i")
_EMPTY = b"\0\0\0\0"
_TUPLE_HEAD = struct.Struct(">Hiq")
_TUPLE_TAIL = struct.Struct(">iq")
_POSTGRES_EPOCH_MS = 946_684_800_000  # 2000-01-01 UTC

_KINDS = ("click", "bot", "prefetch", "head", "test")
_KIND_FIELDS = [_LENGTH.pack(len(word)) + word.encode() for word in _KINDS]


def kind_of(flags: int) -> str:
    """The one kind a click counts as: test before head before prefetch before bot before click."""
    return _KINDS[(flags & 15).bit_length()]


_KIND_BY_FLAGS = [(flags & 15).bit_length() for flags in range(256)]

# (quarter hours since the epoch and kind, fields link_id to partner_id, fields channel and country, field device)
_Key = tuple[int, bytes, bytes, bytes]


class StatisticsCount:
    """Counts of one batch. `add` may be called for slices of it, so that the event loop gets its turn in between."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: defaultdict[_Key, int] = defaultdict(int)

    def __len__(self) -> int:
        return len(self._counts)

    def add(self, rows: bytes, starts: Iterable[int]) -> None:
        """Count the rows that begin at `starts` in `rows`. Rows must be whole: those PostgreSQL has accepted."""
        counts = self._counts
        head, length_at, kinds = _HEAD.unpack_from, _LENGTH.unpack_from, _KIND_BY_FLAGS
        for start in starts:
            high, low, ids, flags, size = head(rows, start)
            channel_at = start + _CHANNEL_AT
            country_at = channel_at + 4 + size if size > 0 else channel_at + 4
            (size,) = length_at(rows, country_at - 4)
            ip_at = country_at + 4 + size if size > 0 else country_at + 4
            (size,) = length_at(rows, ip_at - 4)
            device_at = ip_at + 4 + size if size > 0 else ip_at + 4
            (size,) = length_at(rows, device_at - 4)
            device = rows[device_at - 4 : device_at + size] if size > 0 else _EMPTY
            bucket = (high << 16 | low) // (8 * BUCKET_MS)  # the lowest three bits of these 48 are not the time's
            counts[bucket << 3 | kinds[flags], ids, rows[channel_at - 4 : ip_at - 4], device] += 1

    def encode(self, most: int) -> Iterator[bytes]:
        """The counts as COPY tuples for click_stats_new, in the order of STATISTICS_COLUMNS. Unknown texts are ''.

        In pieces of at most `most` tuples, for the same reason as `add`: 1 µs each.
        """
        counts = iter(self._counts.items())
        while part := list(islice(counts, most)):
            yield self._encode(part)

    @staticmethod
    def _encode(counts: list[tuple[_Key, int]]) -> bytes:
        tuples: list[bytes] = []
        for (bucket_and_kind, ids, texts, device), clicks in counts:
            micros = ((bucket_and_kind >> 3) * BUCKET_MS - _POSTGRES_EPOCH_MS) * 1000
            country_at = 4 + max(0, _LENGTH.unpack_from(texts)[0])
            tuples += (
                _TUPLE_HEAD.pack(len(STATISTICS_COLUMNS), 8, micros),
                ids[:8],
                ids[16:],  # between them stands link_version
                _KIND_FIELDS[bucket_and_kind & 7],
                texts[:country_at] if country_at > 4 else _EMPTY,
                texts[country_at:] if len(texts) > country_at + 4 else _EMPTY,
                device,
                _TUPLE_TAIL.pack(8, clicks),
            )
        return b"".join(tuples)


def click_id_at(rows: bytes, start: int) -> bytes:
    """The stored click id (16 bytes) of the row that begins at `start`."""
    return rows[start + _CLICK_ID_AT : start + _CLICK_ID_AT + 16]


def leads_as_expected(columns: tuple[Column, ...]) -> bool:
    """Whether rows of these columns begin as this file reads them."""
    return tuple(column.name for column in columns[: len(LEADING_COLUMNS)]) == LEADING_COLUMNS
