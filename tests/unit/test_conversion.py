"""Decisions about one conversion, each rule by one example."""

from dataclasses import replace
from decimal import Decimal
from itertools import permutations
from typing import Any

import pytest

from tracker.domain.attribution import Credit, Facts, LinkOwner, ProgramFacts, ProgramTerms, Standing, was_spooled
from tracker.domain.commission import CommissionTerm, Money, commission, find_term
from tracker.domain.conversion import Conversion, Outcome, Step, Timed, attach, decide, fold
from tracker.domain.conversion_id import key_of
from tracker.domain.postback import Postback, Status
from tracker.domain.program import Coupon, coupon_key

DAY = 86_400_000
CLICKED = 20_000 * DAY
CLICK, OTHER_CLICK = (CLICKED << 83).to_bytes(16, "big"), (CLICKED << 83 | 9).to_bytes(16, "big")
ANNA, BERT, CARL = 1, 2, 3


def some_facts(**changes: Any) -> Facts:
    program = ProgramFacts(
        program_id=7,
        terms=[ProgramTerms(0, 30, Status.APPROVED), ProgramTerms(CLICKED + 1, 1, Status.PENDING)],
        commissions=[CommissionTerm(valid_from_ms=0, kind="percent", rate=Decimal(10))],
        enrolments={ANNA: [Standing(0, True)], BERT: [Standing(0, True)]},
        coupons={"bert10": Coupon(coupon_id=1, program_id=7, partner_id=BERT, code="BERT10", valid_from_ms=0,
                                  valid_to_ms=CLICKED + 9 * DAY)},
    )
    facts = Facts(programs={7: program}, links={11: LinkOwner(7, ANNA), 12: LinkOwner(7, CARL), 13: LinkOwner(8, ANNA)},
                  clicks=frozenset({CLICK}))
    return replace(facts, **changes)


def sale(**fields: Any) -> Postback:
    usual = {"message_id": bytes(16), "received_ms": CLICKED + DAY, "program_id": 7, "click_id": CLICK, "link_id": 11,
             "txid": "A-1", "amount": Decimal("50.00"), "currency": "EUR"}
    return Postback(**{**usual, **fields})


def clickless(**fields: Any) -> Postback:
    return sale(**{"click_id": None, "link_id": None, **fields})


def step(before: Conversion | None, message: Postback, facts: Facts | None = None) -> Step:
    return fold(before, message, key_of(message, several_per_key=False), facts or some_facts())


def first(message: Postback, facts: Facts | None = None) -> Conversion:
    return step(None, message, facts).after


def test_the_outcomes_have_the_words_that_senders_read() -> None:
    assert ["recorded", "updated", "duplicate", "conflict"] == [str(outcome) for outcome in Outcome]


def test_a_first_sale_is_recorded_credited_and_owed() -> None:
    made = step(None, sale())
    assert Outcome.RECORDED == made.outcome
    assert (Status.APPROVED, Credit("click", None, ANNA)) == (made.after.status, made.after.credit)
    assert Money(Decimal("5.00"), "EUR") == made.after.owed
    assert [(2, ANNA, Decimal("5.00"), "EUR")] == [(e.entry, e.partner_id, e.amount, e.currency) for e in made.ledger]
    assert [(1, "recorded")] == [(entry.entry, entry.change) for entry in made.history]


def test_the_same_again_is_a_duplicate_and_leaves_no_trace() -> None:
    recorded = first(sale())
    again = step(recorded, sale(received_ms=CLICKED + 2 * DAY))
    assert Step(recorded, Outcome.DUPLICATE) == again


def test_reversing_takes_back_by_an_entry_and_the_old_sale_changes_nothing() -> None:
    reversed_ = step(first(sale()), clickless(amount=None, currency=None, status=Status.REVERSED))
    assert [Decimal("-5.00")] == [entry.amount for entry in reversed_.ledger]
    assert Outcome.DUPLICATE == step(reversed_.after, sale()).outcome


def test_going_back_takes_a_later_moment() -> None:
    rejected = first(sale(status=Status.REJECTED, ts_ms=CLICKED + 5))
    assert Status.REJECTED == step(rejected, sale(status=Status.APPROVED, ts_ms=CLICKED + 4)).after.status
    assert Status.APPROVED == step(rejected, sale(status=Status.APPROVED, ts_ms=CLICKED + 6)).after.status
    assert Status.REJECTED == first(sale(status=Status.REJECTED)).status
    untimed = step(first(sale(status=Status.REJECTED)), sale(status=Status.APPROVED, ts_ms=CLICKED + 6)).after
    assert Status.REJECTED == untimed.status
    assert Timed(CLICKED + 6, Status.APPROVED) == untimed.timed


