"""A conversion: the fact that messages add up to, whatever their order, number and path (DESIGN section 5, "Order").

The theory. What messages say is kept as marks that only ever rise or are filled once: U and T (statuses), the amount
pair, the click, the earliest moments. Each mark is a maximum, a minimum or a first of equals, so any order of the same
messages ends in the same marks. All else (status, credit, what is owed) is computed from the marks, and the ledger is
moved to it by appending the difference. Nothing here may depend on the order of arrival, or know clock or database.
"""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple, TypeVar

from tracker.domain.attribution import Credit, Facts, ProgramFacts, attribute
from tracker.domain.click_id import uuid_time_ms
from tracker.domain.commission import NOTHING, Money, commission, find_term
from tracker.domain.conversion_id import ConversionKey
from tracker.domain.postback import Postback, Status
from tracker.domain.program import coupon_key
from tracker.domain.values import changed, valueclass

NOT_CREDITED = Credit()


class Timed(NamedTuple):
    """A status named with a `ts`. Compares by (ts, rank): the later one counts, of two at one moment the higher."""

    ts_ms: int
    status: Status


M = TypeVar("M", Status, Timed)
L = TypeVar("L", int, str)


@valueclass(frozen=True, slots=True)
class AdminDecision:
    """A person's word, and what messages had said until then: it holds until one of those two rises above that."""

    status: Status
    reason: str
    saw_untimed: Status | None
    saw_timed: Timed | None


@valueclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """The current state of one key. First the marks, then what follows from them."""

    key: ConversionKey
    heard_ms: int                          # earliest received-at
    told_ms: int | None = None             # earliest ts
    untimed: Status | None = None          # U
    timed: Timed | None = None             # T
    admin: AdminDecision | None = None
    amount: Decimal | None = None          # with currency one pair, filled once
    currency: str | None = None
    click_id: bytes | None = None          # with link_id and test, filled once
    link_id: int | None = None
    test: bool = False
    coupon: str | None = None              # lower case
    unconfirmed: bool = False              # only limited messages (mode open, browsers) spoke of it so far
    status: Status = Status.PENDING
    credit: Credit = NOT_CREDITED
    owed: Money = NOTHING                  # the sum of its ledger
    last_entry: int = 0                    # numbers history and ledger entries in one row

    @property
    def sold_ms(self) -> int:
        """When it was sold: the earliest ts, else the earliest received-at. Judged against the attribution window."""
        return self.heard_ms if self.told_ms is None else self.told_ms

    @property
    def moment_ms(self) -> int:
        """Whose terms apply: those of the click's moment, without a click those of received-at."""
        return self.heard_ms if self.click_id is None else uuid_time_ms(self.click_id)

    @property
    def named_status(self) -> Status | None:
        """What a person decided or messages named; None: nobody named any, the program's default holds."""
        if self.admin is not None and not self._risen_above(self.admin):
            return self.admin.status
        return max((s for s in (self.untimed, self.timed and self.timed.status) if s is not None), default=None)

    def _risen_above(self, decision: AdminDecision) -> bool:
        seen_u, seen_t = decision.saw_untimed, decision.saw_timed
        untimed_rose = self.untimed is not None and (seen_u is None or self.untimed > seen_u)
        timed_rose = self.timed is not None and (seen_t is None or self.timed > seen_t)
        return untimed_rose or timed_rose


class Outcome(StrEnum):
    """What became of a message about a conversion: the answer's `status`, and the postback log's outcome."""

    RECORDED = "recorded"
    UPDATED = "updated"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"


@valueclass(frozen=True, slots=True)
class HistoryEntry:
    entry: int
    change: str                            # recorded, filled, status, credit, decided, attached
    detail: dict[str, str | None]          # every visible field that changed, with its new value


@valueclass(frozen=True, slots=True)
class LedgerEntry:
    entry: int
    partner_id: int
    amount: Decimal                        # never zero
    currency: str
    reason: str                            # the conversion's status then


