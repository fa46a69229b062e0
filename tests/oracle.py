"""The oracle of matching: what an order comes to, from all that was said about it, worked out anew each time.

It shares no code with the program, counts in whole cents, and knows one shop: 10 % of an approved order to Anna for a click on
her link in the last 30 days, else to Bert for his coupon.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

ANNA, BERT = 13, 17      # partners: by link, by coupon
DAY_MS = 86_400_000
RANKS = ("pending", "approved", "rejected", "reversed")


class Said(NamedTuple):
    """What a shop said of an order, as it said it: the click's token, cents."""

    order: str
    token: str | None = None
    cents: int | None = None
    status: str | None = None
    ts_ms: int | None = None
    coupon: bool = False


class Verdict(NamedTuple):
    """What a conversion comes to: the books' last word about one order."""

    status: str
    cents: int | None
    partner: int | None
    owed_cents: int


def in_conflict(one: Said, accepted: Sequence[Said]) -> bool:
    """Whether what it says differs from what was said first."""
    cents, token = first(said.cents for said in accepted), first(said.token for said in accepted)
    return one.cents not in (None, cents or one.cents) or one.token not in (None, token or one.token)


def judge(said: Iterable[Said], clicked_ms: dict[str, int], now_ms: int) -> Verdict:
    """All that was said about one order, in the order in which it was recorded."""
    accepted: list[Said] = []
    for one in said:
        if not in_conflict(one, accepted):
            accepted.append(one)
    untimed = [RANKS.index(one.status) for one in accepted if one.status and one.ts_ms is None]
    timed = [(one.ts_ms, RANKS.index(one.status)) for one in accepted if one.status and one.ts_ms is not None]
    named = ([max(untimed)] if untimed else []) + ([max(timed)[1]] if timed else [])
    status = RANKS[max(named)] if named else "approved"
    token, cents = first(one.token for one in accepted), first(one.cents for one in accepted)
    sold_ms = min((one.ts_ms for one in accepted if one.ts_ms is not None), default=now_ms)
    partner = None
    if token is not None and sold_ms <= clicked_ms[token] + 30 * DAY_MS:
        partner = ANNA
    elif any(one.coupon for one in accepted):
        partner = BERT
    pays = status == "approved" and partner is not None and cents is not None
    return Verdict(status, cents, partner, (cents * 10 + 50) // 100 if pays and cents else 0)


def first(values: Iterable[Any]) -> Any:
    return next((value for value in values if value is not None), None)
