"""Matching as a state machine, on the pure core: thousands of steps, and whole histories restored and played again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from matching import EDGES, Matching, Row, System
from oracle import Verdict
from recording import LINK, PROGRAM

from tracker.domain.attribution import Facts, LinkOwner, ProgramFacts, ProgramTerms, Standing
from tracker.domain.commission import CommissionTerm
from tracker.domain.conversion import Conversion, LedgerEntry, attach, fold
from tracker.domain.conversion_id import ConversionKey, key_of
from tracker.domain.postback import Postback
from tracker.domain.program import Coupon

NOW_MS = 1_795_305_600_000
FACTS = Facts(
    programs={PROGRAM: ProgramFacts(
        program_id=PROGRAM, terms=[ProgramTerms(0)], enrolments={13: [Standing(0, True)], 17: [Standing(0, True)]},
        commissions=[CommissionTerm(valid_from_ms=0, kind="percent", rate=Decimal(10))],
        coupons={
            "bert10": Coupon(coupon_id=3, program_id=PROGRAM, partner_id=17, code="BERT10", valid_from_ms=0, valid_to_ms=None),
        },
    )},
    links={LINK: LinkOwner(PROGRAM, 13)},
)


@dataclass
class Books:
    """What a database would hold; a copy of it is a backup."""

    log: list[bytes] = field(default_factory=list)       # message ids, in the order in which they were recorded
    conversions: dict[ConversionKey, Conversion] = field(default_factory=dict)
    ledger: list[tuple[ConversionKey, LedgerEntry]] = field(default_factory=list)
    landed: frozenset[bytes] = frozenset()


class PureCore:
    """`fold` and `attach`, and around them the least that makes edges of them: a journal each, and a log that lets each
    message in once."""

    def __init__(self) -> None:
        self._books = Books()
        self._backups = [deepcopy(self._books)]
        self._journals: list[list[Postback]] = [[] for _ in range(EDGES)]
        self._sent: list[bytes] = []

    def send(self, told: Sequence[tuple[int, Postback]]) -> list[str]:
        answers = [self._record(self._journal(edge, draft)) for edge, draft in told]
        self._backups.append(deepcopy(self._books))
        return answers

    def crash(self, edge: int, drafts: Sequence[Postback], choose: Callable[[int], int]) -> list[bytes] | None:
        for draft in drafts:
            self._journal(edge, draft)
        landed = self._books.landed
        self._books = deepcopy(self._backups[choose(len(self._backups))])
        left = [list(journal) for journal in self._journals]
        while waiting := [journal for journal in left if journal]:       # each in its own order, between them any
            message = waiting[choose(len(waiting))].pop(0)
            if message.message_id not in self._books.log:
                self._record(message)
        for click in landed - self._books.landed:
            self.land(click)
        self._backups.append(deepcopy(self._books))
        return list(self._books.log)

    def land(self, click: bytes) -> None:
        self._books.landed |= {click}
        for key, conversion in list(self._books.conversions.items()):
            if conversion.click_id == click:
                step = attach(conversion, self._facts())
                self._keep(key, step.after, step.ledger)

    def expire(self) -> None:
        """Nothing ever waits here: a click without its row is credited from its id at once."""

    def waiting(self) -> set[str]:
        return set()

    def rows(self) -> dict[str, Row]:
        found: dict[str, Row] = {}
        for key, one in self._books.conversions.items():
            entries = [entry for of, entry in self._books.ledger if of == key]
            assert len({entry.entry for entry in entries}) == len(entries), "a double entry"
            verdict = Verdict(
                one.status.word, None if one.amount is None else int(one.amount * 100), one.credit.partner_id,
                int(one.owed.amount * 100),
            )
            order = str(key.txid)
            rows = found[order].rows + 1 if order in found else 1
            found[order] = Row(verdict, int(sum((entry.amount for entry in entries), Decimal(0)) * 100), rows)
        return found

    def message_ids(self) -> list[bytes]:
        return self._sent

    def close(self) -> None:
        """Nothing is open."""

    def _journal(self, edge: int, draft: Postback) -> Postback:
        message = replace(draft, message_id=edge.to_bytes(8, "big") + len(self._journals[edge]).to_bytes(8, "big"))
        self._journals[edge].append(message)
        self._sent.append(message.message_id)
        return message

    def _record(self, message: Postback) -> str:
        key = key_of(message, several_per_key=False)
        step = fold(self._books.conversions.get(key), message, key, self._facts())
        self._keep(key, step.after, step.ledger)
        self._books.log.append(message.message_id)
        return step.outcome.value

    def _keep(self, key: ConversionKey, after: Conversion, entries: Sequence[LedgerEntry]) -> None:
        self._books.conversions[key] = after
        self._books.ledger += [(key, entry) for entry in entries]

    def _facts(self) -> Facts:
        return replace(FACTS, clicks=self._books.landed)


def machine_of(make: Callable[[], System], now: int) -> type[Matching]:
    class Machine(Matching):
        begin = staticmethod(make)
        now_ms = now

    return Machine


@pytest.mark.fault(19, 20, 21)
@pytest.mark.parametrize(
    ("examples", "steps"), [(250, 25), pytest.param(1200, 50, marks=[pytest.mark.nightly, pytest.mark.timeout(1_800)])]
)
def test_whatever_happens_the_books_are_the_oracles(examples: int, steps: int) -> None:
    checks: Any = list(HealthCheck)
    run_state_machine_as_test(
        machine_of(PureCore, NOW_MS),
        settings=settings(max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=checks),
    )