@valueclass(frozen=True, slots=True)
class Step:
    """One message or decision folded in."""

    after: Conversion
    outcome: Outcome
    reason: str | None = None              # of a conflict: amount, currency or click
    history: tuple[HistoryEntry, ...] = ()
    ledger: tuple[LedgerEntry, ...] = ()


def fold(before: Conversion | None, message: Postback, key: ConversionKey, facts: Facts) -> Step:
    """What `message` makes of its key. Raises KeyError when `facts` lack the key's program."""
    if before is None:
        fresh = Conversion(key=key, heard_ms=message.received_ms, unconfirmed=message.limited)
        return _settle(fresh, _absorb(fresh, message), facts, Outcome.RECORDED, "recorded")
    # The first authenticated message starts anew over what anybody could have said, so that a guessed order number
    # never stands in its way; after it, limited messages change nothing. Either order ends the same.
    base = before
    if before.unconfirmed and not message.limited:
        base = Conversion(key=key, heard_ms=message.received_ms, admin=before.admin)
    if differs := _conflict(base, message):
        return Step(before, Outcome.CONFLICT, differs)
    marked = _absorb(base, message)
    if message.limited or marked == before:
        return Step(before, Outcome.DUPLICATE)
    return _settle(before, marked, facts, Outcome.UPDATED)


def decide(before: Conversion, status: Status, reason: str, facts: Facts) -> Step:
    """A person's decision; it remembers the U and T it saw. The same decision again is a duplicate."""
    decision = AdminDecision(status, reason, before.untimed, before.timed)
    if before.admin == decision:
        return Step(before, Outcome.DUPLICATE)
    return _settle(before, changed(before, admin=decision), facts, Outcome.UPDATED, "decided")


def attach(before: Conversion, facts: Facts) -> Step:
    """The click row of a conversion credited from its id has landed (if it has: `facts.clicks`)."""
    if before.credit.kind != "id" or before.click_id not in facts.clicks:
        return Step(before, Outcome.DUPLICATE)
    return _settle(before, before, facts, Outcome.UPDATED, "attached")


def _conflict(known: Conversion, message: Postback) -> str | None:
    """Which of what both name differs."""
    if message.amount is not None and known.amount is not None:
        if message.currency != known.currency:
            return "currency"
        if message.amount != known.amount:
            return "amount"
    if message.click_id is not None and known.click_id is not None and message.click_id != known.click_id:
        return "click"
    return None


def _absorb(known: Conversion, message: Postback) -> Conversion:
    """The marks with the message's word in them."""
    untimed, timed = known.untimed, known.timed
    if message.status is not None and not message.limited:
        if message.ts_ms is None:
            untimed = _highest(untimed, message.status)
        else:
            timed = _highest(timed, Timed(message.ts_ms, message.status))
    amount, currency = known.amount, known.currency
    if amount is None and message.amount is not None:
        amount, currency = message.amount, message.currency
    click_id, link_id, test = known.click_id, known.link_id, known.test
    if click_id is None and message.click_id is not None:
        click_id, link_id, test = message.click_id, message.link_id, message.test
    return changed(
        known, untimed=untimed, timed=timed, amount=amount, currency=currency, click_id=click_id, link_id=link_id, test=test,
        heard_ms=min(known.heard_ms, message.received_ms),
        told_ms=_least(known.told_ms, message.ts_ms),
        # Messages may name different coupons without being in conflict. The alphabetically first counts: arbitrary, but
        # the same in every order of arrival.
        coupon=_least(known.coupon, None if message.coupon is None else coupon_key(message.coupon)),
    )


def _highest(known: M | None, said: M) -> M:
    return said if known is None else max(known, said)


def _least(known: L | None, said: L | None) -> L | None:
    return said if known is None else known if said is None else min(known, said)