def test_the_default_status_holds_only_until_one_is_named() -> None:
    assert Status.PENDING == step(first(sale()), sale(status=Status.PENDING)).after.status


def test_a_missing_amount_is_filled_once_and_owed_for() -> None:
    bare = first(sale(amount=None, currency=None))
    filled = step(bare, sale())
    assert (Outcome.UPDATED, Money(Decimal("5.00"), "EUR")) == (filled.outcome, filled.after.owed)
    assert ["filled"] == [entry.change for entry in filled.history]


def test_a_missing_click_is_filled_once_and_credit_decided_anew() -> None:
    """A coupon's partner was credited before the click was known: the click takes over, by two entries."""
    by_coupon = first(clickless(coupon=" Bert10", status=Status.APPROVED))
    assert Credit("coupon", None, BERT) == by_coupon.credit
    filled = step(by_coupon, sale())
    assert Credit("click", None, ANNA) == filled.after.credit
    assert [(BERT, Decimal("-5.00")), (ANNA, Decimal("5.00"))] == [(e.partner_id, e.amount) for e in filled.ledger]


@pytest.mark.parametrize(
    ("fields", "what"),
    [({"amount": Decimal("50.01")}, "amount"), ({"currency": "USD"}, "currency"), ({"click_id": OTHER_CLICK}, "click")],
)
def test_a_message_that_contradicts_changes_nothing_not_even_the_status(fields: dict[str, Any], what: str) -> None:
    recorded = first(sale())
    assert Step(recorded, Outcome.CONFLICT, what) == step(recorded, sale(**fields, status=Status.REVERSED))


def test_amounts_are_compared_as_numbers() -> None:
    assert Outcome.DUPLICATE == step(first(sale()), sale(amount=Decimal(50))).outcome


def test_late_sales_credit_nobody_until_an_earlier_moment_is_told() -> None:
    late = first(sale(received_ms=CLICKED + 30 * DAY + 1))
    assert (Credit("none", "late"), Decimal(0)) == (late.credit, late.owed.amount)
    assert ANNA == first(sale(received_ms=CLICKED + 30 * DAY)).credit.partner_id
    told = step(late, sale(ts_ms=CLICKED + DAY))
    assert (Outcome.UPDATED, ANNA) == (told.outcome, told.after.credit.partner_id)


@pytest.mark.parametrize(
    ("fields", "changes", "reason"),
    [
        ({"link_id": 99}, {}, "unknown_link"),
        ({"link_id": 13}, {}, "other_program"),
        ({"link_id": 12}, {}, "not_enrolled"),
        ({}, {"partners": {ANNA: [Standing(0, True), Standing(CLICKED, False)]}}, "partner_blocked"),
        ({"click_id": None}, {}, "no_click"),
        ({"click_id": None, "coupon": "X"}, {}, "unknown_coupon"),
        ({"click_id": None, "coupon": "bert10", "received_ms": CLICKED + 9 * DAY}, {}, "coupon_not_valid"),
        ({"click_id": None, "coupon": "bert10"}, {"partners": {BERT: [Standing(0, False)]}}, "partner_blocked"),
    ],
)
def test_why_nobody_is_credited(fields: dict[str, Any], changes: dict[str, Any], reason: str) -> None:
    assert Credit("none", reason) == first(sale(**fields), some_facts(**changes)).credit


def test_a_partner_blocked_after_the_click_keeps_the_sale() -> None:
    facts = some_facts(partners={ANNA: [Standing(0, True), Standing(CLICKED + 1, False)]})
    assert ANNA == first(sale(), facts).credit.partner_id


def test_the_click_wins_over_the_coupon_unless_it_earns_nobody_anything() -> None:
    assert Credit("click", None, ANNA) == first(sale(coupon="BERT10")).credit
    assert Credit("coupon", "not_enrolled", BERT) == first(sale(link_id=12, coupon="BERT10")).credit


def test_terms_are_those_of_the_clicks_moment() -> None:
    """The next millisecond's terms (one day, pending) do not apply, though the sale came under them."""
    assert Status.APPROVED == first(sale(received_ms=CLICKED + 9 * DAY)).status
    assert Status.PENDING == first(clickless()).status


