"""Amounts, currencies, rounding."""

import re
from decimal import Decimal, getcontext, localcontext

import pytest

from tracker.domain.money import (
    DECIMALS_BY_CURRENCY,
    BadAmount,
    BadCurrency,
    parse_amount,
    parse_currency,
    percent_of,
    round_to_currency,
)


@pytest.mark.parametrize("text", ["0", "1", "007", "12.5", "0.000001", "999999999999.999999"])
def test_plain_decimals_are_amounts(text: str) -> None:
    assert Decimal(text) == parse_amount(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not_a_number"), ("NaN", "not_a_number"), ("Infinity", "not_a_number"), ("-inf", "not_a_number"),
        ("1e5", "not_a_number"), ("1,5", "not_a_number"), ("１２", "not_a_number"), (" 1", "not_a_number"),
        ("1\n", "not_a_number"), ("+1", "not_a_number"), ("1.", "not_a_number"), (".5", "not_a_number"),
        ("1_000", "not_a_number"), ("0x1f", "not_a_number"), ("-1", "negative"), ("-0.5", "negative"),
        ("1.0000001", "too_many_decimals"), ("1000000000000", "too_large"), ("1" * 400, "too_large"),
        ("999999999999.0000001", "too_many_decimals"), ("1000000000000.0000001", "too_large"),
    ],
)
def test_everything_else_is_refused_with_its_reason(text: str, reason: str) -> None:
    """Danger: Decimal() itself takes NaN, exponents, underscores and the digits of every script."""
    with pytest.raises(BadAmount) as caught:
        parse_amount(text)
    assert reason == caught.value.reason


@pytest.mark.parametrize(("text", "code"), [("EUR", "EUR"), ("usd", "USD"), ("Jpy", "JPY")])
def test_currencies_are_read_in_any_case(text: str, code: str) -> None:
    assert code == parse_currency(text)


@pytest.mark.parametrize("text", ["", "EU", "EURO", "XXX", "XAU", "ZZZ", "ＥＵＲ", "eur ", "ſek"])
def test_unknown_currencies_are_refused(text: str) -> None:
    """Danger: "ſek".upper() is "SEK"."""
    with pytest.raises(BadCurrency):
        parse_currency(text)


@pytest.mark.parametrize(
    ("amount", "currency", "rounded"),
    [
        ("1.005", "EUR", "1.01"), ("1.004999", "EUR", "1.00"), ("2.5", "JPY", "3"), ("3.5", "JPY", "4"),
        ("0.0005", "KWD", "0.001"), ("0.00005", "CLF", "0.0001"), ("-1.005", "EUR", "-1.01"), ("7", "EUR", "7.00"),
    ],
)
@pytest.mark.fault(26)
def test_halves_round_away_from_zero_to_the_currencys_decimals(amount: str, currency: str, rounded: str) -> None:
    assert rounded == str(round_to_currency(Decimal(amount), currency))


def test_rounding_never_makes_more_than_the_column_holds() -> None:
    """Danger: 999999999999.9 yen would become 10^12 and be refused by numeric(18, 6) in the middle of a group."""
    assert Decimal(999999999999) == round_to_currency(Decimal("999999999999.4"), "JPY")
    for amount in ("999999999999.9", "-999999999999.9"):
        with pytest.raises(BadAmount, match="too_large"):
            round_to_currency(Decimal(amount), "JPY")


@pytest.mark.parametrize(
    ("amount", "reason"), [("NaN", "not_a_number"), ("Infinity", "not_a_number"), ("1e60", "too_large"), ("1e12", "too_large")]
)
def test_rounding_refuses_what_is_no_amount(amount: str, reason: str) -> None:
    with pytest.raises(BadAmount) as caught:
        round_to_currency(Decimal(amount), "EUR")
    assert reason == caught.value.reason


def test_rounding_to_an_unknown_currency_is_refused() -> None:
    with pytest.raises(BadCurrency):
        round_to_currency(Decimal(1), "XXX")


def test_percentages_are_exact_whatever_the_process_wide_context_says() -> None:
    """Danger: a library that lowers the global precision would change what partners are owed."""
    with localcontext() as context:
        context.prec = 5
        exact = percent_of(Decimal("999999999999.999999"), Decimal("33.333333"))
    assert Decimal("333333329999.99999966666667") == exact
    assert getcontext().prec >= 28


def test_the_table_has_the_exceptions_of_iso_4217() -> None:
    assert {0, 2, 3, 4} == set(DECIMALS_BY_CURRENCY.values())
    assert (0, 2, 3, 4) == tuple(DECIMALS_BY_CURRENCY[code] for code in ("JPY", "EUR", "TND", "UYW"))
    assert [] == [code for code in DECIMALS_BY_CURRENCY if not re.fullmatch("[A-Z]{3}", code)]
