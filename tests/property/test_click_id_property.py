"""Ids are never made twice, whatever clocks, crashes and copied disks do; and nothing but an id of ours verifies."""

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracker.domain.click_id import COUNTER_LIMIT, BadClickId, ClickIdMaker, Keyring

KEYRING = Keyring(((3, bytes(range(32))), (4, bytes(range(1, 33)))))

links = st.integers(1, 2**30 - 1)
clock_steps = st.lists(st.one_of(st.integers(0, 3), st.integers(-3_600_000, 3_600_000)), min_size=1, max_size=60)


@given(st.integers(0, 2**45 - 1), links, st.integers(0, 2**15 - 1), st.integers(0, COUNTER_LIMIT - 1), st.booleans(), st.booleans())
def test_what_was_put_in_comes_out(time_ms: Any, link: Any, worker: Any, counter: Any, test: Any, not_spooled: Any) -> None:
    maker = ClickIdMaker(keyring=KEYRING, worker=worker, random_counter=lambda: counter)
    uuid, token = maker.make(time_ms, link, test=test, not_spooled=not_spooled)
    read = KEYRING.verify(token)
    assert (uuid, time_ms, link, worker, test, not_spooled) == (
        read.uuid, read.time_ms, read.link, read.worker, read.test, read.not_spooled)
    assert (32, 16) == (len(token), len(uuid))


@pytest.mark.fault(18)
@given(st.lists(clock_steps, min_size=1, max_size=5), st.integers(0, 2**32))
def test_no_id_twice_over_starts_crashes_and_clock_steps(starts: Any, seed: Any) -> None:
    """Each start (after a crash, a restart, on a copied disk) has a number of its own; within one, time never goes back.
    The random counter is made as unlucky as can be: always one of three values."""
    chance = random.Random(seed)
    seen = set()
    now = 1_795_305_600_000
    for number, steps in enumerate(starts):
        maker = ClickIdMaker(keyring=KEYRING, worker=number, random_counter=lambda: chance.choice((0, 1, COUNTER_LIMIT - 1)))
        last = b""
        for step in steps:
            now = max(0, now + step)
            uuid, token = maker.make(now, 77)
            assert token not in seen
            assert uuid not in seen
            assert uuid[:6] >= last[:6]
            seen |= {token, uuid}
            last = uuid


@pytest.mark.fault(18)
@settings(max_examples=3, deadline=None)
@given(st.integers(0, COUNTER_LIMIT - 1))
def test_a_counter_that_has_come_round_takes_the_next_millisecond(first: Any) -> None:
    """More than 2^20 ids in one millisecond of a clock that stands still."""
    maker = ClickIdMaker(keyring=KEYRING, worker=9, random_counter=lambda: first)
    heads = {maker.make(1000, 5)[0][:15] for _ in range(COUNTER_LIMIT + 5)}
    assert COUNTER_LIMIT + 5 == len(heads)


@given(st.binary(max_size=40) | st.text(max_size=40) | st.text("0123456789abcdefghijklmnopqrstuv", min_size=32, max_size=32))
def test_anything_else_is_refused_and_never_raises_another_error(token: Any) -> None:
    try:
        KEYRING.verify(token)
    except BadClickId as refused:
        assert refused.reason in {"truncated", "foreign_format", "unknown_key", "forged"}
    else:
        raise AssertionError("a token nobody signed was taken")


@given(links, st.integers(0, 159))
def test_one_flipped_bit_is_a_forgery(link: Any, bit: Any) -> None:
    import base64

    _, token = ClickIdMaker(keyring=KEYRING, worker=1, random_counter=lambda: 1).make(1_795_305_600_000, link)
    packed = int.from_bytes(base64.b32hexdecode(token, casefold=True), "big") ^ 1 << bit
    try:
        KEYRING.verify(base64.b32hexencode(packed.to_bytes(20, "big")))
    except BadClickId as refused:
        assert refused.reason in {"forged", "unknown_key"}
    else:
        raise AssertionError("a changed id was taken")