def test_a_coupon_is_paid_by_the_terms_of_received_at_and_a_click_by_its_own() -> None:
    """A click of last month is too late, the coupon is used today: its partner is paid by today's terms, not last month's."""
    dated = ((0, 10), (CLICKED + 2 * DAY, 20))
    terms = [CommissionTerm(valid_from_ms=at, kind="percent", rate=Decimal(rate)) for at, rate in dated]
    program = replace(some_facts().programs[7], commissions=terms, terms=[ProgramTerms(0, 3)])
    facts = some_facts(programs={7: program})
    late = first(sale(coupon="bert10", received_ms=CLICKED + 4 * DAY), facts)
    assert (Credit("coupon", "late", BERT), Money(Decimal("10.00"), "EUR")) == (late.credit, late.owed)
    in_time = first(sale(coupon="bert10", received_ms=CLICKED + 3 * DAY), facts)
    assert (Credit("click", None, ANNA), Money(Decimal("5.00"), "EUR")) == (in_time.credit, in_time.owed)


def test_nothing_is_owed_for_test_clicks() -> None:
    made = step(None, sale(test=True))
    assert (Status.APPROVED, True, ()) == (made.after.status, made.after.test, made.ledger)


def test_limited_messages_create_pending_conversions_and_change_none() -> None:
    limited = first(sale(limited=True, status=Status.APPROVED))
    assert (Status.PENDING, True) == (limited.status, limited.unconfirmed)
    assert Outcome.DUPLICATE == step(limited, sale(limited=True, coupon="x")).outcome
    authenticated = step(limited, sale(amount=Decimal(80)))
    assert (Outcome.UPDATED, Decimal("8.00")) == (authenticated.outcome, authenticated.after.owed.amount)
    assert Outcome.CONFLICT == step(authenticated.after, sale(limited=True)).outcome


def test_a_persons_decision_holds_until_messages_rise_above_what_it_saw() -> None:
    approved = first(sale(status=Status.APPROVED))
    decided = decide(approved, Status.REJECTED, "fraud", some_facts())
    assert [("decided", "fraud")] == [(entry.change, entry.detail["reason"]) for entry in decided.history]
    assert [Decimal("-5.00")] == [entry.amount for entry in decided.ledger]
    assert Status.REJECTED == step(decided.after, sale(status=Status.APPROVED)).after.status
    reversed_ = step(decided.after, sale(status=Status.REVERSED))
    assert (Status.REVERSED, {"status"}) == (reversed_.after.status, set(reversed_.history[0].detail))     # not the person's reason
    assert Status.APPROVED == step(decided.after, sale(status=Status.APPROVED, ts_ms=CLICKED)).after.status
    assert Outcome.DUPLICATE == decide(decided.after, Status.REJECTED, "fraud", some_facts()).outcome


def test_a_decision_about_timed_statuses_holds_until_a_later_one_comes() -> None:
    pending = first(sale(status=Status.PENDING, ts_ms=CLICKED + 5))
    decided = decide(pending, Status.REJECTED, "fraud", some_facts())
    again = step(decided.after, sale(status=Status.PENDING, ts_ms=CLICKED + 5))
    assert (Outcome.DUPLICATE, Status.REJECTED) == (again.outcome, again.after.status)
    assert Status.APPROVED == step(decided.after, sale(status=Status.APPROVED, ts_ms=CLICKED + 6)).after.status
    assert Status.APPROVED == step(decided.after, sale(status=Status.APPROVED)).after.status      # the first without a time
    assert Outcome.UPDATED == decide(decided.after, Status.REJECTED, "another reason", some_facts()).outcome


def test_a_decision_stays_when_the_authenticated_word_replaces_what_anybody_said() -> None:
    decided = decide(first(sale(limited=True)), Status.REJECTED, "fraud", some_facts())
    confirmed = step(decided.after, sale()).after
    assert (Status.REJECTED, False) == (confirmed.status, confirmed.unconfirmed)


def test_history_tells_every_visible_change_with_its_new_value() -> None:
    made = step(None, sale(coupon="BERT10"))
    assert [{"status": "approved", "amount": "50 EUR", "click_id": CLICK.hex(), "coupon": "bert10", "credit": "click",
             "partner_id": "1", "owed": "5 EUR"}] == [entry.detail for entry in made.history]
    reversed_ = step(made.after, sale(status=Status.REVERSED))
    assert [(3, "status", {"status": "reversed", "owed": "0"})] == [(e.entry, e.change, e.detail) for e in reversed_.history]
    assert [(4, "reversed")] == [(entry.entry, entry.reason) for entry in reversed_.ledger]
    assert 4 == reversed_.after.last_entry
    unknown = step(None, clickless(coupon="x"))
    assert ("none", "unknown_coupon") == (unknown.after.credit.kind, unknown.history[0].detail["credit_reason"])
    assert "credit" not in unknown.history[0].detail       # nobody before, nobody now


