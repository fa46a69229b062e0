"""One sender's flood: it is asked to slow down, and nobody else notices."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from doors import OPEN, OTHER, OTHER_TOKEN, SHOP_TOKEN, Door, open_door
from hypothesis import given
from hypothesis import strategies as st

from tracker.domain.refusal import Reason
from tracker.web.postback_rates import Rates


@pytest.fixture
async def door(dsn: str, tmp_path: Path) -> AsyncIterator[Door]:
    async with open_door(dsn, tmp_path) as opened:
        yield opened


async def test_a_flood_is_asked_to_come_again_and_others_are_served(door: Door) -> None:
    """Danger: a script in a loop fills the journal, and every other shop's sale waits behind it."""
    door.door.intake.rates = Rates(per_second=1e-9, burst=3)
    sale = {"click_id": door.click(), "txid": "A", "amount": "1", "token": SHOP_TOKEN}
    assert [200] * 3 == [(await door.send(params=sale))[0] for _ in range(3)]
    status, problem = await door.send(params=sale)
    assert (429, "rate_limited", "5") == (status, problem["code"], door.headers["Retry-After"])
    assert 1 == door.refusals.counts[Reason.RATE_LIMITED]
    other = {"click_id": door.click(OTHER), "txid": "B", "amount": "1", "token": OTHER_TOKEN}
    assert 200 == (await door.send(params=other))[0]
    assert 200 == (await door.send(params={"click_id": door.click(OPEN), "amount": "1"}))[0]


async def test_what_strangers_send_uses_up_nobodys_rate(door: Door) -> None:
    """A click id is in every visitor's address bar: with it, anybody could silence a shop."""
    door.door.intake.rates = Rates(per_second=1e-9, burst=1)
    sale = {"click_id": door.click(), "txid": "A", "amount": "1"}
    for token in ("wrong", "", OTHER_TOKEN):
        assert (await door.send(params={**sale, "token": token}))[0] in (401, 403)
    assert 200 == (await door.send(params={**sale, "token": SHOP_TOKEN}))[0]


async def test_an_array_is_limited_by_its_items(door: Door) -> None:
    """A thousand messages in one request are a thousand: those that had room are kept, each of the others says that it is not."""
    door.door.intake.rates = Rates(per_second=1e-9, burst=2)
    items = [{"click_id": door.click(), "txid": str(number), "amount": 1} for number in range(3)]
    headers = {"Authorization": f"Bearer {SHOP_TOKEN}"}
    status, results = await door.send("POST", "/v1/conversions", json=items, headers=headers)
    assert (200, ["recorded", "recorded", 429]) == (status, [one["status"] for one in results])
    status, problem = await door.send("POST", "/v1/conversions", json=items, headers=headers)
    assert (429, "rate_limited", "5") == (status, problem["code"], door.headers["Retry-After"])


@given(st.lists(st.floats(min_value=0, max_value=10), max_size=60), st.integers(1, 5), st.floats(0.5, 5))
def test_in_any_span_no_more_than_burst_and_rate_allow(pauses: list[float], burst: int, per_second: float) -> None:
    rates, now, allowed = Rates(per_second=per_second, burst=burst), 0.0, []
    for pause in pauses:
        now += pause
        if rates.allows(7, now):
            allowed.append(now)
        elif pause >= 1 / per_second + 1e-6:
            raise AssertionError("a sender at the rate is refused")
    for first, start in enumerate(allowed):
        for last, end in enumerate(allowed[first:], first):
            assert last - first + 1 <= burst + (end - start) * per_second + 1e-6
