"""Counts click rows by quarter hour, in two grains (per link, per source): COPY tuples in, COPY tuples out.

The shipper counts every row it ships inside an edge's event loop, so nothing is decoded: what a source is made of
stands side by side in a row, already in the form that COPY wants, and one slice of it is the key of a count (0.35 µs;
with the address between them, 0.84). One grain with all columns cost twice as much: nearly every row
was a key of its own, to be encoded, sent and folded. Pure: no await, no clock, no connection. Layout of a row:
schema.sql, table clicks; what each grain answers: there, table click_stats_new.
"""

from __future__ import annotations

import struct
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Final

from tracker import speedups
from tracker.storage.spool.segments import Column

BUCKET_MS = 15 * 60 * 1000
CHANNELS_MAX: Final = 100
"""Distinct channels of a partner and day that are counted by name: utm_source is any stranger's word."""
OTHER_CHANNELS: Final = b"(other)"
_DAYS_REMEMBERED: Final = 8  # of channels: clicks that come late are rarely older, and forgetting only lets in more names

STATISTICS_COLUMNS = (
    "bucket", "kind", "program_id", "partner_id", "channel", "country", "device", "link_id", "clicks",
)  # fmt: skip

# What the offsets below rely on. Segments whose rows begin otherwise are held (clicks/store.py).
LEADING_COLUMNS = (
    "click_id", "visitor", "link_id", "link_version", "program_id", "partner_id", "flags",
    "channel", "country", "device",
)  # fmt: skip

_CLICK_ID_AT = 6  # u16 column count, i32 length
_SOURCE_AT = 50  # program_id and partner_id with their lengths (16 bytes), flags (8), then the three texts
_CHANNEL_AT = 78  # first byte of its text; its length stands in the four bytes before
_TIME = struct.Struct(">6xQ")  # the first 64 bits of the id: 45 of time, 19 of other things
_SPAN = struct.Struct(">6xI")  # the first 32 of them
_LINK = struct.Struct(">38xI31xB")  # link_id · flags' low byte
# Bytes a text of the key takes, by the last byte of its length: null is -1. None is longer than
# CHANNEL_LIMIT (domain/link.py), and a country has two letters.
_TAKES = (*range(255), 0)
_LENGTH = struct.Struct(">i")
_EMPTY = b"\0\0\0\0"
_NULL = b"\xff\xff\xff\xff"
_TUPLE_HEAD = struct.Struct(">Hiq")
_LINK_AND_CLICKS = struct.Struct(">iIiq")
_CLICKS = struct.Struct(">iq")
_POSTGRES_EPOCH_MS = 946_684_800_000  # 2000-01-01 UTC

# The one kind a click counts as: test before head before prefetch before bot before click.
_KINDS = ("click", "bot", "prefetch", "head", "test")
_KIND_FIELDS = [_LENGTH.pack(len(word)) + word.encode() for word in _KINDS]


def tally_in_python(
    rows: bytes, starts: list[int], links: Counter[tuple[int, int]], sources: defaultdict[bytes, int]
) -> None:
    """Raise the counts by link id and flags, and by what a source is made of, for the rows that begin at `starts`."""
    links.update(map(partial(_LINK.unpack_from, rows), starts))
    takes = _TAKES
    for start in starts:
        at = start + _CHANNEL_AT + takes[rows[start + _CHANNEL_AT - 1]]  # of the country's length
        at += 4 + takes[rows[at + 3]]  # of the device's
        sources[rows[start + _SOURCE_AT : at + 4 + takes[rows[at + 3]]]] += 1


tally = speedups.tally(tally_in_python)


class ChannelLimit:
    """Which channels are counted by name: the first CHANNELS_MAX of a partner and day. One for each shipper."""

    __slots__ = ("_days",)

    def __init__(self) -> None:
        self._days: dict[int, defaultdict[bytes, set[bytes]]] = {}

    def name(self, day: int, partner: bytes, channel: bytes) -> bytes:
        """The channel itself, or OTHER_CHANNELS. `day` since the epoch. A batch sent again gets the same answers."""
        partners = self._days.get(day)
        if partners is None:
            if len(self._days) == _DAYS_REMEMBERED:
                del self._days[next(iter(self._days))]
            partners = self._days[day] = defaultdict(set)
        known = partners[partner]
        if channel in known or not channel:
            return channel
        if len(known) == CHANNELS_MAX:
            return OTHER_CHANNELS
        known.add(channel)
        return channel


