"""What people may say about programs, partners, links and coupons: which fields there are, and what each may hold.

One table, for the admin API, its description (web/openapi.py) and the command line alike. Every field is checked and all
mistakes are told together. What takes knowledge of other rows (is the slug free, does the program exist) is the store's;
templates are link.py's.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, Literal

from tracker.domain.link import DESTINATION_LIMIT, SLUG
from tracker.domain.mistakes import FieldMistake, Invalid
from tracker.domain.money import BadAmount, BadCurrency, parse_amount, parse_currency, round_to_currency


@dataclass(frozen=True, slots=True)
class Check:
    """What one field may hold. `clean` gives the value as it is kept, or raises ValueError or TypeError; `schema` says the
    same in JSON Schema as far as that can: it holds for whatever `clean` takes, not the other way round."""

    clean: Callable[[Any], Any]
    schema: Mapping[str, Any]

    def __call__(self, value: Any) -> Any:
        return self.clean(value)


def _described(**schema: Any) -> Callable[[Callable[[Any], Any]], Check]:
    return lambda clean: Check(clean, schema)


@dataclass(frozen=True, slots=True)
class Commission:
    """What a conversion pays: `rate` percent, or a fixed `amount` of `currency`; none ends earlier terms."""

    kind: Literal["percent", "fixed", "none"]
    rate: Decimal | None = None
    amount: Decimal | None = None
    currency: str | None = None


def parse_commission(text: str) -> Commission:
    """`10%`, `5.00 EUR` or `none`. Raises ValueError."""
    said = text.strip()
    if said.lower() == "none":
        return Commission("none")
    try:
        if said.endswith("%"):
            rate = parse_amount(said[:-1].strip())
            if rate > 100:
                raise ValueError("more than 100 percent")
            return Commission("percent", rate=rate)
        number, _, code = said.partition(" ")
        amount, currency = parse_amount(number), parse_currency(code.strip())
        if round_to_currency(amount, currency) != amount:
            raise ValueError("more decimals than the currency has")
    except BadAmount as exc:
        raise ValueError("write it like 10%, like 5.00 EUR, or none") from exc
    except BadCurrency as exc:
        raise ValueError("its currency is not one of ISO 4217; write it like 10%, like 5.00 EUR, or none") from exc
    return Commission("fixed", amount=amount, currency=currency)


def commission_text(rate: Decimal | None, amount: Decimal | None, currency: str | None) -> str:
    """The inverse of parse_commission, from a row's columns."""
    if rate is not None:
        return f"{_short(rate)}%"
    return "none" if amount is None or currency is None else f"{round_to_currency(amount, currency)} {currency}"


def _short(number: Decimal) -> str:
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _text(longest: int) -> Check:
    @_described(type="string", minLength=1, maxLength=longest)
    def check(value: Any) -> str:
        if not isinstance(value, str):
            raise TypeError("must be text")
        clean = unicodedata.normalize("NFC", value).strip()
        if not 1 <= len(clean) <= longest:
            raise ValueError(f"must have 1 to {longest} characters")
        if not clean.isprintable():
            raise ValueError("holds a control character")
        return clean

    return check


@_described(type="string", pattern=f"^{SLUG.pattern}$")
def _slug(value: Any) -> str:
    if not (isinstance(value, str) and SLUG.fullmatch(value)):
        raise ValueError("must be 1 to 64 letters, digits, - or _")
    return value


def _one_of(*words: str) -> Check:
    @_described(type="string", enum=list(words))
    def check(value: Any) -> str:
        if value not in words:
            raise ValueError(f"must be one of {', '.join(words)}")
        return str(value)

    return check