@pytest.mark.parametrize(
    ("message", "later", "change", "names"),
    [
        ({"coupon": None}, {"coupon": "x"}, "filled", {"coupon"}),
        ({"click_id": None, "link_id": None, "status": Status.APPROVED}, {}, "filled",
         {"click_id", "credit", "credit_reason", "partner_id", "owed"}),
        ({"amount": None, "currency": None}, {}, "filled", {"amount", "owed"}),
        ({}, {"status": Status.PENDING}, "status", {"status", "owed"}),
        ({"received_ms": CLICKED + 31 * DAY}, {"ts_ms": CLICKED}, "credit", {"credit", "credit_reason", "partner_id", "owed"}),
    ],
)
def test_history_names_the_kind_of_change(message: dict[str, Any], later: dict[str, Any], change: str, names: set[str]) -> None:
    changed = step(first(sale(**message)), sale(**later))
    assert [(change, names)] == [(entry.change, set(entry.detail)) for entry in changed.history]


def test_a_mark_that_nobody_sees_is_kept_without_an_entry() -> None:
    """The status named is the one it had: nothing to tell, but from now on it is not the program's default."""
    recorded = first(sale())
    named = step(recorded, sale(status=Status.APPROVED))
    assert (Outcome.DUPLICATE, (), (), 2) == (named.outcome, named.history, named.ledger, named.after.last_entry)
    assert (None, Status.APPROVED) == (recorded.untimed, named.after.untimed)


def test_another_click_than_anybodys_guess_is_not_credited_as_if_its_row_were_here() -> None:
    """The limited message named a click whose row had landed; the authenticated one names another, whose row has not."""
    guessed = first(sale(limited=True))
    assert "click" == guessed.credit.kind
    told = step(guessed, sale(click_id=OTHER_CLICK))
    assert Credit("id", None, ANNA) == told.after.credit


def test_a_change_of_currency_moves_the_ledger_by_two_entries() -> None:
    """A fixed commission is owed in its own currency, a percentage in the sale's: the sum of each must be right."""
    terms = [
        CommissionTerm(valid_from_ms=0, kind="fixed", amount=Decimal(3), currency="USD", partner_id=BERT),
        CommissionTerm(valid_from_ms=0, kind="percent", rate=Decimal(10)),
    ]
    facts = some_facts(programs={7: replace(some_facts().programs[7], commissions=terms)})
    by_coupon = first(clickless(coupon="bert10", status=Status.APPROVED), facts)
    assert Money(Decimal("3.00"), "USD") == by_coupon.owed
    moved = step(by_coupon, sale(), facts)
    assert [(4, BERT, Decimal("-3.00"), "USD"), (5, ANNA, Decimal("5.00"), "EUR")] == [
        (e.entry, e.partner_id, e.amount, e.currency) for e in moved.ledger]


def test_the_earliest_moments_and_the_first_coupon_count_whatever_comes_first() -> None:
    late, early = sale(received_ms=9, ts_ms=CLICKED + 9, coupon="B"), sale(received_ms=5, ts_ms=CLICKED + 3, coupon="a")
    for one, other in ((late, early), (early, late)):
        both = step(first(one), other).after
        assert (5, CLICKED + 3, "a") == (both.heard_ms, both.told_ms, both.coupon)
    assert (9, CLICKED + 9, "b") == ((only := step(first(late), sale(received_ms=9)).after).heard_ms, only.told_ms, only.coupon)


def test_facts_without_the_program_are_an_error() -> None:
    with pytest.raises(KeyError):
        first(sale(), Facts())


def test_a_program_of_which_nothing_more_is_known_owes_nobody_anything() -> None:
    """No coupons, no enrolments, no commissions, no links and no clicks are what there is before anybody made any."""
    bare = ProgramFacts(program_id=7)
    assert not bare.several_per_key
    assert Credit("none", "unknown_link") == first(sale(coupon="x"), Facts(programs={7: bare})).credit
    mine = {11: LinkOwner(7, ANNA)}
    assert Credit("none", "not_enrolled") == first(sale(coupon="x"), Facts(programs={7: bare}, links=mine)).credit
    enrolled = replace(bare, enrolments={ANNA: [Standing(0, True)]})
    unpaid = first(sale(), Facts(programs={7: enrolled}, links=mine))
    assert (Credit("id", None, ANNA), Money(Decimal(0), None)) == (unpaid.credit, unpaid.owed)
    assert {} == Facts().endpoints


