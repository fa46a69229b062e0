"""What was true when a group is decided: clicks, links, programs with their dated terms, partners, coupons, endpoints.

Read without locks, in the group's own transaction, anew for each group: terms are few rows, and a copy of them in memory
could pay by terms that ended. Judging them is domain/attribution.py's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Literal, NamedTuple
from uuid import UUID

from tracker.domain.attribution import DAY_MS, Facts, LinkOwner, ProgramFacts, ProgramTerms, Standing
from tracker.domain.click_id import uuid_time_ms
from tracker.domain.commission import CommissionTerm
from tracker.domain.endpoint import Endpoint
from tracker.domain.postback import STATUS_BY_WORD
from tracker.domain.program import Coupon, coupon_key
from tracker.storage.conversions import sql as sql
from tracker.storage.conversions.rows import ms_of
from tracker.storage.postgres import Connection, as_uuid
from tracker.storage.together import Part, fetch_together

_BELOW_TIME: Final = 83   # bits of a stored click id behind its milliseconds


class ProgramRow(NamedTuple):
    """A row of sql.PROGRAMS."""

    program_id: int
    several_per_key: bool
    pending_cap: int
    told: bool


def programs_asked(program_ids: Iterable[int]) -> Part:
    """The question for these programs' rows: see `programs_of`."""
    return sql.PROGRAMS, (list(program_ids),)


def programs_of(rows: Iterable[tuple[Any, ...]]) -> dict[int, ProgramRow]:
    """What PostgreSQL answered, by number."""
    return {row[0]: ProgramRow(*row) for row in rows}


def clicks_asked(click_ids: Iterable[bytes], question: str = sql.CLICKS_OF_DAY) -> list[Part]:
    """The questions which of the ids have a row in `clicks`, or another `question` about these rows: one a day, so that
    each opens one partition."""
    by_day: defaultdict[int, list[UUID]] = defaultdict(list)
    for click_id in set(click_ids):
        by_day[uuid_time_ms(click_id) // DAY_MS].append(as_uuid(click_id))
    return [(question, (ids, *_bounds(day))) for day, ids in by_day.items()]


def _bounds(day: int) -> tuple[UUID, UUID]:
    return UUID(int=day * DAY_MS << _BELOW_TIME), UUID(int=((day + 1) * DAY_MS << _BELOW_TIME) - 1)


async def with_strays(connection: Connection, click_ids: Iterable[bytes], found: Iterable[list[tuple[Any, ...]]]) -> set[bytes]:
    """What was found of `clicks_asked`, and those of the ids that are among the strays."""
    here = {row[0].bytes for rows in found for row in rows}
    missing = [as_uuid(click_id) for click_id in set(click_ids) if click_id not in here]
    if missing:
        here |= {row["click_id"].bytes for row in await connection.fetch(sql.CLICKS_STRAY, missing)}
    return here


async def find_clicks(connection: Connection, click_ids: Iterable[bytes]) -> set[bytes]:
    """Those of the ids whose row is here, in `clicks` or among the strays."""
    wanted = set(click_ids)
    asked = clicks_asked(wanted)
    return await with_strays(connection, wanted, await fetch_together(connection, *asked) if asked else [])


def facts_asked(program_ids: Iterable[int], link_ids: Iterable[int], coupons: Iterable[str]) -> Part:
    """The question for all that is known of these programs, links and coupons (coupon_key): see `facts_of`."""
    return sql.FACTS, (list(program_ids), list(link_ids), list(coupons))


async def read_facts(
    connection: Connection, programs: Mapping[int, ProgramRow], *,
    link_ids: Collection[int], coupons: Collection[str], clicks: Iterable[bytes],
) -> Facts:
    """Facts about these programs, links and coupons (coupon_key); `clicks` are those known to be here."""
    [[found]] = await fetch_together(connection, facts_asked(programs, link_ids, coupons))
    return await facts_of(connection, programs, found, clicks)


async def facts_of(
    connection: Connection, programs: Mapping[int, ProgramRow], found: tuple[Any, ...], clicks: Iterable[bytes]
) -> Facts:
    """What PostgreSQL answered to `facts_asked`, and who is told of it."""
    link_rows, coupon_rows, term_rows, commission_rows, enrolment_rows, status_rows = (rows or () for rows in found)
    links = {link_id: LinkOwner(program_id, partner_id) for link_id, program_id, partner_id in link_rows}
    by_code: defaultdict[int, dict[str, Coupon]] = defaultdict(dict)
    for row in coupon_rows:
        coupon = _coupon(*row)
        by_code[coupon.program_id][coupon_key(coupon.code)] = coupon
    terms: defaultdict[int, list[ProgramTerms]] = defaultdict(list)
    for program_id, valid_from, window_days, default_status in term_rows:
        terms[program_id].append(ProgramTerms(ms_of(valid_from), window_days, STATUS_BY_WORD[default_status]))
    commissions: defaultdict[int, list[CommissionTerm]] = defaultdict(list)
    for program_id, *term in commission_rows:
        commissions[program_id].append(_commission(*term))
    enrolments: defaultdict[int, defaultdict[int, list[Standing]]] = defaultdict(lambda: defaultdict(list))
    for program_id, partner_id, valid_from, status in enrolment_rows:
        enrolments[program_id][partner_id].append(Standing(ms_of(valid_from), status == "active"))
    standings: defaultdict[int, list[Standing]] = defaultdict(list)
    for partner_id, valid_from, status in status_rows:
        standings[partner_id].append(Standing(ms_of(valid_from), status == "active"))
    endpoints: defaultdict[int, list[Endpoint]] = defaultdict(list)
    if any(program.told for program in programs.values()):
        credited = {row[2] for row in (*link_rows, *coupon_rows)}      # who may be: both begin with id, program, partner
        for row in await connection.fetch(sql.ENDPOINTS, list(programs), list(credited)):
            endpoint = Endpoint(row["endpoint_id"], row["program_id"], frozenset(row["statuses"]), frozenset(row["events"]))
            endpoints[row["partner_id"]].append(endpoint)
    return Facts(
        programs={
            program_id: ProgramFacts(
                program_id=program_id, several_per_key=row.several_per_key, terms=terms[program_id],
                commissions=commissions[program_id], enrolments=enrolments[program_id], coupons=by_code[program_id],
            )
            for program_id, row in programs.items()
        },
        links=links, partners=standings, clicks=frozenset(clicks), endpoints=endpoints,
    )


def _coupon(
    coupon_id: int, program_id: int, partner_id: int, code: str, valid_from: datetime, valid_to: datetime | None
) -> Coupon:
    return Coupon(
        coupon_id=coupon_id, program_id=program_id, partner_id=partner_id, code=code,
        valid_from_ms=ms_of(valid_from), valid_to_ms=None if valid_to is None else ms_of(valid_to),
    )


def _commission(
    partner_id: int, event: str, valid_from: datetime, kind: Literal["percent", "fixed", "none"], rate: Decimal | None,
    amount: Decimal | None, currency: str | None,
) -> CommissionTerm:
    return CommissionTerm(
        valid_from_ms=ms_of(valid_from), kind=kind, partner_id=partner_id, event=event, rate=rate, amount=amount, currency=currency,
    )