def _whole(lowest: int, highest: int) -> Check:
    @_described(type="integer", minimum=lowest, maximum=highest)
    def check(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
            raise ValueError(f"must be a whole number from {lowest} to {highest}")
        return value

    return check


@_described(type="boolean")
def _switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError("must be true or false")
    return value


@_described(type="string", minLength=3, maxLength=3, description="A code of ISO 4217")
def _currency(value: Any) -> str:
    try:
        return parse_currency(_text(3)(value))
    except BadCurrency as exc:
        raise ValueError("is not a currency of ISO 4217") from exc


@_described(type="string", minLength=2, description="10%, 5.00 EUR or none", examples=["10%", "5.00 EUR", "none"])
def _commission(value: Any) -> Commission:
    if not isinstance(value, str):
        raise TypeError("must be text like 10% or 5.00 EUR: numbers of JSON are no money")
    return parse_commission(value)


@_described(**_text(64).schema)
def _event(value: Any) -> str:
    return unicodedata.normalize("NFC", str(_text(64)(value)).casefold())


@_described(type="array", maxItems=1000, items={"type": "string", "minLength": 1, "examples": ["203.0.113.0/24"]})
def _networks(value: Any) -> list[IPv4Network | IPv6Network]:
    if not isinstance(value, (list, tuple)) or len(value) > 1000:
        raise ValueError("must be a list of at most 1000 networks")
    try:
        return [ip_network(one) for one in map(_text(64), value)]
    except ValueError as exc:
        raise ValueError("holds what is not a network; write them like 203.0.113.0/24") from exc


@_described(
    type="string", minLength=1, maxLength=DESTINATION_LIMIT, description="A URL with macros",
    examples=["https://shop.example/?cid={click_id}"],
)  # fmt: skip
def _template(value: Any) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= DESTINATION_LIMIT:
        raise ValueError(f"must be a URL of at most {DESTINATION_LIMIT} characters")
    return value


def _some_of(check: Check, *, least: int, most: int) -> Check:
    @_described(type="array", minItems=least, maxItems=most, items=check.schema)
    def check_all(value: Any) -> list[Any]:
        if not isinstance(value, (list, tuple)) or not least <= len(value) <= most:
            raise ValueError(f"must be a list of {least} to {most}")
        return list(dict.fromkeys(check(one) for one in value))

    return check_all


@_described(type="string", format="date-time")
def _moment(value: Any) -> datetime:
    moment = value
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError as exc:
            raise ValueError("must be a time like 2027-01-31T12:00:00Z") from exc
    if not isinstance(moment, datetime):
        raise TypeError("must be a time like 2027-01-31T12:00:00Z")
    if moment.tzinfo is None:
        raise ValueError("must name its time zone, like 2027-01-31T12:00:00Z")
    if not 1970 <= moment.year <= 3000:
        raise ValueError("must be between the years 1970 and 3000")
    return moment.astimezone(UTC)


def _or_none(check: Check) -> Check:
    return Check(lambda value: None if value is None else check(value), {"anyOf": [check.schema, {"type": "null"}]})


@dataclass(frozen=True, slots=True)
class Fields:
    """What may be given when one is made, what must be, and what may be changed later."""

    checks: Mapping[str, Check]
    required: frozenset[str]
    fixed: frozenset[str]     # given when made, never changed: clicks and conversions rely on them

    def check_new(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The values, clean. Raises Invalid with every mistake."""
        missing = [FieldMistake(name, "is missing") for name in sorted(self.required - given.keys())]
        return self._check(given, missing)

    def check_changes(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """As check_new, for a change of some fields."""
        fixed = [FieldMistake(name, "cannot be changed") for name in sorted(self.fixed & given.keys())]
        return self._check(given, fixed)

    def _check(self, given: Mapping[str, Any], mistakes: list[FieldMistake]) -> dict[str, Any]:
        clean: dict[str, Any] = {}
        for name, value in given.items():
            if name not in self.checks:
                mistakes.append(FieldMistake("", f"an unknown field; there are {', '.join(self.checks)}"))
                continue
            try:
                clean[name] = self.checks[name](value)
            except (ValueError, TypeError) as exc:
                mistakes.append(FieldMistake(name, str(exc)))
        if mistakes:
            raise Invalid(*mistakes)
        return clean


PROGRAM = Fields(
    checks={
        "slug": _slug,
        "name": _text(200),
        "currency": _currency,
        "auth_mode": _one_of("token", "hmac", "ip", "open"),
        "ip_allow": _networks,
        "several_per_key": _switch,
        "pending_cap": _whole(0, 1_000_000),
        "window_days": _whole(1, 400),
        "default_status": _one_of("pending", "approved"),
        "commission": _commission,
        "event": _event,
    },
    required=frozenset({"slug", "currency"}),
    fixed=frozenset({"slug"}),
)

PARTNER = Fields(
    checks={
        "slug": _slug,
        "name": _text(200),
        "status": _one_of("active", "blocked"),
        "program": _slug,
        "enrolment": _one_of("active", "ended"),
        "commission": _commission,
        "event": _event,
    },
    required=frozenset({"slug"}),
    fixed=frozenset({"slug"}),
)

LINK = Fields(
    checks={
        "slug": _slug,
        "program": _slug,
        "partner": _slug,
        "destination": _template,
        "fallback": _or_none(_template),
        "channel": _or_none(_text(64)),
        "pass_query": _switch,
        "referrer_policy": _one_of("none", "origin", "full"),
        "allow_test": _switch,
        "status": _one_of("active", "paused", "archived"),
        "expires_at": _or_none(_moment),
    },
    required=frozenset({"program", "partner", "destination"}),
    fixed=frozenset({"slug", "program", "partner"}),
)

COUPON = Fields(
    checks={
        "program": _slug,
        "partner": _slug,
        "code": _text(64),
        "valid_from": _moment,
        "valid_to": _or_none(_moment),
    },
    required=frozenset({"program", "partner", "code"}),
    fixed=frozenset({"program", "partner", "code"}),
)

ENDPOINT = Fields(
    checks={
        "url": _template,
        "program": _or_none(_slug),
        "method": _one_of("GET", "POST"),
        "statuses": _some_of(_one_of("pending", "approved", "rejected", "reversed"), least=1, most=4),
        "events": _some_of(_event, least=0, most=50),
        "status": _one_of("active", "paused"),
    },
    required=frozenset({"url"}),
    fixed=frozenset({"program"}),
)

CREDENTIAL = Fields(checks={"label": _text(100)}, required=frozenset(), fixed=frozenset())

RETRY = Fields(
    checks={"partner": _slug, "endpoint_id": _whole(1, (1 << 30) - 1), "since": _moment}, required=frozenset(), fixed=frozenset()
)

DECISION = Fields(
    checks={"status": _one_of("pending", "approved", "rejected", "reversed"), "reason": _text(500)},
    required=frozenset({"status", "reason"}),
    fixed=frozenset(),
)
