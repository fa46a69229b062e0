"""The order rules: whatever order, number and grouping messages arrive in, the same conversion comes out.

The danger: networks redeliver, reorder and split over edges as they like. Simpler rules (last one wins, status by arrival)
pay sales twice or undo reversals; brute force found 39 such histories in 240.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from decimal import Decimal
from itertools import permutations, product
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tracker.domain.attribution import Facts, LinkOwner, ProgramFacts, ProgramTerms, Standing
from tracker.domain.commission import CommissionTerm
from tracker.domain.conversion import Conversion, LedgerEntry, decide, fold
from tracker.domain.conversion_id import ConversionKey, key_of
from tracker.domain.postback import Postback, Status
from tracker.domain.program import Coupon

PROGRAM, LINK, PARTNER, COUPON_PARTNER = 7, 11, 13, 17
CLICKED = 1_700_000_000_000
HOUR = 3_600_000
DAY = 24 * HOUR
CLICK = (CLICKED << 83).to_bytes(16, "big")


def facts_of(
    terms: Sequence[ProgramTerms] = (ProgramTerms(0, 30, Status.APPROVED),),
    commissions: Sequence[tuple[int, str]] = ((0, "7.5"),),
    standings: Sequence[Standing] = (Standing(0, True),),
    coupon_until_ms: int | None = None,
    *,
    several_per_key: bool = False,
) -> Facts:
    """A program, a partner by link and one by coupon. `commissions`: percentages, each from a moment on."""
    return Facts(
        programs={
            PROGRAM: ProgramFacts(
                program_id=PROGRAM, several_per_key=several_per_key, terms=terms,
                commissions=[CommissionTerm(valid_from_ms=at, kind="percent", rate=Decimal(rate)) for at, rate in commissions],
                enrolments={PARTNER: [Standing(0, True)], COUPON_PARTNER: [Standing(0, True)]},
                coupons={
                    code: Coupon(coupon_id=1, program_id=PROGRAM, partner_id=COUPON_PARTNER, code=code, valid_from_ms=0,
                                 valid_to_ms=until)
                    for code, until in (("anna", coupon_until_ms), ("bert", None))
                },
            )
        },
        links={LINK: LinkOwner(PROGRAM, PARTNER)},
        partners={PARTNER: standings, COUPON_PARTNER: standings},
        clicks=frozenset({CLICK}),
    )


FACTS = facts_of()

# Where dated rows begin: around the click, and on whole hours of the time in which messages arrive. They arrive at a quarter
# past, so that being delivered some milliseconds later carries none of them over a boundary.
boundaries = st.sampled_from([CLICKED - 1, CLICKED, CLICKED + 1, *(CLICKED + DAY + hours * HOUR for hours in (1, 12, 24))])
arrivals = st.integers(0, 24).map(lambda hours: DAY + hours * HOUR + HOUR // 4)
worlds = st.builds(
    lambda first, default, at, window, then, commission_at, standings, until, several: facts_of(
        [ProgramTerms(0, first, default), ProgramTerms(at, window, then)], [(0, "7.5"), (commission_at, "20")],
        [Standing(0, standings[0]), Standing(standings[1], not standings[0])], until, several_per_key=several,
    ),
    st.sampled_from([1, 30]), st.sampled_from([Status.APPROVED, Status.PENDING]), boundaries, st.sampled_from([1, 30]),
    st.sampled_from([Status.APPROVED, Status.PENDING]), boundaries, st.tuples(st.booleans(), boundaries),
    st.none() | boundaries, st.booleans(),
)


def message(**fields: Any) -> Postback:
    usual = {"message_id": bytes(16), "received_ms": CLICKED + DAY, "program_id": PROGRAM, "click_id": None,
             "link_id": None, "txid": "A-1"}
    return Postback(**{**usual, **fields})


def key_in(facts: Facts, one: Postback) -> ConversionKey:
    return key_of(one, several_per_key=facts.programs[PROGRAM].several_per_key)


def deliver(messages: Iterable[Postback], facts: Facts) -> dict[ConversionKey, tuple[Conversion, list[LedgerEntry]]]:
    made: dict[ConversionKey, tuple[Conversion, list[LedgerEntry]]] = {}
    for one in messages:
        key = key_in(facts, one)
        before, ledger = made.get(key, (None, []))
        step = fold(before, one, key, facts)
        made[key] = step.after, [*ledger, *step.ledger]
    return made


def result(messages: Iterable[Postback], facts: Facts = FACTS) -> dict[ConversionKey, tuple[object, ...]]:
    """What must not depend on the order, per key: state but for the entry numbers, and the ledger's sums per partner."""
    return {key: settled(conversion, ledger) for key, (conversion, ledger) in deliver(messages, facts).items()}


