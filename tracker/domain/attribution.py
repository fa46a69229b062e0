"""Attribution: whose sale it was, and why, or why nobody's.

The click decides; a coupon is asked where there is no click, or where the click earns nobody anything (late, partner
blocked, not enrolled): a click is what the visitor did, a code can be copied from a coupon site. What counts is judged
at the moment inside the click id, for a coupon at received-at. Statuses and sums are conversion.py's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Final, Literal

from tracker.domain.click_id import uuid_time_ms
from tracker.domain.commission import CommissionTerm, valid_at
from tracker.domain.endpoint import Endpoint
from tracker.domain.postback import Status
from tracker.domain.program import Coupon
from tracker.domain.values import valueclass

DAY_MS: Final = 86_400_000
_NOT_SPOOLED: Final = 0b100   # of byte 5 of a click id: first of the flag bits behind the 45 bits of time

CreditKind = Literal["click", "id", "coupon", "none"]


@valueclass(frozen=True, slots=True)
class ProgramTerms:
    """One row of program_terms."""

    valid_from_ms: int
    window_days: int = 30
    default_status: Status = Status.APPROVED


@valueclass(frozen=True, slots=True)
class Standing:
    """A dated yes or no: a partner that is active, an enrolment that runs."""

    valid_from_ms: int
    active: bool


@valueclass(frozen=True, slots=True)
class LinkOwner:
    """Whose a link is, for ever."""

    program_id: int
    partner_id: int


@valueclass(frozen=True, slots=True, kw_only=True)
class ProgramFacts:
    """All that deciding about a program's conversions needs. `coupons` by coupon_key of the code."""

    program_id: int
    several_per_key: bool = False
    terms: Sequence[ProgramTerms] = ()
    commissions: Sequence[CommissionTerm] = ()
    enrolments: Mapping[int, Sequence[Standing]] = field(default_factory=dict)   # by partner
    coupons: Mapping[str, Coupon] = field(default_factory=dict)

    def terms_at(self, at_ms: int) -> ProgramTerms:
        """The terms valid then; before the first (a clock a little behind) the first; without any, the usual."""
        return valid_at(self.terms, at_ms) or min(self.terms, key=lambda row: row.valid_from_ms, default=ProgramTerms(0))


@valueclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What was true when a group was decided. `clicks`: the ids whose row is here; `endpoints` by partner."""

    programs: Mapping[int, ProgramFacts] = field(default_factory=dict)
    links: Mapping[int, LinkOwner] = field(default_factory=dict)
    partners: Mapping[int, Sequence[Standing]] = field(default_factory=dict)
    clicks: frozenset[bytes] = frozenset()
    endpoints: Mapping[int, Sequence[Endpoint]] = field(default_factory=dict)


@valueclass(frozen=True, slots=True)
class Credit:
    """Who is credited. click: its row is here; id: from the id alone; coupon; none: nobody, `reason` says why.

    For a coupon `reason` says why the click, if there was one, did not count.
    """

    kind: CreditKind = "none"
    reason: str | None = None
    partner_id: int | None = None


def was_spooled(click_id: bytes) -> bool:
    """False: the id itself says that its row will never come."""
    return not click_id[5] & _NOT_SPOOLED


def attribute(
    facts: Facts, program: ProgramFacts, *, click_id: bytes | None, link_id: int | None, coupon: str | None,
    sold_ms: int, heard_ms: int,
) -> Credit:
    """Credit for one conversion. `sold_ms` is judged against the window, `heard_ms` (received-at) is a coupon's moment.

    Reasons of nobody: no_click, unknown_link, other_program, partner_blocked, not_enrolled, late, unknown_coupon,
    coupon_not_valid.
    """
    refused = "no_click"
    if click_id is not None:
        refused, partner_id = _judge_click(facts, program, click_id, link_id, sold_ms)
        if not refused:
            return Credit("click" if click_id in facts.clicks else "id", None, partner_id)
    if coupon is None:
        return Credit("none", refused)
    found = program.coupons.get(coupon)
    if found is None:
        return Credit("none", "unknown_coupon" if click_id is None else refused)
    if not found.valid_at(heard_ms):
        return Credit("none", "coupon_not_valid" if click_id is None else refused)
    if reason := _standing(facts, program, found.partner_id, heard_ms):
        return Credit("none", reason)
    return Credit("coupon", None if click_id is None else refused, found.partner_id)


def _judge_click(
    facts: Facts, program: ProgramFacts, click_id: bytes, link_id: int | None, sold_ms: int
) -> tuple[str, int | None]:
    """(why not, or "", the link's partner). A sale said to be before its click is credited: shop clocks are coarse."""
    link = facts.links.get(link_id) if link_id is not None else None
    if link is None:
        return "unknown_link", None
    if link.program_id != program.program_id:
        return "other_program", None
    clicked_ms = uuid_time_ms(click_id)
    if reason := _standing(facts, program, link.partner_id, clicked_ms):
        return reason, None
    if sold_ms > clicked_ms + program.terms_at(clicked_ms).window_days * DAY_MS:
        return "late", None
    return "", link.partner_id


def _standing(facts: Facts, program: ProgramFacts, partner_id: int, at_ms: int) -> str:
    """Why the partner earned nothing in this program at that moment, or ""."""
    status = valid_at(facts.partners.get(partner_id, ()), at_ms)
    if status is not None and not status.active:
        return "partner_blocked"
    enrolment = valid_at(program.enrolments.get(partner_id, ()), at_ms)
    return "" if enrolment is not None and enrolment.active else "not_enrolled"
