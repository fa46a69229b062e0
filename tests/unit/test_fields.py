"""What people may say about programs, partners, links and coupons."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker.domain.fields import COUPON, LINK, PARTNER, PROGRAM, Commission, commission_text, parse_commission
from tracker.domain.mistakes import Invalid

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10%", Commission("percent", rate=Decimal(10))),
        (" 7.5 % ", Commission("percent", rate=Decimal("7.5"))),
        ("0%", Commission("percent", rate=Decimal(0))),
        ("100%", Commission("percent", rate=Decimal(100))),
        ("5.00 EUR", Commission("fixed", amount=Decimal("5.00"), currency="EUR")),
        ("5 eur", Commission("fixed", amount=Decimal(5), currency="EUR")),
        ("300 JPY", Commission("fixed", amount=Decimal(300), currency="JPY")),
        ("None", Commission("none")),
    ],
)
def test_a_commission_is_read_as_people_write_it(text: str, expected: Commission) -> None:
    assert expected == parse_commission(text)


@pytest.mark.parametrize(
    "text",
    ["", "%", "10", "EUR", "100.01%", "-1%", "1e1%", "NaN%", "5.001 EUR", "1.5 JPY", "5 XXX", "5EUR", "-5 EUR", "٣%",
     "5 EUR EUR", "Infinity EUR"],
)  # fmt: skip
def test_what_is_no_commission_is_refused(text: str) -> None:
    """A rate read wrongly is paid wrongly, thousands of times."""
    with pytest.raises(ValueError, match=r"."):
        parse_commission(text)


@given(st.decimals(0, 100, places=6) | st.integers(0, 100).map(Decimal))
def test_a_rate_comes_back_as_it_was(rate: Decimal) -> None:
    assert Commission("percent", rate=rate) == parse_commission(commission_text(rate, None, None))


@given(st.decimals(0, 10**9, places=2))
def test_a_fixed_commission_comes_back_as_it_was(amount: Decimal) -> None:
    assert Commission("fixed", amount=amount, currency="EUR") == parse_commission(commission_text(None, amount, "EUR"))


@given(st.sampled_from([PROGRAM, PARTNER, LINK, COUPON]), st.data())
def test_whatever_is_sent_is_taken_or_refused_with_a_reason(fields: Any, data: st.DataObject) -> None:
    """JSON can hold anything under any name: no other error may come out, it would be a 500."""
    names = st.sampled_from(sorted(fields.checks)) | st.text()
    sent = data.draw(st.dictionaries(names, ANYTHING, max_size=6))
    for check in (fields.check_new, fields.check_changes):
        try:
            clean = check(sent)
        except Invalid as exc:
            assert exc.mistakes
        else:
            assert clean.keys() == sent.keys()


@given(st.text(min_size=1))
def test_refusals_hold_nothing_of_what_was_sent(text: str) -> None:
    marked = f"<{text}>"
    with pytest.raises(Invalid) as caught:
        PROGRAM.check_new({name: marked for name in (*PROGRAM.checks, marked) if name != "name"})
    assert marked not in str(caught.value)


def test_times_are_utc_and_must_name_their_zone() -> None:
    clean = LINK.check_changes({"expires_at": "2030-06-01T12:00:00+02:00"})
    assert {"expires_at": datetime(2030, 6, 1, 10, tzinfo=UTC)} == clean
    for wrong in ("2030-06-01T12:00:00", "2030-06-01", "soon", 5, "0001-01-01T00:00:00+14:00", "9999-12-31T23:00:00-14:00"):
        with pytest.raises(Invalid):
            LINK.check_changes({"expires_at": wrong})


def test_null_takes_away_only_what_can_be_absent() -> None:
    assert {"fallback": None, "channel": None} == LINK.check_changes({"fallback": None, "channel": None})
    with pytest.raises(Invalid):
        LINK.check_changes({"destination": None})


def test_every_mistake_is_told() -> None:
    with pytest.raises(Invalid) as caught:
        LINK.check_new({"slug": "", "status": "gone", "colour": 1})
    assert ["", "destination", "partner", "program", "slug", "status"] == sorted(
        mistake.field for mistake in caught.value.mistakes
    )
