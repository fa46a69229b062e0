"""Money: amounts as they arrive, currencies, and the one place that rounds.

Why it exists: float never touches money here, and an amount is rounded exactly once, by `round_to_currency`. Nothing
about programs or partners may live here: what is owed to whom is commission.py.
"""

from __future__ import annotations

import re
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Final

MAX_AMOUNT: Final = Decimal(10) ** 12   # exclusive; with 6 decimals this is numeric(18, 6)
_PLAIN_DECIMAL: Final = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,6})?", re.ASCII)
_NUMBER: Final = re.compile(r"[+-]?[0-9]+(?:\.[0-9]+)?", re.ASCII)

# Own context: the process-wide one can be changed by any library. 40 digits hold amount (18) x rate (9) exactly.
_CONTEXT: Final = Context(prec=40, rounding=ROUND_HALF_UP)

# ISO 4217 list one, state of 2026: digits after the point. Metals, drawing rights and test codes (most of X..) are not
# money one can be paid in. Two codes withdrawn in 2025 (ANG, BGN) stay: late reversals of sales in them still come.
_DECIMALS: Final[dict[int, str]] = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
    2: "AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF "
       "CHE CHF CHW CNY COP COU CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD "
       "HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT "
       "MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR "
       "SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD USN UYU "
       "UZS VED VES WST XAD XCD XCG YER ZAR ZMW ZWG",
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "CLF UYW",
}
DECIMALS_BY_CURRENCY: Final = {code: digits for digits, codes in _DECIMALS.items() for code in codes.split()}


class BadAmount(ValueError):
    """An amount nobody may be paid by. `reason`: not_a_number, negative, too_many_decimals or too_large."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class BadCurrency(ValueError):
    """Not a currency of ISO 4217. Carries nothing of the input: answers never echo."""


def parse_amount(text: str) -> Decimal:
    """A plain decimal: ASCII digits, at most one point, up to 6 decimals, 0 <= amount < 10^12. Not rounded yet.

    Raises BadAmount for all else: signs, exponents, NaN, Infinity, "1,5", digits of other scripts, blanks.
    """
    if _PLAIN_DECIMAL.fullmatch(text):
        return Decimal(text)
    if not _NUMBER.fullmatch(text):
        raise BadAmount("not_a_number")
    if text[0] in "+-":
        raise BadAmount("negative" if text[0] == "-" else "not_a_number")
    whole, _, decimals = text.partition(".")
    raise BadAmount("too_many_decimals" if len(decimals) > 6 and len(whole) <= 12 else "too_large")


def parse_currency(text: str) -> str:
    """The code in upper case; lower case is accepted. Raises BadCurrency for unknown codes."""
    if text.isascii() and (code := text.upper()) in DECIMALS_BY_CURRENCY:
        return code
    raise BadCurrency


def round_to_currency(amount: Decimal, currency: str) -> Decimal:
    """`amount` with exactly the currency's decimals, halves away from zero.

    Half up and not half even: it is what contracts and invoices say, what a partner gets with paper and pencil, and
    what PostgreSQL's round(numeric) does, so a report that rounds in SQL agrees. Half even guards long sums of rounded
    numbers against bias; here every amount is rounded once and sums are exact.
    Raises BadCurrency for an unknown code, BadAmount when rounding reaches 10^12 or the amount is not finite.
    """
    digits = DECIMALS_BY_CURRENCY.get(currency)
    if digits is None:
        raise BadCurrency
    if not amount.is_finite():
        raise BadAmount("not_a_number")
    if abs(amount) < MAX_AMOUNT:
        rounded = amount.quantize(Decimal(1).scaleb(-digits), context=_CONTEXT)
        if abs(rounded) < MAX_AMOUNT:
            return rounded
    raise BadAmount("too_large")


def percent_of(amount: Decimal, rate: Decimal) -> Decimal:
    """`rate` percent of `amount`, exact, not rounded."""
    return _CONTEXT.multiply(amount, rate).scaleb(-2, context=_CONTEXT)
