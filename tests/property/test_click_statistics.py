"""Counting on encoded rows gives what counting on decoded ones gives, for every row the edge can write, in both grains."""

import struct
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any

from click_tuples import fixed_columns
from hypothesis import example, given
from hypothesis import strategies as st

from tracker.storage.clicks.rows import jsonb, text
from tracker.storage.clicks.statistics import BUCKET_MS, CHANNELS_MAX, STATISTICS_COLUMNS, ChannelLimit, StatisticsCount
from tracker.storage.clicks.store import ClickBatch

texts = st.none() | st.sampled_from(["", "DE", "mobile", "x" * 64, "é" * 32]) | st.text(max_size=20)
addresses = st.sampled_from([b"\xff\xff\xff\xff", b"\0\0\0\x08\x02\x18\0\x04\xc0\0\2\0", b"\0\0\0\x14\x03\x30\0\x10" + bytes(16)])
addresses_of_nobody = b"\xff\xff\xff\xff"
SOURCE = ("program_id", "partner_id", "channel", "country", "device")
ids = st.integers(1, 2**30 - 1)
clicks = st.fixed_dictionaries({
    "ms": st.integers(0, 2**45 - 1).map(lambda ms: ms % (2 * BUCKET_MS) + 1_700_000_000_000) | st.integers(0, 2**42),
    "link": st.integers(1, 3) | ids,
    "program": ids,
    "partner": ids,
    "flags": st.integers(0, 127),
    "channel": texts,
    "country": texts,
    "ip": addresses,
    "device": texts,
})  # fmt: skip


def encoded(click: dict[str, Any]) -> bytes:
    uuid = (click["ms"] << 83 | 2**83 - 1).to_bytes(16, "big")
    head = fixed_columns(uuid, click["link"], 3, click["program"], click["partner"], click["flags"], -5)
    channel, country, device = (
        text(None if click[name] is None else click[name].encode()) for name in ("channel", "country", "device")
    )
    address: bytes = click["ip"]
    return head + channel + country + device + address + text(b"rest") * 15 + jsonb(b"{}")


def kind_of(flags: int) -> str:
    return next((kind for bit, kind in ((8, "test"), (4, "head"), (2, "prefetch"), (1, "bot")) if flags & bit), "click")


def decoded(tuples: bytes) -> tuple[Counter[tuple[Any, ...]], Counter[tuple[Any, ...]]]:
    """COPY tuples of click_stats_new, taken apart by the manual's description of the format: per link, per source."""
    links: Counter[tuple[Any, ...]] = Counter()
    sources: Counter[tuple[Any, ...]] = Counter()
    at = 0
    while at < len(tuples):
        (columns,) = struct.unpack_from(">H", tuples, at)
        assert len(STATISTICS_COLUMNS) == columns
        at += 2
        fields: list[bytes | None] = []
        for _ in range(columns):
            (size,) = struct.unpack_from(">i", tuples, at)
            fields.append(None if size < 0 else tuples[at + 4 : at + 4 + size])
            at += 4 + max(0, size)
        row = dict(zip(STATISTICS_COLUMNS, fields, strict=True))
        (micros,), (clicks,) = (struct.unpack(">q", row[name] or b"") for name in ("bucket", "clicks"))
        moment = datetime(2000, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)
        kind = (row["kind"] or b"").decode()
        if row["link_id"] is not None:
            assert [None] * 5 == [row[name] for name in SOURCE]
            links[moment, kind, int.from_bytes(row["link_id"], "big")] += clicks
        else:
            program, partner, *texts = (row[name] or b"" for name in SOURCE)
            ids = (int.from_bytes(program, "big"), int.from_bytes(partner, "big"))
            sources[moment, kind, *ids, *(value.decode() for value in texts)] += clicks
    return links, sources


def counted(rows: list[bytes], limit: ChannelLimit, *, most: int) -> bytes:
    batch = ClickBatch(0, b"".join(rows), list(map(len, rows)), ())
    assert rows == [batch.row(index) for index in range(len(batch))]
    count = StatisticsCount()
    count.add(batch.rows, batch.starts[:10])
    count.add(batch.rows, batch.starts[10:])
    pieces = list(count.encode(limit, most))
    assert all(tuples <= most for _, tuples in pieces)
    return b"".join(piece for piece, _ in pieces)


@given(st.lists(clicks, max_size=30))
def test_counting_encoded_rows_equals_counting_clicks(rows: list[dict[str, Any]]) -> None:
    """An offset wrong by one shows only with some lengths: money-making reports would be off for some links."""
    links: Counter[tuple[Any, ...]] = Counter()
    sources: Counter[tuple[Any, ...]] = Counter()
    for click in rows:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=click["ms"] // BUCKET_MS * BUCKET_MS)
        kind = kind_of(click["flags"])
        links[moment, kind, click["link"]] += 1
        names = (click[name] or "" for name in ("channel", "country", "device"))
        sources[moment, kind, click["program"], click["partner"], *names] += 1
    assert (links, sources) == decoded(counted(list(map(encoded, rows)), ChannelLimit(), most=2))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 2), st.integers(0, 150)), max_size=60))
@example([(day, 1, word) for day in range(2) for word in range(151 - 100 * day)])
def test_a_stranger_cannot_invent_more_than_a_hundred_channels(visits: list[tuple[int, int, int]]) -> None:
    """Anyone can put any word into utm_source: each would be a row of statistics for ever. No click may go uncounted."""
    limit = ChannelLimit()
    rows = [
        encoded({"ms": day * 86_400_000, "link": 1, "program": 1, "partner": partner, "flags": 0,
                 "channel": f"w{word}" if word else None, "country": None, "ip": addresses_of_nobody, "device": None})
        for day, partner, word in visits
    ]  # fmt: skip
    named: defaultdict[tuple[datetime, int], set[str]] = defaultdict(set)
    total = 0
    for part in (rows[:50], rows[50:]):  # two batches, one limit
        encoded_part = counted(part, limit, most=1000)
        assert encoded_part == counted(part, limit, most=1000)  # a batch sent again
        for (moment, _, _, partner, channel, *_), number in decoded(encoded_part)[1].items():
            named[moment, partner].add(channel)
            total += number
    assert len(visits) == total
    expected: defaultdict[tuple[int, int], set[int]] = defaultdict(set)
    for day, partner, word in visits:
        expected[day, partner].add(word)
    for (moment, partner), channels in named.items():
        words = expected[(moment - datetime(1970, 1, 1, tzinfo=UTC)).days, partner]
        assert min(len(words - {0}), CHANNELS_MAX) == len(channels - {"", "(other)"})
        assert (len(words - {0}) > CHANNELS_MAX) == ("(other)" in channels)
        assert (0 in words) == ("" in channels)
