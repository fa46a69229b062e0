"""The order rules: whatever order, number and grouping messages arrive in, the same conversion comes out.

The danger: networks redeliver, reorder and split over edges as they like. Simpler rules (last one wins, status by arrival)
pay sales twice or undo reversals; brute force found 39 such histories in 240.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from decimal import Decimal
from itertools import permutations, product
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tracker.domain.attribution import Facts, LinkOwner, ProgramFacts, ProgramTerms, Standing
from tracker.domain.commission import CommissionTerm
from tracker.domain.conversion import Conversion, LedgerEntry, decide, fold
from tracker.domain.conversion_id import key_of
from tracker.domain.postback import Postback, Status
from tracker.domain.program import Coupon

PROGRAM, LINK, PARTNER, COUPON_PARTNER = 7, 11, 13, 17
CLICKED = 1_700_000_000_000
DAY = 86_400_000
CLICK = (CLICKED << 83).to_bytes(16, "big")

FACTS = Facts(
    programs={
        PROGRAM: ProgramFacts(
            program_id=PROGRAM,
            terms=[ProgramTerms(0, 30, Status.APPROVED)],
            commissions=[CommissionTerm(valid_from_ms=0, kind="percent", rate=Decimal("7.5"))],
            enrolments={PARTNER: [Standing(0, True)], COUPON_PARTNER: [Standing(0, True)]},
            coupons={
                code: Coupon(coupon_id=1, program_id=PROGRAM, partner_id=COUPON_PARTNER, code=code, valid_from_ms=0)
                for code in ("anna", "bert")
            },
        )
    },
    links={LINK: LinkOwner(PROGRAM, PARTNER)},
    clicks=frozenset({CLICK}),
)


def message(**fields: Any) -> Postback:
    usual = {"message_id": bytes(16), "received_ms": CLICKED + DAY, "program_id": PROGRAM, "click_id": None,
             "link_id": None, "txid": "A-1"}
    return Postback(**{**usual, **fields})


def deliver(messages: Iterable[Postback]) -> tuple[Conversion | None, list[LedgerEntry]]:
    conversion: Conversion | None = None
    ledger: list[LedgerEntry] = []
    for one in messages:
        step = fold(conversion, one, key_of(one, several_per_key=False), FACTS)
        conversion = step.after
        ledger += step.ledger
    return conversion, ledger


def result(messages: Sequence[Postback]) -> tuple[object, ...]:
    """What must not depend on the order: state but for the entry numbers, and the ledger's sums per partner."""
    conversion, ledger = deliver(messages)
    sums: dict[tuple[int, str], Decimal] = {}
    for entry in ledger:
        sums[entry.partner_id, entry.currency] = sums.get((entry.partner_id, entry.currency), Decimal(0)) + entry.amount
    owed = {who: amount for who, amount in sums.items() if amount}
    assert conversion is not None
    if owed:
        assert {(conversion.credit.partner_id, conversion.owed.currency): conversion.owed.amount} == owed
    else:
        assert not conversion.owed.amount
    entries = [entry.entry for entry in ledger]
    assert sorted(set(entries)) == entries
    return replace(conversion, last_entry=0, heard_ms=0), owed


moments = st.sampled_from([None, CLICKED + DAY, CLICKED + 2 * DAY, CLICKED + 31 * DAY])
agreeing = st.builds(
    lambda priced, clicked, status, ts_ms, coupon, received: message(
        amount=Decimal("59.90") if priced else None, currency="EUR" if priced else None,
        click_id=CLICK if clicked else None, link_id=LINK if clicked else None,
        status=status, ts_ms=ts_ms, coupon=coupon, received_ms=CLICKED + received,
    ),
    st.booleans(), st.booleans(), st.none() | st.sampled_from(Status), moments,
    st.sampled_from([None, "anna", "BERT", "nobody"]), st.integers(DAY, 2 * DAY),
)


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[list[Postback], list[Postback]]:
    """Messages that agree where they speak, and one delivery of them: each at least once, any order, later received."""
    said = draw(st.lists(agreeing, min_size=1, max_size=6))
    again = draw(st.lists(st.sampled_from(said), max_size=6))
    arrived = draw(st.permutations(said + again))
    return said, [replace(one, received_ms=one.received_ms + position) for position, one in enumerate(arrived)]


@settings(max_examples=600, deadline=None)
@given(deliveries())
def test_any_order_and_repetition_of_agreeing_messages_ends_the_same(case: tuple[list[Postback], list[Postback]]) -> None:
    said, arrived = case
    assert result(said) == result(arrived)


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
@given(st.lists(agreeing, min_size=1, max_size=5), st.sampled_from(Status), st.data())
def test_redelivery_never_undoes_a_persons_decision(said: list[Postback], status: Status, data: st.DataObject) -> None:
    """Danger: a shop's retry loop would silently overrule the person who looked into the case."""
    conversion, _ = deliver(said)
    assert conversion is not None
    decided = decide(conversion, status, "checked by hand", FACTS).after
    for again in data.draw(st.lists(st.sampled_from(said), max_size=5)):
        decided = fold(decided, again, decided.key, FACTS).after
    assert status == decided.status


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(agreeing, st.booleans()), min_size=1, max_size=6), st.data())
def test_what_anybody_could_say_never_changes_what_the_authenticated_say(
    said: list[tuple[Postback, bool]], data: st.DataObject
) -> None:
    """Danger: with a guessed order number a browser could fix another amount or click first, or approve its own sale."""
    messages = [replace(one, limited=limited, amount=one.amount and Decimal(1 if limited else 2)) for one, limited in said]
    arrived = data.draw(st.permutations(messages))
    authenticated = [one for one in arrived if not one.limited]
    conversion, ledger = deliver(arrived)
    assert conversion is not None
    if authenticated:
        assert result(authenticated)[0] == replace(conversion, last_entry=0, heard_ms=0)
    else:
        assert (Status.PENDING, []) == (conversion.status, ledger)
