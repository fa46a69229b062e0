"""Screening a group of messages before anything is claimed: which may be decided now, which wait, which are too many.

A message that must wait for its click's row claims nothing, so this comes first and reads without locks: that another edge
makes a key wait, or ends its waiting, at the same moment is as if it had happened just after. Deciding and writing are
conversions/store.py's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

from tracker.domain.attribution import was_spooled
from tracker.domain.conversion_id import ConversionKey, key_of
from tracker.domain.postback import Postback
from tracker.storage.conversions import sql as sql
from tracker.storage.conversions.facts import ProgramRow, programs_asked, programs_of
from tracker.storage.postgres import Connection, as_uuid
from tracker.storage.together import Part, fetch_together


class UnknownProgramError(ValueError):
    """A message of a program that the database does not know: nothing can be decided about it."""


class Subject(NamedTuple):
    """A message and the conversion it speaks of."""

    message: Postback
    key: ConversionKey


@dataclass(slots=True)
class Screened:
    """Where each message of a group goes. `known`: ids of those keys that have a row."""

    known: AbstractSet[bytes]
    ready: list[Subject] = field(default_factory=list)
    waiting: list[tuple[Postback, ConversionKey | None, bytes]] = field(default_factory=list)   # with the click awaited
    over_cap: list[Subject] = field(default_factory=list)


async def read_programs(connection: Connection, program_ids: Iterable[int]) -> dict[int, ProgramRow]:
    """Rows of PROGRAMS. UnknownProgramError when one is missing."""
    wanted = set(program_ids)
    [rows] = await fetch_together(connection, programs_asked(wanted))
    return known_programs(programs_of(rows), wanted)


def known_programs(programs: dict[int, ProgramRow], wanted: AbstractSet[int]) -> dict[int, ProgramRow]:
    """`programs`, when all that are wanted are among them; else UnknownProgramError."""
    if missing := wanted - programs.keys():
        raise UnknownProgramError(f"unknown program {min(missing)}")
    return programs


def program_key(message: Postback, programs: Mapping[int, ProgramRow]) -> ConversionKey | None:
    """None while the program is unknown."""
    if message.program_id is None:
        return None
    return key_of(message, several_per_key=programs[message.program_id].several_per_key)


def keys_asked(conversion_ids: Iterable[UUID]) -> list[Part]:
    """The questions which of these have a row, and which wait for a click: see `screen`."""
    asked = list(conversion_ids)
    return [(sql.KNOWN, (asked,)), (sql.WAITING, (asked,))]


async def screen(
    connection: Connection, fresh: Sequence[Postback], programs: Mapping[int, ProgramRow], here: set[bytes],
    known: dict[UUID, UUID | None], waiting: dict[UUID, UUID],
) -> Screened:
    """Sort new messages, in the order they came. `programs`: theirs; `here`: of their clicks, those whose row is here; `known`
    and `waiting`: what PostgreSQL answered to `keys_asked` about their keys, as far as these have no discriminator.

    ValueError for a message of no program and no click.
    """
    keys = {message.message_id: key for message in fresh if (key := program_key(message, programs)) is not None}
    ids = {message_id: as_uuid(key.conversion_id) for message_id, key in keys.items()}
    if apart := [ids[message_id] for message_id, key in keys.items() if key.discriminator]:
        more_known, more_waiting = await fetch_together(connection, *keys_asked(apart))
        known, waiting = known | dict(more_known), waiting | dict(more_waiting)
    away = {
        message.message_id for message in fresh
        if message.click_id is not None and message.click_id not in here and was_spooled(message.click_id)
    }
    awaited = {id_: click_id.bytes for id_, click_id in waiting.items()}
    room = await _room_for_limited(connection, fresh, programs, ids, known.keys() | awaited.keys())

    screened = Screened({id_.bytes for id_ in known})
    taken = known.keys() | awaited.keys()   # keys that a limited message makes no more of
    for message in fresh:
        key = keys.get(message.message_id)
        if key is None:
            if message.click_id is None:
                raise ValueError("neither program nor click")
            screened.waiting.append((message, None, message.click_id))
            continue
        id_ = ids[message.message_id]
        if message.message_id in away and known.get(id_) is None and message.click_id is not None:
            awaited.setdefault(id_, message.click_id)
        if message.limited and id_ not in taken:
            if not room[key.program_id]:
                screened.over_cap.append(Subject(message, key))
                continue
            room[key.program_id] -= 1
        taken.add(id_)
        if id_ in awaited:
            screened.waiting.append((message, key, awaited[id_]))
        else:
            screened.ready.append(Subject(message, key))
    return screened


async def _room_for_limited(
    connection: Connection, fresh: Sequence[Postback], programs: Mapping[int, ProgramRow], ids: Mapping[bytes, UUID],
    taken: Collection[UUID],
) -> Counter[int]:
    """How many more unconfirmed conversions each program takes today: those that wait for their click count as made, so
    resolving needs to ask no more. Several edges at once may exceed it by a group."""
    asking = {m.program_id for m in fresh if m.limited and m.program_id is not None and ids[m.message_id] not in taken}
    if not asking:
        return Counter()
    made: Counter[int] = Counter()
    for row in await connection.fetch(sql.UNCONFIRMED_TODAY, list(asking)):
        made[row["program_id"]] += row["made"]
    for row in await connection.fetch(sql.UNCONFIRMED_WAITING, list(asking)):
        made[row["program_id"]] += row["waiting"]
    return Counter({id_: max(0, programs[id_].pending_cap - made[id_]) for id_ in asking})