def _settle(before: Conversion, marked: Conversion, facts: Facts, outcome: Outcome, change: str = "") -> Step:
    """Status, credit and owed of the marks, and the entries that lead there from `before`."""
    program = facts.programs[marked.key.program_id]
    status = marked.named_status
    if status is None:
        status = Status.PENDING if marked.unconfirmed else program.terms_at(marked.moment_ms).default_status
    credit = attribute(
        facts, program, click_id=marked.click_id, link_id=marked.link_id, coupon=marked.coupon,
        sold_ms=marked.sold_ms, heard_ms=marked.heard_ms,
    )
    if credit.kind == "id" and before.credit.kind == "click" and before.click_id == marked.click_id:
        credit = before.credit   # the row was here once; that its partition is gone by now takes nothing back
    owed = _target(marked, status, credit, program)
    entry = before.last_entry + 1
    ledger = _move_ledger(before, status, credit, owed, entry)
    after = changed(marked, status=status, credit=credit, owed=owed, last_entry=entry + len(ledger))
    detail = _differences(before, after)
    if not detail and not change:
        # Nothing anyone can see: a mark at most. It is kept, but numbered entries do not tell of it.
        return Step(changed(after, last_entry=before.last_entry), Outcome.DUPLICATE)
    if not change:
        filled = detail.keys() & {"amount", "click_id", "coupon"}
        change = "filled" if filled else "status" if "status" in detail else "credit"
    if change == "decided" and after.admin is not None:
        detail["reason"] = after.admin.reason
    return Step(after, outcome, None, (HistoryEntry(entry, change, detail),), ledger)


def _target(marked: Conversion, status: Status, credit: Credit, program: ProgramFacts) -> Money:
    """What shall be owed: the commission when approved, else nothing. Test clicks are never owed for.

    By the terms of the moment that the credit was judged at: a coupon's is received-at, however old the click beside it.
    """
    if status is not Status.APPROVED or marked.test or credit.partner_id is None:
        return NOTHING
    at_ms = marked.heard_ms if credit.kind == "coupon" else marked.moment_ms
    term = find_term(program.commissions, partner_id=credit.partner_id, event=marked.key.event, at_ms=at_ms)
    return commission(term, marked.amount, marked.currency)


def _move_ledger(before: Conversion, status: Status, credit: Credit, owed: Money, last: int) -> tuple[LedgerEntry, ...]:
    """The difference as entries behind number `last`: one, or two when partner or currency change."""
    moves: list[tuple[int | None, Decimal, str | None]]
    if (before.credit.partner_id, before.owed.currency) == (credit.partner_id, owed.currency):
        moves = [(credit.partner_id, owed.amount - before.owed.amount, owed.currency)]
    else:
        moves = [
            (before.credit.partner_id, -before.owed.amount, before.owed.currency),
            (credit.partner_id, owed.amount, owed.currency),
        ]
    return tuple([
        LedgerEntry(last + number, partner_id, amount, currency, status.word)
        for number, (partner_id, amount, currency) in enumerate([move for move in moves if move[1]], start=1)
        if partner_id is not None and currency is not None
    ])


def _differences(before: Conversion, after: Conversion) -> dict[str, str | None]:
    """Every visible field that differs, with its new value; of a new conversion: from nothing."""
    old, new = _visible(before), _visible(after)
    return {name: new[name] for name in new if new[name] != old[name]}


def _visible(conversion: Conversion) -> dict[str, str | None]:
    amount, owed = conversion.amount, conversion.owed
    return {
        "status": conversion.status.word,
        "amount": None if amount is None else f"{amount.normalize():f} {conversion.currency}",
        "click_id": None if conversion.click_id is None else conversion.click_id.hex(),
        "coupon": conversion.coupon,
        "credit": conversion.credit.kind,
        "credit_reason": conversion.credit.reason,
        "partner_id": None if conversion.credit.partner_id is None else str(conversion.credit.partner_id),
        "owed": f"{owed.amount.normalize():f} {owed.currency}" if owed.amount else "0",
    }
