"""Commission: what a partner is owed for one approved conversion, by terms dated and nested.

Only the sum lives here; whether anything is owed at all (status, credit, test clicks) is conversion.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from decimal import Decimal
from itertools import product
from typing import Literal, Protocol, TypeVar

from tracker.domain.money import percent_of, round_to_currency
from tracker.domain.values import valueclass

EVERY_PARTNER = 0
EVERY_EVENT = ""


class Dated(Protocol):
    """A row of a dated table: valid from then on, until the next."""

    @property
    def valid_from_ms(self) -> int: ...


D = TypeVar("D", bound=Dated)


def valid_at(rows: Sequence[D], at_ms: int) -> D | None:
    """The newest of `rows` that was valid at `at_ms`; None before the first."""
    newest = None
    for row in rows:
        if row.valid_from_ms <= at_ms and (newest is None or row.valid_from_ms > newest.valid_from_ms):
            newest = row
    return newest


@valueclass(frozen=True, slots=True, kw_only=True)
class CommissionTerm:
    """One row of commission_terms. percent: `rate` of the amount; fixed: `amount` in `currency`; none: they ended."""

    valid_from_ms: int
    kind: Literal["percent", "fixed", "none"]
    partner_id: int = EVERY_PARTNER
    event: str = EVERY_EVENT
    rate: Decimal | None = None
    amount: Decimal | None = None
    currency: str | None = None


@valueclass(frozen=True, slots=True)
class Money:
    """An amount of one currency; nothing owed has no currency."""

    amount: Decimal
    currency: str | None


NOTHING = Money(Decimal(0), None)


def find_term(terms: Iterable[CommissionTerm], *, partner_id: int, event: str, at_ms: int) -> CommissionTerm | None:
    """The most special term valid at `at_ms`: (partner, event), (partner, any), (all, event), (all, any).

    A term that ended (kind none) hands over to the next wider one. A partner who shall get nothing has a fixed 0.
    """
    rows: defaultdict[tuple[int, str], list[CommissionTerm]] = defaultdict(list)
    for row in terms:
        rows[row.partner_id, row.event].append(row)
    for whose in product((partner_id, EVERY_PARTNER), (event, EVERY_EVENT)):
        term = valid_at(rows.get(whose, ()), at_ms)
        if term is not None and term.kind != "none":
            return term
    return None


def commission(term: CommissionTerm | None, amount: Decimal | None, currency: str | None) -> Money:
    """What `term` pays for a conversion of `amount`: in the amount's currency (fixed: its own), rounded once.

    A percentage of an amount not known yet is nothing, until the amount is filled.
    """
    if term is None:
        return NOTHING
    if term.amount is not None and term.currency is not None:
        owed = Money(round_to_currency(term.amount, term.currency), term.currency)
    elif term.rate is not None and amount is not None and currency is not None:
        owed = Money(round_to_currency(percent_of(amount, term.rate), currency), currency)
    else:
        return NOTHING
    return owed if owed.amount else NOTHING
