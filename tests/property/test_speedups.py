"""The compiled twins do what the Python does, over anything a stranger may send. Whatever else is tested holds both."""

from __future__ import annotations

import base64
import zlib
from collections import Counter, defaultdict
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support import missing
from test_click_statistics import clicks, encoded

import tracker
from tracker import speedups
from tracker.domain.click_id import COUNTER_LIMIT, Run, RunInPython, spell, spell_in_python
from tracker.storage.clicks.query_columns import take_any_query, take_query
from tracker.storage.clicks.statistics import tally, tally_in_python
from tracker.web.framing import plain_click, plain_click_in_python

ASKED = (b"utm_source", b"test", b"sub1", b"sub10", b"ext", b"a", b"")


@pytest.fixture(autouse=True, scope="module")
def _built() -> None:
    if not speedups.AVAILABLE:
        missing("tracker/_speedups.c was not built, or from other sources: pip install -e . where there is a C compiler")


def test_what_was_built_from_other_sources_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert speedups._load() is not None
    monkeypatch.setattr(speedups, "import_module", lambda _: SimpleNamespace(SOURCE_CRC=1))
    assert speedups._load() is None


def test_what_was_built_is_what_is_written() -> None:
    """A module of yesterday's source would be tested, and served, in the place of today's."""
    from tracker import _speedups  # type: ignore[attr-defined]

    crc = 0
    for source in sorted(Path(tracker.__file__).parent.glob("_speedups*.[ch]")):
        crc = zlib.crc32(source.read_bytes(), crc)
    assert crc & 0x7FFFFFFF == _speedups.SOURCE_CRC, "install the package again: pip install -e ."


@given(st.binary(min_size=20, max_size=20))
def test_an_id_is_spelled_alike(body: bytes) -> None:
    assert base64.b32hexencode(body).lower() == spell(body) == spell_in_python(body)


NAMES = [
    b"sub1", b"sub9", b"sub10", b"sub11", b"sub0", b"sub", b"ext", b"Sub1", b"%73ub2", b"utm_source", b"test", b"a", b"", b"n" * 64,
    b"n" * 65, b"a%22b", b"%", b"+",
]
VALUES = [
    b"", b"x", b"a%20b", b"a+b", b"%00", b"%c3%a9", b"\xc3\xa9", b"%22", b"%5C", b"%0a", b"%7f", b"%1", b"%zz", b"100%", b"=",
    b"a=b", b"v" * 1024, b"v" * 1025, b"%41" * 1024,
]
names = st.sampled_from(NAMES) | st.binary(max_size=6)
values = st.sampled_from(VALUES) | st.binary(max_size=12)
pairs = st.builds(lambda name, sign, value: name + sign + value, names, st.sampled_from([b"=", b"=", b"=", b"", b"=="]), values)
many = st.builds(lambda name, times: b"&".join([name + b"=1"] * times), st.binary(max_size=3), st.integers(60, 70))
queries = st.lists(pairs, max_size=8).map(b"&".join) | many


@settings(max_examples=2000)
@given(queries | st.binary(max_size=100), st.lists(st.sampled_from(ASKED), max_size=4).map(tuple))
@example(b"&" * 63, ASKED)
@example(b"&" * 64, ASKED)
@example(b"=".join([b"a" * 100] * 90), ASKED)
@example(b"&".join(b"%d=%d" % (n, n) for n in range(64)), ASKED)
def test_a_query_is_taken_alike(raw: bytes, asked: tuple[bytes, ...]) -> None:
    assert take_any_query(raw, asked) == take_query(raw, asked)


def test_every_pair_of_them_is_taken_alike() -> None:
    for name in NAMES:
        for value in VALUES:
            for raw in (name + b"=" + value, b"x=" + value + b"&" + name + b"=" + value + b"&" + name + b"=y"):
                assert take_any_query(raw, ASKED) == take_query(raw, ASKED), raw[:100]


@pytest.mark.parametrize("size", [8191, 8192, 8193, 100_000])
def test_no_query_is_too_long_for_it(size: int) -> None:
    for piece in (b"a", b"&", b"=", b"%41", b"a=1&"):
        raw = (piece * size)[:size]
        assert take_any_query(raw, ASKED) == take_query(raw, ASKED)


WHOLE = (
    b"GET /c/slug/?sub1=a HTTP/1.1\r\nHost: a:80 \r\nUser-Agent: \tx y \r\nX-Forwarded-For: 1.1.1.1 \r\n"
    b"Connection: Keep-Alive\t\r\n\r\n"
)


