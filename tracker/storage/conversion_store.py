"""One group of messages inside one transaction: screen, claim, read, decide, write (DESIGN section 5).

It opens and ends no transaction and retries nothing: whoever calls it does (group_commit.py, jobs/pending.py). Deciding is
domain/conversion.py's; what is here is which rows must be locked and read for it, and what is written of it.

Screening comes before claiming, because a message that must wait for its click's row claims nothing. It reads without
locks: that another edge makes a key wait, or ends its waiting, at the same moment is as if it had happened just after.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple
from uuid import UUID

import orjson

from tracker.domain.attribution import Facts, was_spooled
from tracker.domain.conversion import Conversion, Outcome, Step, attach, decide, fold
from tracker.domain.conversion_id import ConversionKey, key_of
from tracker.domain.postback import Postback, Status
from tracker.storage import conversion_sql as sql
from tracker.storage.conversion_facts import find_clicks, read_facts
from tracker.storage.conversion_rows import (
    columns,
    conversion_of,
    key_of_row,
    key_parts,
    moment,
    state_row,
    uuid_of,
)
from tracker.storage.postgres import Connection, Record

PENDING_CLICK: Final = "pending_click"
QUEUED: Final = "queued"
REFUSED: Final = "refused"
QUARANTINED: Final = "quarantined"
OVER_CAP: Final = "pending_cap"


class UnknownProgramError(ValueError):
    """A message of a program that the database does not know: nothing can be decided about it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a message. `status`: recorded, updated, duplicate, conflict, pending_click, queued, or refused
    (reason `pending_cap`: the program's limit of unconfirmed conversions a day)."""

    status: str
    conversion_id: UUID | None
    reason: str | None = None


class Subject(NamedTuple):
    """A message and the conversion it speaks of."""

    message: Postback
    key: ConversionKey


@dataclass(slots=True)
class _Screened:
    """Where each message of a group goes."""

    ready: list[Subject] = field(default_factory=list)
    waiting: list[tuple[Postback, ConversionKey | None, bytes]] = field(default_factory=list)   # with the click awaited
    over_cap: list[Subject] = field(default_factory=list)


async def apply_messages(connection: Connection, messages: Sequence[Postback]) -> dict[bytes, Answer]:
    """Apply these messages, given in the order they came; answers by message id.

    A message in the postback log already is not applied again: its answer is the logged one. ValueError for messages
    nothing can be decided about.
    """
    answers = await logged_answers(connection, [message.message_id for message in messages])
    fresh = [message for message in messages if message.message_id not in answers]
    if not fresh:
        return answers
    programs = await read_programs(connection, {message.program_id for message in fresh if message.program_id is not None})
    here = await find_clicks(connection, (m.click_id for m in fresh if m.click_id is not None and m.program_id is not None))
    screened = await _screen(connection, fresh, programs, here)
    steps = await record(connection, screened.ready, programs, here)
    given = [(message, Answer(step.outcome, uuid_of(key.conversion_id), step.reason)) for (message, key), step in steps]
    given += [(message, Answer(PENDING_CLICK, key_id(key))) for message, key, _ in screened.waiting]
    given += [(message, Answer(REFUSED, key_id(key), OVER_CAP)) for message, key in screened.over_cap]
    await _park(connection, screened.waiting)
    await connection.execute(sql.WRITE_LOG, *columns((_log_row(message, answer) for message, answer in given), 8))
    return answers | {message.message_id: answer for message, answer in given}


async def logged_answers(connection: Connection, message_ids: Iterable[bytes]) -> dict[bytes, Answer]:
    """The answers of those messages that were applied before."""
    rows = await connection.fetch(sql.LOGGED, [UUID(bytes=id_) for id_ in message_ids])
    return {
        row["message_id"].bytes: Answer(
            QUEUED if row["outcome"] == QUARANTINED else row["outcome"], row["conversion_id"], row["reason"]
        )
        for row in rows
    }


async def read_programs(connection: Connection, program_ids: Iterable[int]) -> dict[int, Record]:
    """Rows of PROGRAMS. UnknownProgramError when one is missing."""
    wanted = set(program_ids)
    programs = {row["program_id"]: row for row in await connection.fetch(sql.PROGRAMS, list(wanted))}
    if missing := wanted - programs.keys():
        raise UnknownProgramError(f"unknown program {min(missing)}")
    return programs


async def record(
    connection: Connection, subjects: Sequence[Subject], programs: Mapping[int, Record], here: set[bytes]
) -> list[tuple[Subject, Step]]:
    """Claim the keys, fold the messages in in the order given, write what came of it. `here`: clicks whose row is here."""
    if not subjects:
        return []
    keys = {key.conversion_id: key for _, key in subjects}
    rows = await connection.fetch(sql.CLAIM, *columns((key_parts(keys[id_]) for id_ in sorted(keys)), 6))
    before = {
        row["conversion_id"].bytes: conversion_of(row, keys[row["conversion_id"].bytes])
        for row in rows if row["status"] is not None
    }
    facts = await _facts_for(connection, before.values(), [subject.message for subject in subjects], programs, here)
    now: dict[bytes, Conversion] = dict(before)
    steps: list[tuple[Subject, Step]] = []
    for subject in subjects:
        id_ = subject.key.conversion_id
        step = fold(now.get(id_), subject.message, subject.key, facts)
        now[id_] = step.after
        steps.append((subject, step))
    firsts = [_conversion_row(*subject) for subject, step in steps if step.outcome is Outcome.RECORDED]
    if firsts:
        await connection.execute(sql.WRITE_CONVERSIONS, *columns(firsts, 13))
    await _write(
        connection, [after for id_, after in now.items() if before.get(id_) != after],
        [(subject.message.message_id, step) for subject, step in steps],
    )
    return steps


async def decide_conversion(connection: Connection, conversion_id: UUID, status: Status, reason: str) -> Step | None:
    """A person's decision; None for an unknown conversion. `reason` is kept and shown."""
    return await _redecide(connection, conversion_id, lambda before, facts: decide(before, status, reason, facts))


async def attach_click(connection: Connection, conversion_id: UUID) -> Step | None:
    """Attach the click row of a conversion credited from its id, if it has landed."""
    return await _redecide(connection, conversion_id, attach)


async def _redecide(
    connection: Connection, conversion_id: UUID, decision: Callable[[Conversion, Facts], Step]
) -> Step | None:
    row = await connection.fetchrow(sql.CLAIM_ONE, conversion_id)
    if row is None:
        return None
    before = conversion_of(row, key_of_row(row))
    programs = await read_programs(connection, [before.key.program_id])
    step = decision(before, await _facts_for(connection, [before], [], programs, set()))
    await _write(connection, [step.after] if step.after != before else [], [(None, step)])
    return step


async def _screen(
    connection: Connection, fresh: Sequence[Postback], programs: Mapping[int, Record], here: set[bytes]
) -> _Screened:
    keys = {
        message.message_id: key_of(message, several_per_key=programs[message.program_id]["several_per_key"])
        for message in fresh if message.program_id is not None
    }
    ids = {message_id: UUID(bytes=key.conversion_id) for message_id, key in keys.items()}
    away = {
        message.message_id for message in fresh
        if message.click_id is not None and message.click_id not in here and was_spooled(message.click_id)
    }
    unsure = [ids[m.message_id] for m in fresh if m.message_id in ids and (m.limited or m.message_id in away)]
    known = {}
    if unsure:
        known = {row["conversion_id"]: row["click_id"] for row in await connection.fetch(sql.CREDITED_CLICKS, unsure)}
    awaited = {row["conversion_id"]: row["click_id"].bytes for row in await connection.fetch(sql.WAITING, list(ids.values()))}
    room = await _room_for_limited(connection, fresh, programs, ids, known)

    screened = _Screened()
    made: set[UUID] = set()
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
        if message.limited and id_ not in known and id_ not in made:
            if not room[key.program_id]:
                screened.over_cap.append(Subject(message, key))
                continue
            room[key.program_id] -= 1
        made.add(id_)
        if id_ in awaited:
            screened.waiting.append((message, key, awaited[id_]))
        else:
            screened.ready.append(Subject(message, key))
    return screened


async def _room_for_limited(
    connection: Connection, fresh: Sequence[Postback], programs: Mapping[int, Record], ids: Mapping[bytes, UUID],
    known: Mapping[UUID, UUID | None],
) -> Counter[int]:
    """How many more unconfirmed conversions each program takes today. Several edges at once may exceed it by a group."""
    asking = {m.program_id for m in fresh if m.limited and m.program_id is not None and ids[m.message_id] not in known}
    if not asking:
        return Counter()
    made = {row["program_id"]: row["made"] for row in await connection.fetch(sql.UNCONFIRMED_TODAY, list(asking))}
    return Counter({id_: max(0, programs[id_]["pending_cap"] - made.get(id_, 0)) for id_ in asking})


async def _facts_for(
    connection: Connection, stored: Iterable[Conversion], messages: Sequence[Postback], programs: Mapping[int, Record],
    here: set[bytes],
) -> Facts:
    """The facts that these conversions, with these messages, are decided by."""
    stored = list(stored)
    unsure = {c.click_id for c in stored if c.click_id is not None and c.credit.kind != "click"} - here
    links = {m.link_id for m in messages if m.link_id is not None} | {c.link_id for c in stored if c.link_id is not None}
    coupons = {m.coupon.strip().lower() for m in messages if m.coupon} | {c.coupon for c in stored if c.coupon is not None}
    clicks = here | await find_clicks(connection, unsure)
    return await read_facts(connection, programs, link_ids=links, coupons=coupons, clicks=clicks)


async def _write(
    connection: Connection, changed: Sequence[Conversion], steps: Sequence[tuple[bytes | None, Step]]
) -> None:
    if changed:
        rows = sorted((state_row(conversion) for conversion in changed), key=lambda row: row[0].bytes)
        await connection.execute(sql.WRITE_STATE, *columns(rows, 30))
    history = [
        (UUID(bytes=step.after.key.conversion_id), entry.entry, uuid_of(message_id), entry.change, _json(entry.detail))
        for message_id, step in steps for entry in step.history
    ]
    if history:
        await connection.execute(sql.WRITE_HISTORY, *columns(history, 5))
    ledger = [
        (UUID(bytes=step.after.key.conversion_id), entry.entry, step.after.key.program_id, entry.partner_id, entry.amount,
         entry.currency, entry.reason)
        for _, step in steps for entry in step.ledger
    ]
    if ledger:
        await connection.execute(sql.WRITE_LEDGER, *columns(ledger, 7))


async def _park(connection: Connection, waiting: Sequence[tuple[Postback, ConversionKey | None, bytes]]) -> None:
    if waiting:
        rows = [
            (UUID(bytes=click_id), UUID(bytes=message.message_id), key_id(key),
             message.credential_id, _json(message.to_json()))
            for message, key, click_id in waiting
        ]
        await connection.execute(sql.WRITE_PENDING, *columns(rows, 5))


def _conversion_row(message: Postback, key: ConversionKey) -> tuple[object, ...]:
    return (
        UUID(bytes=key.conversion_id), UUID(bytes=message.message_id), key.program_id, key.event, message.txid,
        uuid_of(message.click_id), message.amount, message.currency, None if message.status is None else message.status.word,
        message.customer, message.coupon, moment(message.ts_ms), moment(message.received_ms),
    )


def _log_row(message: Postback, answer: Answer) -> tuple[object, ...]:
    return (
        UUID(bytes=message.message_id), moment(message.received_ms), answer.status, answer.reason, message.program_id,
        answer.conversion_id, uuid_of(message.click_id), _json(message.to_json()),
    )


def key_id(key: ConversionKey | None) -> UUID | None:
    """The conversion's id as the driver wants it; None while the key is unknown."""
    return None if key is None else UUID(bytes=key.conversion_id)


def _json(value: object) -> str:
    return orjson.dumps(value).decode()
