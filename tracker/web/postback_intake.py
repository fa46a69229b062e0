"""The way of a postback from named texts to kept: verify the id, authenticate, journal, recorder.

Whatever brings postbacks (the plain door, arrays, later the other trackers' dialects) brings them here, so that there
is one way in. Messages of one request go together: one frame in the journal, one wait. Only an unknown link asks
PostgreSQL anything before the journal has the message. HTTP is postback.py's, wording is postback_answers.py's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tracker.domain.click_id import ClickId, Keyring
from tracker.domain.postback import Postback
from tracker.domain.postback_message import Authority, check_subject, compose, read_click_id
from tracker.domain.postback_parameters import Pair, Parameters, gather
from tracker.domain.program import Program
from tracker.domain.refusal import Reason, Refused
from tracker.domain.values import valueclass
from tracker.storage.catalog.catalog import Catalog
from tracker.storage.conversions.answers import REFUSED, Answer
from tracker.storage.conversions.journal import Journal
from tracker.storage.conversions.recorder import Recorder
from tracker.storage.conversions.refusals import Refusal, Refusals
from tracker.storage.conversions.unjournalled import UnjournalledRecorder
from tracker.web.postback_answers import Kept, NotKept, Outcome
from tracker.web.postback_auth import (
    Proof,
    Sender,
    authenticate,
    authenticate_provisionally,
    credential_of,
    refuse_unknown_program,
)
from tracker.web.postback_keeping import Keeper
from tracker.web.postback_rates import Rates

COMMIT_SECONDS = 1.2            # how long a caller waits for the commit; he is answered within 1.5 s, some give up at 2 s
MOST_LOOK_UPS = 16              # unknown links asked for on behalf of one request
UNAVAILABLE = "unavailable"     # in `answered`, beside REFUSED and the statuses
SLICE = 100                     # messages judged in one turn of the event loop: some 3 ms


@valueclass(frozen=True, slots=True)
class Delivery:
    """One message as it came: its pairs, and the event id to use when it names none (an Idempotency-Key makes one)."""

    pairs: Sequence[Pair]
    event_id: str | None = None


_NOTHING = Parameters({})
_NOBODY = Proof("")


@dataclass(slots=True)
class _Case:
    """One message on its way; each step fills in what the next one needs, until there is an outcome."""

    delivery: Delivery
    parameters: Parameters = _NOTHING
    proof: Proof = _NOBODY
    click: ClickId | None = None
    authority: Authority | None = None
    message: Postback | None = None
    outcome: Outcome | None = None


class Intake:
    """One per worker. `answered` counts messages for /metrics: by status, or as `refused` or `unavailable`."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        keyring: Keyring,
        journal: Journal,
        recorder: Recorder,
        unjournalled: UnjournalledRecorder,
        refusals: Refusals,
        commit_seconds: float = COMMIT_SECONDS,
    ) -> None:
        self.answered: dict[str, int] = {}
        self.commit_seconds = commit_seconds
        self.rates = Rates()
        self.keeper = Keeper(catalog=catalog, journal=journal, recorder=recorder, unjournalled=unjournalled)
        self._loop = asyncio.get_running_loop()
        self._catalog = catalog
        self._keyring = keyring
        self._refusals = refusals

    async def take(self, deliveries: Sequence[Delivery], sender: Sender, *, now_ms: int) -> list[Outcome]:
        """Take the messages of one request; their outcomes, in order, within 1.5 s. Never raises for what they say."""
        give_up_at = self._loop.time() + self.commit_seconds
        cases = [_Case(delivery) for delivery in deliveries]
        await self._step(cases, now_ms, lambda case: self._read(case, sender))
        await self._learn_links(cases)
        await self._step(cases, now_ms, lambda case: self._judge(case, now_ms))
        await self._keep([case for case in cases if case.outcome is None], give_up_at, now_ms)
        return [case.outcome for case in cases if case.outcome is not None]

    def take_at_once(
        self, delivery: Delivery, sender: Sender, answer: Callable[[Outcome], None], *, now_ms: int
    ) -> bool:
        """Take one message without waiting for anything here: `answer` is called in a later turn of the event loop, within
        1.5 s. False: it names a link that has to be looked up first; nothing was done, `take` does it."""
        loop = self._loop
        case = _Case(delivery)
        try:
            self._read(case, sender)
            if case.click is not None and self._catalog.links.numbered(case.click.link) is None:
                return False
            self._judge(case, now_ms)
        except Refused as refused:
            self._refuse(case, refused.reason, now_ms)

        def concluded() -> None:
            assert case.outcome is not None
            answer(case.outcome)

        if case.outcome is None:
            self._hand_over(case, concluded, loop.time() + self.commit_seconds, now_ms)
        else:
            loop.call_soon(concluded)
        return True

    def refuse(self, reason: Reason, *, now_ms: int) -> NotKept:
        """Count and log a request that was refused before its parameters were read."""
        self._count(UNAVAILABLE if reason is Reason.UNAVAILABLE else REFUSED)
        if self._refusals.count(reason):
            self._refusals.keep(Refusal(reason, now_ms, {}))
        return NotKept(reason)

    async def _step(self, cases: Iterable[_Case], now_ms: int, step: Callable[[_Case], None]) -> None:
        """One step for every case that has no outcome yet; clicks get their turn in between."""
        for number, case in enumerate(case for case in cases if case.outcome is None):
            if number % SLICE == SLICE - 1:
                await asyncio.sleep(0)
            try:
                step(case)
            except Refused as refused:
                self._refuse(case, refused.reason, now_ms)

    def _read(self, case: _Case, sender: Sender) -> None:
        case.parameters = gather(case.delivery.pairs)
        case.proof = sender.proof(case.parameters.secrets)
        case.click = read_click_id(case.parameters, self._keyring)
        if case.click is None:
            check_subject(case.parameters)
        if not self._catalog.ready:      # knowing nobody, we would turn everybody away
            raise Refused(Reason.UNAVAILABLE)

    async def _learn_links(self, cases: Iterable[_Case]) -> None:
        """Ask for links that are unknown here, all at once: 300 ms at most."""
        links = {case.click.link for case in cases if case.outcome is None and case.click is not None}
        unknown = sorted(link for link in links if self._catalog.links.numbered(link) is None)[:MOST_LOOK_UPS]
        if unknown:
            await asyncio.gather(*map(self._catalog.look_up_link, unknown))

    def _judge(self, case: _Case, now_ms: int) -> None:
        named = case.parameters.get("program")
        program = self._program_of(case.click, named)
        if program is not None:
            case.authority = authenticate(
                self._catalog, program, case.proof, has_click=case.click is not None, now_ms=now_ms
            )
            if named not in (None, program.slug):
                raise Refused(Reason.WRONG_PROGRAM)
        elif case.click is None:
            raise refuse_unknown_program(self._catalog, case.proof)
        else:
            case.authority = self._judge_provisionally(case.click.link, case.proof, named, now_ms)
        self._check_rate(case.authority)
        case.message = compose(
            case.parameters,
            received_ms=now_ms,
            click=case.click,
            authority=case.authority,
            event_id=case.delivery.event_id,
        )

    def _check_rate(self, authority: Authority) -> None:
        """By credential; without one (modes ip, open) by program. Raises Refused(RATE_LIMITED)."""
        sender = authority.credential_id if authority.credential_id is not None else -(authority.program_id or 0)
        if not self.rates.allows(sender, self._loop.time()):
            raise Refused(Reason.RATE_LIMITED)

    def _judge_provisionally(self, link_id: int, proof: Proof, named: str | None, now_ms: int) -> Authority:
        """For a link that is unknown here. Only where PostgreSQL said that there is none, a refusal may be final: else the
        link's program may ask for no more than was shown, and nobody can tell."""
        named_program = self._catalog.program_by_slug.get(named or "")
        try:
            return authenticate_provisionally(self._catalog, proof, named_program, now_ms=now_ms)
        except Refused:
            if self._catalog.look_ups.is_missing(link_id):
                raise
            raise Refused(Reason.UNAVAILABLE) from None

    def _program_of(self, click: ClickId | None, named: str | None) -> Program | None:
        """The program a message speaks of: the click's, without a click the one it names."""
        if click is None:
            return self._catalog.program_by_slug.get(named or "")
        link = self._catalog.links.numbered(click.link)
        return None if link is None else self._catalog.programs.get(link.program_id)

    async def _keep(self, cases: Sequence[_Case], give_up_at: float, now_ms: int) -> None:
        """Until there is an outcome for each."""
        if not cases:
            return
        left = len(cases)
        done = self._loop.create_future()

        def count() -> None:
            nonlocal left
            left -= 1
            if not left and not done.done():
                done.set_result(None)

        for case in cases:
            self._hand_over(case, count, give_up_at, now_ms)
        await done

    def _hand_over(self, case: _Case, concluded: Callable[[], None], give_up_at: float, now_ms: int) -> None:
        def told(answer: Answer | None) -> None:
            self._conclude(case, answer, now_ms)
            concluded()

        assert case.message is not None      # it was judged
        self.keeper.keep(case.message, told, give_up_at=give_up_at)

    def _conclude(self, case: _Case, answer: Answer | None, now_ms: int) -> None:
        if answer is None:
            self._refuse(case, Reason.UNAVAILABLE, now_ms)
        elif answer.status == REFUSED:
            self._count(REFUSED)
            self._refusals.count(Reason.PENDING_CAP)      # its row in the log is there already
            case.outcome = NotKept(Reason.PENDING_CAP, case.parameters.absent)
        else:
            self._count(answer.status)
            case.outcome = Kept(answer.status, answer.conversion_id, answer.reason, case.parameters.absent)

    def _count(self, result: str) -> None:
        self.answered[result] = self.answered.get(result, 0) + 1

    def _refuse(self, case: _Case, reason: Reason, now_ms: int) -> None:
        case.outcome = NotKept(reason, case.parameters.absent)
        self._count(UNAVAILABLE if reason is Reason.UNAVAILABLE else REFUSED)
        if not self._refusals.count(reason):
            return
        message = case.parameters.to_log()
        # For `tracker postbacks retry`: who vouched for it then, as far as he could be told.
        credential_id = credential_of(self._catalog, case.proof)
        if case.authority is not None:
            message["_program_id"], message["_limited"] = case.authority.program_id, case.authority.limited
            credential_id = case.authority.credential_id
        if credential_id is not None:
            message["_credential_id"] = credential_id
        program = self._program_of(case.click, case.parameters.get("program"))
        self._refusals.keep(Refusal(
            reason,
            now_ms,
            message,
            program_id=None if program is None else program.program_id,
            click_id=None if case.click is None else case.click.uuid,
        ))
