"""A state machine for matching: visitors click, shops tell and tell again, keys change, edges crash; an oracle keeps the books.

The machine knows no more than what was said, and what `judge` (oracle.py) makes of it. A `System` is what is tested: the pure
core (tests/property/test_matching_machine.py), or edges over PostgreSQL (tests/faults/test_matching_on_postgres.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Protocol

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule
from oracle import DAY_MS, RANKS, Said, Verdict, first, in_conflict, judge
from recording import LINK, sale

from tracker.domain.click_id import ClickIdMaker, Keyring
from tracker.domain.postback import STATUS_BY_WORD, Postback

EDGES = 2


@dataclass(frozen=True, slots=True)
class Row:
    """What a system has of one order. `paid_cents` is the ledger's sum; `rows`: how many conversions it is."""

    verdict: Verdict
    paid_cents: int
    rows: int = 1


class System(Protocol):
    """Edges, and what they write to. `send` gives the answers; a message without one yet is `queued`."""

    def send(self, told: Sequence[tuple[int, Postback]]) -> list[str]:
        """Messages, each with its edge: at one edge in order, at several at once."""

    def crash(self, edge: int, drafts: Sequence[Postback], choose: Callable[[int], int]) -> list[bytes] | None:
        """The edge takes these and dies. Everything is played again; the ids of all messages in the order in which they are
        recorded now, if that has changed. `choose(n)` decides between n ways."""

    def land(self, click: bytes) -> None: ...
    def expire(self) -> None:
        """Waiting for rows that have not landed is over."""

    def waiting(self) -> set[str]: ...
    def rows(self) -> dict[str, Row]: ...
    def message_ids(self) -> list[bytes]:
        """Of everything sent so far, in the order it was sent."""

    def close(self) -> None: ...


orders = st.sampled_from(["A-1", "A-2"])     # few, so that much is said of each
edges = st.integers(0, EDGES - 1)
statuses = st.sampled_from([None, None, *RANKS])
cents = st.sampled_from([None, 5000, 5, 333])
days = st.sampled_from([None, None, 1, 2, 40])