def settled(conversion: Conversion, ledger: Sequence[LedgerEntry]) -> tuple[object, ...]:
    sums: dict[tuple[int, str], Decimal] = {}
    for entry in ledger:
        sums[entry.partner_id, entry.currency] = sums.get((entry.partner_id, entry.currency), Decimal(0)) + entry.amount
    owed = {who: amount for who, amount in sums.items() if amount}
    if owed:
        assert {(conversion.credit.partner_id, conversion.owed.currency): conversion.owed.amount} == owed
    else:
        assert not conversion.owed.amount
    entries = [entry.entry for entry in ledger]
    assert sorted(set(entries)) == entries
    return replace(conversion, last_entry=0, heard_ms=0), owed


moments = st.sampled_from([None, CLICKED + DAY, CLICKED + 2 * DAY, CLICKED + 31 * DAY])
agreeing = st.builds(
    lambda priced, clicked, status, ts_ms, coupon, received, event_id: message(
        amount=Decimal("59.90") if priced else None, currency="EUR" if priced else None,
        click_id=CLICK if clicked else None, link_id=LINK if clicked else None,
        status=status, ts_ms=ts_ms, coupon=coupon, received_ms=CLICKED + received, event_id=event_id,
    ),
    st.booleans(), st.booleans(), st.none() | st.sampled_from(Status), moments,
    st.sampled_from([None, "anna", "BERT", "nobody"]), arrivals, st.sampled_from([None, "first", "second"]),
)


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[list[Postback], list[Postback]]:
    """Messages that agree where they speak, and one delivery of them: each at least once, any order, later received."""
    drawn = draw(st.lists(agreeing, min_size=1, max_size=6))
    said = [replace(one, message_id=number.to_bytes(16, "big")) for number, one in enumerate(drawn)]
    again = draw(st.lists(st.sampled_from(said), max_size=6))
    arrived = draw(st.permutations(said + again))
    return said, [replace(one, received_ms=one.received_ms + position) for position, one in enumerate(arrived)]


# A late click, a coupon, and a commission that changes between two messages: rare in what is drawn.
DATED = facts_of([ProgramTerms(0, 1, Status.APPROVED)], [(0, "7.5"), (CLICKED + DAY + 12 * HOUR, "20")])
EARLY = message(received_ms=CLICKED + DAY + HOUR)
LATE = message(
    amount=Decimal(60), currency="EUR", click_id=CLICK, link_id=LINK, coupon="anna", received_ms=CLICKED + DAY + 13 * HOUR
)


@pytest.mark.fault(20)
@settings(max_examples=1000, deadline=None)
@given(deliveries(), worlds)
@example(([LATE, EARLY], [EARLY, LATE]), DATED)
def test_any_order_and_repetition_of_agreeing_messages_ends_the_same(
    case: tuple[list[Postback], list[Postback]], facts: Facts
) -> None:
    said, arrived = case
    assert result(said, facts) == result(arrived, facts)


@pytest.mark.fault(20)
def test_every_small_history_ends_the_same_in_every_order() -> None:
    """Brute force: all pairs and triples of 13 telling messages, each permuted, and with its first delivered again."""
    statuses = (None, Status.PENDING, Status.APPROVED, Status.REVERSED)
    sale = {"amount": Decimal(10), "currency": "EUR", "click_id": CLICK, "link_id": LINK}
    telling = [message(status=status, ts_ms=ts) for status, ts in product(statuses, (None, CLICKED + DAY, CLICKED + 40 * DAY))]
    telling.append(message(**sale))
    histories = [(a, b) for a, b in product(telling, telling)] + [(a, b, telling[-1]) for a, b in product(telling, telling)]
    for history in histories:
        expected = result(history)
        for order in permutations(history):
            assert expected == result(order)
            assert expected == result((*order, order[0]))


@settings(max_examples=300, deadline=None)
@given(st.lists(agreeing, min_size=1, max_size=5), st.sampled_from(Status), worlds, st.data())
def test_redelivery_never_undoes_a_persons_decision(
    said: list[Postback], status: Status, facts: Facts, data: st.DataObject
) -> None:
    """Danger: a shop's retry loop would silently overrule the person who looked into the case."""
    for key, (conversion, _) in deliver(said, facts).items():
        decided = decide(conversion, status, "checked by hand", facts).after
        for again in data.draw(st.lists(st.sampled_from([one for one in said if key_in(facts, one) == key]), max_size=5)):
            decided = fold(decided, again, key, facts).after
        assert status == decided.status


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(agreeing, st.booleans()), min_size=1, max_size=6), worlds, st.data())
def test_what_anybody_could_say_never_changes_what_the_authenticated_say(
    said: list[tuple[Postback, bool]], facts: Facts, data: st.DataObject
) -> None:
    """Danger: with a guessed order number a browser could fix another amount or click first, or approve its own sale."""
    messages = [replace(one, limited=limited, amount=one.amount and Decimal(1 if limited else 2)) for one, limited in said]
    arrived = data.draw(st.permutations(messages))
    authenticated = result([one for one in arrived if not one.limited], facts)
    for key, (conversion, ledger) in deliver(arrived, facts).items():
        if key in authenticated:
            assert authenticated[key] == settled(conversion, ledger)
        else:
            assert (Status.PENDING, []) == (conversion.status, ledger)