@pytest.mark.parametrize("at", range(len(WHOLE)))
def test_one_byte_changed_is_judged_alike(at: int) -> None:
    """Every byte at every place: what one of the two took and the other did not would be two opinions on a request."""
    for byte in range(256):
        data = WHOLE[:at] + bytes((byte,)) + WHOLE[at + 1 :]
        assert plain_click_in_python(data, 0) == plain_click(data, 0), data
    for data in (WHOLE[:at], WHOLE[:at] + WHOLE[at + 1 :], WHOLE[:at] + WHOLE[at:at + 1] * 2 + WHOLE[at + 1 :]):
        assert plain_click_in_python(data, 0) == plain_click(data, 0), data


@pytest.mark.parametrize("said", [b"prefetch", b"PreRender", b"x;preview", b"previe", b"", b"a prefetch b", b"reload"])
def test_what_a_page_is_fetched_for_is_understood_alike(said: bytes) -> None:
    data = WHOLE[:-2] + b"Sec-Purpose: " + said + b"\r\n\r\n"
    assert plain_click_in_python(data, 0) == plain_click(data, 0) is not None


@given(st.integers(-3, 200))
def test_any_place_to_begin_at_is_judged_alike(start: int) -> None:
    data = b"x" * 3 + WHOLE + WHOLE
    if start >= 0:
        assert plain_click_in_python(data, start) == plain_click(data, start)
    else:
        assert plain_click(data, start) is None


id_steps = st.lists(st.tuples(st.integers(0, 2**30 - 1) | st.sampled_from([0, 1, 2**30 - 1]), st.integers(0, 63)), max_size=8)


@given(st.binary(min_size=15, max_size=15), st.integers(0, COUNTER_LIMIT - 1) | st.integers(1, 4).map(lambda n: COUNTER_LIMIT - n),
       st.binary(min_size=1, max_size=64), id_steps)
def test_ids_are_made_alike(base: bytes, first: int, key: bytes, steps: list[tuple[int, int]]) -> None:
    # What time, key number and worker leave zero: flags, link and counter.
    base = (int.from_bytes(base, "big") & ~(63 << 69 | (2**30 - 1) << 35 | 2**20 - 1)).to_bytes(15, "big")
    compiled, python = Run(base, first, key), RunInPython(base, first, key)
    for link, flags in steps:
        assert python.next(link, flags) == compiled.next(link, flags)


def test_ids_of_a_millisecond_end_alike() -> None:
    compiled, python = Run(bytes(15), 7, b"k"), RunInPython(bytes(15), 7, b"k")
    for _ in range(COUNTER_LIMIT):
        assert python.next(1, 0) == compiled.next(1, 0) is not None
    assert python.next(1, 0) is compiled.next(1, 0) is None


@pytest.mark.parametrize(("base", "first", "key"), [
    (b"short", 0, b"k"), (bytes(16), 0, b"k"), (bytes(15), COUNTER_LIMIT, b"k"), (bytes(15), -1, b"k"), (bytes(15), 0, b""),
    (bytes(15), 0, b"k" * 65)])
def test_no_ids_are_made_of_what_has_no_place(base: bytes, first: int, key: bytes) -> None:
    with pytest.raises((ValueError, OverflowError)):
        Run(base, first, key)


@pytest.mark.parametrize(("link", "flags"), [(-1, 0), (2**30, 0), (2**70, 0), (1, -1), (1, 64)])
def test_no_id_is_made_of_a_number_too_large(link: int, flags: int) -> None:
    """Its bits would be those of its neighbour."""
    with pytest.raises(OverflowError):
        Run(bytes(15), 0, b"k").next(link, flags)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])      # rows are slowly made up, on a busy machine
@given(st.lists(clicks.map(encoded), max_size=10), st.integers(0, 200))
def test_rows_are_tallied_alike_and_none_beyond_its_end(rows: list[bytes], cut: int) -> None:
    starts, whole = [0, *accumulate(map(len, rows))][:-1], b"".join(rows)
    compiled, python = ((Counter[tuple[int, int]](), defaultdict[bytes, int](int)) for _ in range(2))
    tally(whole, starts, *compiled)
    tally_in_python(whole, starts, *python)
    assert python == compiled
    for start in (-1, len(whole) + 1, len(whole)):
        with pytest.raises(ValueError, match="row at"):
            tally(whole, [start], *compiled)
    if rows and cut < 86:      # what is cut off there ends within the three texts, at the latest behind their lengths
        with pytest.raises(ValueError, match="cut off"):
            tally(whole[: starts[-1] + cut], [starts[-1]], *compiled)


def test_what_is_no_bytes_is_an_error_and_no_crash() -> None:
    with pytest.raises(TypeError):
        tally(b"", (), Counter(), defaultdict(int))  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        plain_click(bytearray(WHOLE), 0)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        take_query("a", ())  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        take_query(b"a", ("a",))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="20 bytes"):
        spell(b"short")