class Matching(RuleBasedStateMachine):
    """`begin` makes the system; `now_ms` is when everything happens, but for what shops say in `ts`."""

    clicks = Bundle("clicks")
    begin: Callable[[], System]
    now_ms: int

    def __init__(self) -> None:
        super().__init__()
        self.system = type(self).begin()
        self.recorded: list[Said] = []
        self.sent: list[Said] = []                # as the system's message_ids
        self.on_the_way: list[Said] = []
        self.clicked_ms: dict[str, int] = {}
        self.secrets = [(0, bytes(16))]
        self.keyrings = [Keyring(tuple(self.secrets)) for _ in range(EDGES)]
        self.made = 0

    def teardown(self) -> None:
        try:
            self.system.expire()
            self.books_agree()
        finally:
            self.system.close()

    # Visitors

    @rule(target=clicks, edge=edges)
    def visit(self, edge: int) -> str:
        return self.click(edge)

    def click(self, edge: int) -> str:
        maker = ClickIdMaker(keyring=self.keyrings[edge], worker=edge + 1, random_counter=lambda: self.made)
        self.made += 1
        token = maker.make(self.now_ms, LINK)[1].decode()
        self.clicked_ms[token] = self.now_ms
        return token

    @rule(token=clicks)
    def ship(self, token: str) -> None:
        self.system.land(self.keyrings[0].verify(token).uuid)

    @rule(edge=edges)
    def rotate_keys(self, edge: int) -> None:
        """Two steps: everybody knows the new key before anybody signs with it; one edge may lag behind."""
        ahead = self.keyrings[edge].signing_number != self.secrets[-1][0]
        if not ahead and len(self.secrets) < 15:
            self.secrets.append((len(self.secrets), bytes([len(self.secrets)]) * 16))
        for number, keyring in enumerate(self.keyrings):
            signing = self.secrets[-1][0] if number == edge and ahead else keyring.signing_number
            self.keyrings[number] = Keyring(tuple(sorted(self.secrets, key=lambda one: one[0] != signing)))

    # Shops

    @rule(order=orders, token=clicks, cents=cents, status=statuses, day=days, coupon=st.booleans(), edge=edges)
    def postback(
        self, order: str, token: str, cents: int | None, status: str | None, day: int | None, coupon: bool, edge: int
    ) -> None:
        ts_ms = None if day is None else self.now_ms + day * DAY_MS
        # Mostly an order keeps to one click, as orders do; what differs is a conflict.
        known = first(one.token for one in self.sent if one.order == order)
        self.tell(edge, Said(order, known or token, cents, status, ts_ms, coupon))

    @rule(edge=edges, cents=st.lists(cents, min_size=2, max_size=4))
    def sale_before_its_row(self, edge: int, cents: list[int | None]) -> None:
        """Told the instant after the redirect, and told again otherwise: what waits must be recorded in the order it came."""
        token = self.click(edge)
        for number, one in enumerate(cents):
            self.tell((edge + number) % EDGES, Said(f"B-{self.made}", token if number != 1 else None, one))

    @rule(order=orders, cents=cents, status=statuses, coupon=st.booleans(), edge=edges)
    def postback_without_click(self, order: str, cents: int | None, status: str | None, coupon: bool, edge: int) -> None:
        self.tell(edge, Said(order, None, cents, status, None, coupon))

    @rule(order=orders, status=st.sampled_from(RANKS), day=st.sampled_from([None, 1, 2, 3]), edge=edges)
    def news(self, order: str, status: str, day: int | None, edge: int) -> None:
        """A status and nothing else, with its time or without."""
        self.tell(edge, Said(order, status=status, ts_ms=None if day is None else self.now_ms + day * DAY_MS))

    @precondition(lambda self: self.sent)
    @rule(token=clicks, edge=edges, data=st.data())
    def another_click(self, token: str, edge: int, data: st.DataObject) -> None:
        self.tell(edge, self.earlier(data)._replace(token=token))

    @precondition(lambda self: self.sent)
    @rule(edge=edges, data=st.data())
    def duplicate(self, edge: int, data: st.DataObject) -> None:
        self.tell(edge, self.earlier(data))

    @precondition(lambda self: self.sent)
    @rule(edge=edges, more=st.sampled_from([1, -1, 10000]), data=st.data())
    def another_amount(self, edge: int, more: int, data: st.DataObject) -> None:
        said = self.earlier(data)
        self.tell(edge, said._replace(cents=max(1, (said.cents or 0) + more)))

    @precondition(lambda self: self.sent)
    @rule(edge=edges, bare=st.booleans(), data=st.data())
    def reverse(self, edge: int, bare: bool, data: st.DataObject) -> None:
        said = self.earlier(data)._replace(status="reversed")
        self.tell(edge, Said(said.order, status="reversed") if bare else said)

    @rule(order=orders, token=clicks, status=statuses, day=days)
    def send_slowly(self, order: str, token: str, status: str | None, day: int | None) -> None:
        """It will arrive some time later, after what is said later."""
        known = first(one.token for one in self.sent if one.order == order)
        ts_ms = None if day is None else self.now_ms + day * DAY_MS
        self.on_the_way.append(Said(order, known or token, None, status, ts_ms))

    @precondition(lambda self: self.on_the_way)
    @rule(edge=edges, data=st.data())
    def arrive(self, edge: int, data: st.DataObject) -> None:
        self.tell(edge, self.on_the_way.pop(data.draw(st.integers(0, len(self.on_the_way) - 1))))

    @precondition(lambda self: self.sent)
    @rule(order=orders, edge=edges, times=st.integers(2, 8), data=st.data())
    def burst(self, order: str, edge: int, times: int, data: st.DataObject) -> None:
        """Many at once over all edges, in whatever order: what they say of one order agrees, so it must not matter."""
        said = [one for one in self.recorded if one.order == order]
        usual = Said(order, first(one.token for one in said), first(one.cents for one in said))
        drawn = [usual._replace(status=data.draw(statuses)) for _ in range(times)]
        self.tell_all([((edge + number) % EDGES, one) for number, one in enumerate(drawn)])

    @rule(edge=edges, orders=st.lists(orders, max_size=3), cents=cents, status=statuses, data=st.data())
    def crash(self, edge: int, orders: list[str], cents: int | None, status: str | None, data: st.DataObject) -> None:
        """An edge takes some more and dies; what its journal holds is played again."""
        said = [Said(order, None, cents, status) for order in orders]
        changed = self.system.crash(edge, [self.draft(edge, one) for one in said], lambda n: data.draw(st.integers(0, n - 1)))
        self.sent += said
        self.recorded += said
        if changed is not None:
            by_id = dict(zip(self.system.message_ids(), self.sent, strict=True))
            self.recorded = [by_id[message_id] for message_id in changed]
            assert len(changed) == len(self.sent) == len(set(changed)), "lost or doubled in the replay"

    @rule()
    def expire(self) -> None:
        self.system.expire()

    # What must hold

    @invariant()
    def books_agree(self) -> None:
        """One row per order, its state and its ledger are what the oracle says; and nothing else is there."""
        waiting, rows = self.system.waiting(), self.system.rows()
        said = {order: [one for one in self.recorded if one.order == order] for order in {one.order for one in self.recorded}}
        assert set(rows) <= set(said)
        for order in said.keys() - waiting:
            expected = judge(said[order], self.clicked_ms, self.now_ms)
            assert order in rows, f"{order} was told and is not there"
            assert 1 == rows[order].rows, f"{order} is there {rows[order].rows} times"
            assert expected == rows[order].verdict, said[order]
            assert expected.owed_cents == rows[order].paid_cents, said[order]

    # Helpers

    def earlier(self, data: st.DataObject) -> Said:
        return self.sent[data.draw(st.integers(0, len(self.sent) - 1))]

    def draft(self, edge: int, said: Said) -> Postback:
        """As the edge's door composes it: the id is verified under whatever keys that edge has by now."""
        click = None if said.token is None else self.keyrings[edge].verify(said.token)
        message = sale(
            None if click is None else click.uuid, txid=said.order, received_ms=self.now_ms,
            amount=None if said.cents is None else Decimal(said.cents) / 100, currency=None if said.cents is None else "EUR",
            status=None if said.status is None else STATUS_BY_WORD[said.status], ts_ms=said.ts_ms,
            coupon="BERT10" if said.coupon else None,
        )
        return replace(message, link_id=None if click is None else click.link)

    def tell(self, edge: int, said: Said) -> None:
        accepted: list[Said] = []
        for one in self.recorded:
            if one.order == said.order and not in_conflict(one, accepted):
                accepted.append(one)
        [answer] = self.tell_all([(edge, said)])
        if answer != "pending_click":
            assert ("recorded" == answer) == (not accepted), answer
            assert ("conflict" == answer) == in_conflict(said, accepted), answer

    def tell_all(self, told: Sequence[tuple[int, Said]]) -> list[str]:
        answers = self.system.send([(edge, self.draft(edge, said)) for edge, said in told])
        said = [one for _, one in told]
        self.sent += said
        self.recorded += said
        assert len(told) == len(answers)
        return answers
