"""What was true when a group is decided: clicks, links, programs with their dated terms, partners, coupons.

Read without locks, in the group's own transaction, anew for each group: terms are few rows, and a copy of them in memory
could pay by terms that ended. Judging them is domain/attribution.py's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Final
from uuid import UUID

from tracker.domain.attribution import DAY_MS, Facts, LinkOwner, ProgramFacts, ProgramTerms, Standing
from tracker.domain.click_id import uuid_time_ms
from tracker.domain.commission import CommissionTerm
from tracker.domain.postback import STATUS_BY_WORD
from tracker.domain.program import Coupon, coupon_key
from tracker.storage.conversions import sql as sql
from tracker.storage.conversions.rows import ms_of
from tracker.storage.postgres import Connection, Record

_BELOW_TIME: Final = 83   # bits of a stored click id behind its milliseconds


async def find_clicks(connection: Connection, click_ids: Iterable[bytes]) -> set[bytes]:
    """Those of the ids whose row is here, in `clicks` or among the strays. One look-up a day: one partition each."""
    by_day: defaultdict[int, list[UUID]] = defaultdict(list)
    for click_id in set(click_ids):
        by_day[uuid_time_ms(click_id) // DAY_MS].append(UUID(bytes=click_id))
    here: set[bytes] = set()
    missing: list[UUID] = []
    for day, ids in by_day.items():
        bounds = UUID(int=day * DAY_MS << _BELOW_TIME), UUID(int=((day + 1) * DAY_MS << _BELOW_TIME) - 1)
        found = {row["click_id"].bytes for row in await connection.fetch(sql.CLICKS_OF_DAY, ids, *bounds)}
        here |= found
        missing += [id_ for id_ in ids if id_.bytes not in found]
    if missing:
        here |= {row["click_id"].bytes for row in await connection.fetch(sql.CLICKS_STRAY, missing)}
    return here


async def read_facts(
    connection: Connection, programs: Mapping[int, Record], *,
    link_ids: Collection[int], coupons: Collection[str], clicks: Iterable[bytes],
) -> Facts:
    """Facts about these programs (rows of PROGRAMS), links and coupons (coupon_key); `clicks` are those known to be here."""
    program_ids = list(programs)
    links = {
        row["link_id"]: LinkOwner(row["program_id"], row["partner_id"])
        for row in (await connection.fetch(sql.LINKS, list(link_ids)) if link_ids else [])
    }
    by_code: defaultdict[int, dict[str, Coupon]] = defaultdict(dict)
    for row in await connection.fetch(sql.COUPONS, program_ids, list(coupons)) if coupons else []:
        by_code[row["program_id"]][coupon_key(row["code"])] = _coupon(row)
    by_coupon = {coupon.partner_id for found in by_code.values() for coupon in found.values()}
    partners = list(by_coupon | {link.partner_id for link in links.values()})

    terms: defaultdict[int, list[ProgramTerms]] = defaultdict(list)
    for row in await connection.fetch(sql.PROGRAM_TERMS, program_ids):
        status = STATUS_BY_WORD[row["default_status"]]
        terms[row["program_id"]].append(ProgramTerms(ms_of(row["valid_from"]), row["window_days"], status))
    commissions: defaultdict[int, list[CommissionTerm]] = defaultdict(list)
    for row in await connection.fetch(sql.COMMISSIONS, program_ids, partners):
        commissions[row["program_id"]].append(_commission(row))
    enrolments: defaultdict[int, defaultdict[int, list[Standing]]] = defaultdict(lambda: defaultdict(list))
    for row in await connection.fetch(sql.ENROLMENTS, program_ids, partners):
        standing = Standing(ms_of(row["valid_from"]), row["status"] == "active")
        enrolments[row["program_id"]][row["partner_id"]].append(standing)
    standings: defaultdict[int, list[Standing]] = defaultdict(list)
    for row in await connection.fetch(sql.PARTNER_STATUSES, partners):
        standings[row["partner_id"]].append(Standing(ms_of(row["valid_from"]), row["status"] == "active"))

    return Facts(
        programs={
            program_id: ProgramFacts(
                program_id=program_id, several_per_key=row["several_per_key"], terms=terms[program_id],
                commissions=commissions[program_id], enrolments=enrolments[program_id], coupons=by_code[program_id],
            )
            for program_id, row in programs.items()
        },
        links=links, partners=standings, clicks=frozenset(clicks),
    )


def _coupon(row: Record) -> Coupon:
    return Coupon(
        coupon_id=row["coupon_id"], program_id=row["program_id"], partner_id=row["partner_id"], code=row["code"],
        valid_from_ms=ms_of(row["valid_from"]), valid_to_ms=row["valid_to"] and ms_of(row["valid_to"]),
    )


def _commission(row: Record) -> CommissionTerm:
    return CommissionTerm(
        valid_from_ms=ms_of(row["valid_from"]), kind=row["kind"], partner_id=row["partner_id"], event=row["event"],
        rate=row["rate"], amount=row["amount"], currency=row["currency"],
    )
