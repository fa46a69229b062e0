"""From parameters to a message: checks what an authenticated sender says, field by field, and makes the Postback of it.

It exists so that past the door nothing needs checking again. Parts of the key (txid, event, event id) are refused when
too long or damaged, never mended: mending could make two orders one. What is only kept (customer, coupon) is cropped.
Who may say it is web/postback_auth.py's, bytes are postback_parameters.py's.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal

from tracker.domain import money
from tracker.domain.click_id import BadClickId, ClickId, Keyring
from tracker.domain.conversion_id import canonical_event, canonical_txid
from tracker.domain.postback import DEFAULT_EVENT, STATUS_BY_WORD, Postback, Status
from tracker.domain.postback_parameters import Parameters
from tracker.domain.refusal import Reason, Refused
from tracker.domain.values import valueclass

MOST_TXID = 256                     # characters
MOST_EVENT = 64
MOST_EVENT_ID = 160                 # an Idempotency-Key and an item's number fit
MOST_CUSTOMER = 256
MOST_COUPON = 64                    # as long as a code can be

UNNUMBERED = bytes(16)              # the message id of a message no journal has yet

Canonical = Callable[[str], str | None]

_FUTURE_MS = 86_400_000             # a day: wrong time zones are forgiven, wrong years are not
_OLDEST_MS = 946_684_800_000        # 2000-01-01: ts=0 and ts=1 are defaults of programs, not times of sales
_DIGITS = re.compile(r"(\d{9,14})(?:\.(\d{1,9}))?", re.ASCII)
_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(\.\d{1,9})?(?:([Zz])|([+ -])(\d\d:\d\d))", re.ASCII)


@valueclass(frozen=True, slots=True)
class Authority:
    """Who vouches for a message, and how far. Made by authentication."""

    program_id: int | None          # None: the click's link is unknown here, the credential vouches provisionally
    currency: str | None            # of amounts that name none; None: there is no telling which program's
    credential_id: int | None = None
    limited: bool = False           # may create a pending conversion only; its status is not read


def read_click_id(parameters: Parameters, keyring: Keyring) -> ClickId | None:
    """The verified click id, or None when none is given. Raises Refused with BadClickId's reason."""
    token = parameters.get("click_id")
    if token is None:
        return None
    try:
        return keyring.verify(token)
    except BadClickId as exc:
        raise Refused(Reason(exc.reason)) from None


def check_subject(parameters: Parameters) -> None:
    """A message without a click must name its program and its order. Raises Refused: what is missing."""
    for name, reason in (("program", Reason.MISSING_CLICK_ID), ("txid", Reason.MISSING_TXID)):
        if parameters.get(name) is None:
            raise Refused(Reason.UNFILLED_MACRO if {"click_id", name} & set(parameters.unfilled) else reason)


def compose(
    parameters: Parameters,
    *,
    received_ms: int,
    click: ClickId | None,
    authority: Authority,
    event_id: str | None = None,
) -> Postback:
    """The message, still without a message id. `event_id` is used when the message names none. Raises Refused: BAD_…"""
    amount, currency = _read_money(parameters, authority.currency)
    return Postback(
        message_id=UNNUMBERED,
        received_ms=received_ms,
        program_id=authority.program_id,
        click_id=click.uuid if click else None,
        link_id=click.link if click else None,
        test=click.test if click else False,
        event=_read_key(parameters, "event", canonical_event, MOST_EVENT, Reason.BAD_EVENT) or DEFAULT_EVENT,
        txid=_read_key(parameters, "txid", canonical_txid, MOST_TXID, Reason.BAD_TXID),
        event_id=_read_key(parameters, "event_id", canonical_txid, MOST_EVENT_ID, Reason.BAD_EVENT_ID) or event_id,
        amount=amount,
        currency=currency,
        status=None if authority.limited else _read_status(parameters),
        ts_ms=_read_ts(parameters, received_ms),
        customer=(parameters.get("customer") or "")[:MOST_CUSTOMER] or None,
        coupon=(parameters.get("coupon") or "")[:MOST_COUPON] or None,
        credential_id=authority.credential_id,
        limited=authority.limited,
    )


def parse_ts(text: str) -> int:
    """Milliseconds since the epoch of a `ts` parameter. Raises ValueError.

    Digits, with or without decimals: 9 to 11 before the point are seconds (until the year 5138), 12 to 14 milliseconds
    (from 1973), so no value means both. Else RFC 3339 with its zone; `+02:00` in a query arrives as ` 02:00`, which is
    understood.
    """
    if match := _DIGITS.fullmatch(text):
        whole, fraction = match.groups()
        if len(whole) > 11:
            return int(whole)
        return int(whole) * 1000 + int((fraction or "").ljust(3, "0")[:3])
    if match := _RFC3339.fullmatch(text):
        day, time, fraction, zulu, sign, offset = match.groups()
        zone = "+00:00" if zulu else f"{'-' if sign == '-' else '+'}{offset}"
        whole_seconds = int(datetime.fromisoformat(f"{day}T{time}{zone}").timestamp())
        return whole_seconds * 1000 + int((fraction or ".")[1:4].ljust(3, "0"))
    raise ValueError("neither a Unix time nor RFC 3339 with a zone")


def _read_key(parameters: Parameters, name: str, canonical: Canonical, most: int, reason: Reason) -> str | None:
    text = parameters.get(name)
    if text is None:
        return None
    key = canonical(text)
    if key is None or len(key) > most or "�" in key:
        raise Refused(reason)
    return key


def _read_money(parameters: Parameters, programs_currency: str | None) -> tuple[Decimal | None, str | None]:
    """The pair, rounded to the currency; a currency without an amount is no pair, but is checked all the same."""
    named = parameters.get("currency")
    text = parameters.get("amount")
    try:
        currency = money.parse_currency(named) if named is not None else programs_currency
        if text is None:
            return None, None
        amount = money.parse_amount(text)
        if currency is None:
            raise Refused(Reason.BAD_CURRENCY)
        return money.round_to_currency(amount, currency), currency
    except money.BadCurrency:
        raise Refused(Reason.BAD_CURRENCY) from None
    except money.BadAmount:
        raise Refused(Reason.BAD_AMOUNT) from None


def _read_status(parameters: Parameters) -> Status | None:
    word = parameters.get("status")
    if word is None:
        return None
    status = STATUS_BY_WORD.get(word.casefold())
    if status is None:
        raise Refused(Reason.BAD_STATUS)
    return status


def _read_ts(parameters: Parameters, received_ms: int) -> int | None:
    text = parameters.get("ts")
    if text is None:
        return None
    try:
        ts_ms = parse_ts(text)
    except (ValueError, OverflowError):
        raise Refused(Reason.BAD_TS) from None
    if not _OLDEST_MS <= ts_ms <= received_ms + _FUTURE_MS:
        raise Refused(Reason.BAD_TS)
    return ts_ms