class StatisticsCount:
    """Counts of one batch. `add` may be called for slices of it, so that the event loop gets its turn in between."""

    __slots__ = ("_links", "_sources")

    def __init__(self) -> None:
        # By quarter hour since the epoch. Flags, not kinds: there are few, and the same kind twice is summed up later.
        self._links: defaultdict[int, Counter[tuple[int, int]]] = defaultdict(Counter)
        self._sources: defaultdict[int, defaultdict[bytes, int]] = defaultdict(lambda: defaultdict(int))

    def add(self, rows: bytes, starts: list[int]) -> None:
        """Count the rows that begin at `starts` in `rows`. Rows must be whole: those PostgreSQL has accepted."""
        if not starts:
            return
        spans = set(map(partial(_SPAN.unpack_from, rows), starts))  # of 8 seconds each: one or two
        first, last = _bucket(min(spans)[0] << 32), _bucket((max(spans)[0] + 1 << 32) - 1)
        if first == last:  # so it is 98 times of 100
            tally(rows, starts, self._links[first], self._sources[first])
            return
        parts: defaultdict[int, list[int]] = defaultdict(list)
        for start in starts:
            parts[_bucket(_TIME.unpack_from(rows, start)[0])].append(start)
        for bucket, part in parts.items():
            tally(rows, part, self._links[bucket], self._sources[bucket])

    def encode(self, channels: ChannelLimit, most: int) -> Iterator[tuple[bytes, int]]:
        """The counts as COPY tuples for click_stats_new, in the order of STATISTICS_COLUMNS, and how many they are.

        In pieces of at most `most` tuples, for the same reason as `add`. Unknown texts are ''.
        """
        tuples = self._encode(channels)
        while part := list(islice(tuples, most)):
            yield b"".join(part), len(part)

    def _encode(self, channels: ChannelLimit) -> Iterator[bytes]:
        for bucket, links in self._links.items():
            heads = [_head(bucket, kind) + 5 * _NULL for kind in range(len(_KINDS))]
            for (link_id, flags), clicks in links.items():
                yield heads[_kind(flags)] + _LINK_AND_CLICKS.pack(4, link_id, 8, clicks)
        for bucket, sources in self._sources.items():
            sums: Counter[bytes] = Counter()
            day = bucket * BUCKET_MS // 86_400_000
            for source, clicks in sources.items():
                ids, flags, texts = source[:16], source[23], source[24:]
                channel, texts = _cut_text(texts)
                country, device = _cut_text(texts)
                name = channels.name(day, ids[12:], channel[4:])
                fields = (_LENGTH.pack(len(name)) + name, country, _cut_text(device)[0], _NULL)
                sums[b"".join((_head(bucket, _kind(flags)), ids, *fields))] += clicks
            for key, clicks in sums.items():
                yield key + _CLICKS.pack(8, clicks)


def click_id_at(rows: bytes, start: int) -> bytes:
    """The stored click id (16 bytes) of the row that begins at `start`."""
    return rows[start + _CLICK_ID_AT : start + _CLICK_ID_AT + 16]


def leads_as_expected(columns: tuple[Column, ...]) -> bool:
    """Whether rows of these columns begin as this file reads them."""
    return tuple(column.name for column in columns[: len(LEADING_COLUMNS)]) == LEADING_COLUMNS


def _cut_text(fields: bytes) -> tuple[bytes, bytes]:
    """The text field that `fields` begins with, '' for null, and what follows it."""
    end = 4 + _TAKES[fields[3]]
    return (fields[:end] if end > 4 else _EMPTY), fields[end:]


def _bucket(id_head: int) -> int:
    return (id_head >> 19) // BUCKET_MS


def _kind(flags: int) -> int:
    return (flags & 15).bit_length()


def _head(bucket: int, kind: int) -> bytes:
    micros = (bucket * BUCKET_MS - _POSTGRES_EPOCH_MS) * 1000
    return _TUPLE_HEAD.pack(len(STATISTICS_COLUMNS), 8, micros) + _KIND_FIELDS[kind]