def test_a_program_without_terms_has_the_usual_ones() -> None:
    """Thirty days, approved; and before the first terms (a clock a little behind) the first."""
    assert ProgramTerms(0, 30, Status.APPROVED) == ProgramFacts(program_id=7).terms_at(5)
    dated = ProgramFacts(program_id=7, terms=[ProgramTerms(20, 2), ProgramTerms(10, 1)])
    assert [1, 1, 1, 2, 2] == [dated.terms_at(at).window_days for at in (9, 10, 19, 20, 21)]


def test_a_row_that_lands_later_is_attached_and_its_partition_may_go_again() -> None:
    from_id = first(sale(), some_facts(clicks=frozenset()))
    assert Credit("id", None, ANNA) == from_id.credit
    assert Outcome.DUPLICATE == attach(from_id, some_facts(clicks=frozenset())).outcome
    attached = attach(from_id, some_facts())
    assert ["attached"] == [entry.change for entry in attached.history]
    assert () == attached.ledger
    later = step(attached.after, sale(status=Status.APPROVED), some_facts(clicks=frozenset()))
    assert "click" == later.after.credit.kind


def test_commission_terms_are_looked_up_most_special_first() -> None:
    def rate(of: int, partner_id: int, event: str, valid_from_ms: int = 0) -> CommissionTerm:
        return CommissionTerm(valid_from_ms=valid_from_ms, kind="percent", rate=Decimal(of), partner_id=partner_id, event=event)

    terms = [rate(1, 0, ""), rate(2, 0, "lead"), rate(3, ANNA, ""), rate(4, ANNA, "lead"), rate(5, ANNA, "lead", 100),
             CommissionTerm(valid_from_ms=200, kind="none", partner_id=ANNA, event="lead")]

    def found(partner_id: int, event: str, at_ms: int) -> Decimal | None:
        term = find_term(terms, partner_id=partner_id, event=event, at_ms=at_ms)
        return None if term is None else term.rate

    assert [4, 5, 3, 3, 2, 1] == [found(*args) for args in (
        (ANNA, "lead", 99), (ANNA, "lead", 100), (ANNA, "lead", 200), (ANNA, "sale", 0), (BERT, "lead", 0), (BERT, "sale", 0))]
    assert find_term(terms, partner_id=ANNA, event="sale", at_ms=-1) is None


def test_commission_is_rounded_once_in_its_currency() -> None:
    third = CommissionTerm(valid_from_ms=0, kind="percent", rate=Decimal("33.333333"))
    fixed = CommissionTerm(valid_from_ms=0, kind="fixed", amount=Decimal("1.005"), currency="EUR")
    assert Money(Decimal(33), "JPY") == commission(third, Decimal(100), "JPY")
    assert Money(Decimal(33), "JPY") == commission(replace(third, currency="EUR"), Decimal(100), "JPY")      # the sale's counts
    assert Money(Decimal("1.01"), "EUR") == commission(fixed, None, None)
    assert Money(Decimal(0), None) == commission(third, None, None) == commission(None, Decimal(1), "EUR")


def test_an_id_says_whether_its_row_will_come() -> None:
    assert was_spooled(CLICK)
    assert all(was_spooled((CLICKED << 83 | other).to_bytes(16, "big")) for other in (1 << 83, 1 << 81, 1 << 80))
    assert not was_spooled((CLICKED << 83 | 1 << 82).to_bytes(16, "big"))


def test_a_coupon_is_known_however_its_letters_are_written() -> None:
    """Shop and catalog write codes in their own case and Unicode form: the doors and the decision must agree on one."""
    assert coupon_key("  STRASSE ") == coupon_key("straße")
    assert coupon_key("cafe\u0301") == coupon_key("CAFÉ")


def test_the_newest_term_counts_in_whatever_order_the_rows_come() -> None:
    """PostgreSQL promises none: a partner would be paid by terms that ended, or not, as its pages happen to lie."""
    dated = [CommissionTerm(valid_from_ms=at, kind="percent", rate=Decimal(at)) for at in (10, 20, 30)]
    for terms in permutations(dated):
        for at_ms, newest in ((9, None), (10, 10), (29, 20), (99, 30)):
            found = find_term(terms, partner_id=1, event="sale", at_ms=at_ms)
            assert newest == (None if found is None else found.valid_from_ms)
