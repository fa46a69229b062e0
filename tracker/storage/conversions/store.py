"""One group of messages: read, screen (conversions/screen.py), claim what is known already, decide, write.

Reading takes no locks, and one question for nearly all: a group of new sales is two questions and one statement that writes.
Nothing is retried: whoever calls it does that. Deciding is domain/conversion.py's; what is here is which rows must be locked
and read for it, and what is written of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final, NamedTuple
from uuid import UUID

from tracker.domain.attribution import Facts
from tracker.domain.conversion import Conversion, Outcome, Step, attach, decide, fold
from tracker.domain.conversion_id import ConversionKey, key_of
from tracker.domain.outgoing import Outgoing, news
from tracker.domain.postback import Postback, Status
from tracker.domain.program import coupon_key
from tracker.domain.values import valueclass
from tracker.storage.conversions import sql as sql
from tracker.storage.conversions.facts import (
    ProgramRow,
    clicks_asked,
    facts_asked,
    facts_of,
    find_clicks,
    programs_asked,
    programs_of,
    read_facts,
    with_strays,
)
from tracker.storage.conversions.rows import (
    as_json,
    columns,
    conversion_of,
    hex_of,
    key_of_row,
    key_parts,
    moment,
    state_row,
    uuid_of,
)
from tracker.storage.conversions.screen import Subject, keys_asked, known_programs, program_key, read_programs, screen
from tracker.storage.conversions.transaction import Transaction
from tracker.storage.postgres import Connection, as_uuid
from tracker.storage.together import Part, execute_together, fetch_together

PENDING_CLICK: Final = "pending_click"
QUEUED: Final = "queued"
REFUSED: Final = "refused"
QUARANTINED: Final = "quarantined"
OVER_CAP: Final = "pending_cap"
_BEGUN: Final = "SET LOCAL synchronous_commit = on; SET LOCAL lock_timeout = '2s'"
_TURN: Final = 16   # decisions in one turn of the event loop, which answers clicks too: about 1 ms


@valueclass(frozen=True, slots=True)
class Answer:
    """What became of a message. `status`: recorded, updated, duplicate, conflict, pending_click, queued, or refused
    (reason `pending_cap`: the program's limit of unconfirmed conversions a day)."""

    status: str
    conversion_id: UUID | None
    reason: str | None = None


async def apply_messages(transaction: Transaction, messages: Sequence[Postback]) -> dict[bytes, Answer]:
    """Apply these messages, given in the order they came; answers by message id.

    A message in the postback log already is not applied again: its answer is the logged one. ValueError for messages
    nothing can be decided about.
    """
    return await _apply(transaction, messages, lambda _: True, sql.WRITE_LOG)


async def apply_again(transaction: Transaction, messages: Sequence[Postback]) -> dict[bytes, Answer]:
    """As apply_messages, for a replay: what was quarantined gets another chance, its cause may be mended."""
    return await _apply(transaction, messages, lambda answer: answer.reason != QUARANTINED, sql.WRITE_LOG_AGAIN)


async def _apply(
    transaction: Transaction, messages: Sequence[Postback], settles: Callable[[Answer], bool], write_log: str
) -> dict[bytes, Answer]:
    connection = transaction.connection
    found = await _read(connection, messages)
    answers = {id_: answer for id_, answer in _answers_of(found.logged).items() if settles(answer)}
    fresh = [message for message in messages if message.message_id not in answers]
    if not fresh:
        await transaction.commit()
        return answers
    programs = known_programs(programs_of(found.programs), _programs_of(fresh))
    screened = await screen(connection, fresh, programs, found.here, dict(found.known), dict(found.waiting))
    facts = await facts_of(connection, programs, found.facts[0], found.here)
    steps, writes = await record(transaction, screened.ready, programs, screened.known, facts)
    given = [(message, Answer(step.outcome.value, uuid_of(key.conversion_id), step.reason)) for (message, key), step in steps]
    given += [(message, Answer(PENDING_CLICK, key_id(key))) for message, key, _ in screened.waiting]
    given += [(message, Answer(REFUSED, key_id(key), OVER_CAP)) for message, key in screened.over_cap]
    if screened.waiting:
        writes.append(_written(sql.WRITE_PENDING, sql.PENDING, (_pending_row(*waiting) for waiting in screened.waiting)))
    writes.append(_written(write_log, sql.LOG, (_log_row(message, answer) for message, answer in given)))
    await transaction.commit(*writes)
    return answers | {message.message_id: answer for message, answer in given}


class _Found(NamedTuple):
    """What PostgreSQL answered about a group: of its clicks those whose row is here, and the rows of each question."""

    here: set[bytes]
    logged: list[Any]
    programs: list[Any]
    known: list[Any]
    waiting: list[Any]
    facts: list[Any]


async def _read(connection: Connection, messages: Sequence[Postback]) -> _Found:
    """All that is known of these messages, their programs, keys (without discriminators), links, coupons and clicks."""
    programs = _programs_of(messages)
    keys = {key_of(m, several_per_key=False).conversion_id for m in messages if m.program_id is not None}
    clicks = {m.click_id for m in messages if m.click_id is not None and m.program_id is not None}
    questions = [
        _logged_asked(_ids(messages)), programs_asked(programs), *keys_asked(map(as_uuid, keys)),
        facts_asked(programs, _links_of(messages), _coupons_of(messages)),
    ]
    if not clicks:
        return _Found(set(), *await fetch_together(connection, *questions))
    # Should only the first of these two come through, plans are made anew until both do: slower, nothing else.
    *found, _ = await fetch_together(connection, *questions, (sql.PLANS_ANEW, ()))
    *here, _ = await fetch_together(connection, *clicks_asked(clicks), (sql.PLANS_KEPT, ()))
    return _Found(await with_strays(connection, clicks, here), *found)


async def resolve_messages(transaction: Transaction, messages: Sequence[Postback]) -> dict[bytes, Answer]:
    """Apply messages that waited and wait no longer: from the click's row when it is here now, else from its id."""
    connection = transaction.connection
    await transaction.begin()
    programs = await read_programs(connection, _programs_of(messages))
    subjects = [Subject(message, key) for message in messages if (key := program_key(message, programs)) is not None]
    await connection.execute(sql.PLANNED_ANEW)
    here = await find_clicks(connection, (m.click_id for m in messages if m.click_id is not None))
    [known] = await fetch_together(connection, (sql.KNOWN, [[as_uuid(key.conversion_id) for _, key in subjects]]))
    facts = await read_facts(
        connection, programs, link_ids=_links_of(messages), coupons=_coupons_of(messages), clicks=here
    )
    steps, writes = await record(transaction, subjects, programs, {id_.bytes for id_, _ in known}, facts)
    given = [(message, Answer(step.outcome.value, key_id(key), step.reason)) for (message, key), step in steps]
    await transaction.commit(*writes, _resolved(given))
    return {message.message_id: answer for message, answer in given}


async def note_resolved(connection: Connection, given: Iterable[tuple[Postback, Answer]]) -> None:
    """Write what became of messages that waited into the postback log."""
    await execute_together(connection, _resolved(given))


def _resolved(given: Iterable[tuple[Postback, Answer]]) -> Part:
    rows = ((uuid_of(m.message_id), answer.status, answer.reason, m.program_id, answer.conversion_id) for m, answer in given)
    return sql.RESOLVED_LOG, columns(rows, 5)


async def logged_answers(connection: Connection, message_ids: Iterable[bytes]) -> dict[bytes, Answer]:
    """The answers of those messages that were applied, or quarantined (the reason then is that word), before."""
    [logged] = await fetch_together(connection, _logged_asked(message_ids))
    return _answers_of(logged)


def _logged_asked(message_ids: Iterable[bytes]) -> Part:
    return sql.LOGGED, ([as_uuid(id_) for id_ in message_ids],)


def _answers_of(logged: Iterable[tuple[Any, ...]]) -> dict[bytes, Answer]:
    return {
        message_id.bytes: Answer(QUEUED, None, QUARANTINED) if outcome == QUARANTINED else Answer(outcome, conversion_id, reason)
        for message_id, outcome, reason, conversion_id in logged
    }


async def record(
    transaction: Transaction, subjects: Sequence[Subject], programs: Mapping[int, ProgramRow], known: AbstractSet[bytes],
    facts: Facts,
) -> tuple[list[tuple[Subject, Step]], list[Part]]:
    """Claim the keys, fold the messages in in the order given; what came of it, and what is to be written of that.

    `known`: ids of the keys that had a row a moment ago; `facts` about the messages. A row that has come since, of another
    edge, makes what is to be written fail (23505), and the group is tried again.
    """
    if not subjects:
        return [], []
    keys = {key.conversion_id: key for _, key in subjects}
    before: dict[bytes, Conversion] = {}
    if there := sorted(keys.keys() & known):
        await transaction.begin()
        connection = transaction.connection
        rows = await connection.fetch(sql.CLAIM, *columns((key_parts(keys[id_]) for id_ in there), 6))
        before = {id_: conversion_of(row, keys[id_]) for row in rows for id_ in [row["conversion_id"].bytes]}
        facts = await _facts_for(connection, before.values(), [subject.message for subject in subjects], programs, facts)
    now: dict[bytes, Conversion] = dict(before)
    steps: list[tuple[Subject, Step]] = []
    outgoing: list[Outgoing] = []
    for number, subject in enumerate(subjects, start=1):
        if number % _TURN == 0:
            await asyncio.sleep(0)
        id_ = subject.key.conversion_id
        step = fold(now.get(id_), subject.message, subject.key, facts)
        outgoing += news(now.get(id_), step, facts.endpoints)
        now[id_] = step.after
        steps.append((subject, step))
    writes = _writes(
        [after for id_, after in now.items() if id_ in before and before[id_] != after],
        [(subject.message.message_id, step) for subject, step in steps],
        outgoing,
    )
    if new := [after for id_, after in now.items() if id_ not in before]:
        writes.append(_written(sql.NEW_STATE, sql.STATE, map(state_row, new)))
    firsts = [_conversion_row(*subject) for subject, step in steps if step.outcome is Outcome.RECORDED]
    if firsts:
        writes.append(_written(sql.WRITE_CONVERSIONS, sql.CONVERSIONS, firsts))
    return steps, writes


async def decide_conversion(connection: Connection, conversion_id: UUID, status: Status, reason: str) -> Step | None:
    """A person's decision, in a transaction of its own; None for an unknown conversion. `reason` is kept and shown.

    Raises PostgresError (55P03 when somebody holds the conversion: a claim ends in milliseconds), or what is `Unavailable`.
    """
    async with connection.transaction():
        await connection.execute(_BEGUN)
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
    facts = await _facts_for(connection, [before], [], programs, Facts())
    step = decision(before, facts)
    outgoing = news(before, step, facts.endpoints)
    await execute_together(connection, *_writes([step.after] if step.after != before else [], [(None, step)], outgoing))
    return step


async def _facts_for(
    connection: Connection, stored: Iterable[Conversion], messages: Sequence[Postback], programs: Mapping[int, ProgramRow],
    known: Facts,
) -> Facts:
    """The facts that these conversions, with these messages, are decided by. `known` about the messages will do, unless the
    conversions name others."""
    stored = list(stored)
    unsure = {c.click_id for c in stored if c.click_id is not None and c.credit.kind != "click"} - known.clicks
    links = _links_of(messages) | {c.link_id for c in stored if c.link_id is not None}
    coupons = _coupons_of(messages) | {c.coupon for c in stored if c.coupon is not None}
    here: AbstractSet[bytes] = known.clicks
    if unsure:
        await connection.execute(sql.PLANNED_ANEW)
        here = here | await find_clicks(connection, unsure)
    if messages and here == known.clicks and links == _links_of(messages) and coupons == _coupons_of(messages):
        return known
    return await read_facts(connection, programs, link_ids=links, coupons=coupons, clicks=here)


def _writes(
    changed: Sequence[Conversion], steps: Sequence[tuple[bytes | None, Step]], outgoing: Sequence[Outgoing]
) -> list[Part]:
    """Of conversions that changed: their state, history and ledger, and what partners are told of it."""
    writes: list[Part] = []
    if changed:
        writes.append(_written(sql.WRITE_STATE, sql.STATE, map(state_row, changed)))
    history = [
        (step.after.key.conversion_id.hex(), entry.entry, hex_of(message_id), entry.change, entry.detail)
        for message_id, step in steps for entry in step.history
    ]
    if history:
        writes.append(_written(sql.WRITE_HISTORY, sql.HISTORY, history))
    ledger = [
        (step.after.key.conversion_id.hex(), entry.entry, step.after.key.program_id, entry.partner_id, entry.amount,
         entry.currency, entry.reason)
        for _, step in steps for entry in step.ledger
    ]
    if ledger:
        writes.append(_written(sql.WRITE_LEDGER, sql.LEDGER, ledger))
    if outgoing:
        writes.append(_written(sql.WRITE_OUTBOX, sql.OUTBOX, map(_outbox_row, outgoing)))
    return writes


def _written(statement: str, columns: str, rows: Iterable[Sequence[Any]]) -> Part:
    return statement, (as_json(sql.names_of(columns), rows),)


def _pending_row(message: Postback, key: ConversionKey | None, click_id: bytes) -> tuple[object, ...]:
    key_id = None if key is None else key.conversion_id
    return click_id.hex(), message.message_id.hex(), hex_of(key_id), message.credential_id, message.to_json()


def _conversion_row(message: Postback, key: ConversionKey) -> tuple[object, ...]:
    return (
        key.conversion_id.hex(), message.message_id.hex(), key.program_id, key.event, message.txid,
        hex_of(message.click_id), message.amount, message.currency, None if message.status is None else message.status.word,
        message.customer, message.coupon, moment(message.ts_ms), moment(message.received_ms),
    )


def _outbox_row(one: Outgoing) -> tuple[object, ...]:
    return (
        one.conversion_id.hex(), one.entry, one.endpoint_id, one.partner_id, one.program_id, one.link_id,
        hex_of(one.click_id), one.awaits_click, one.said,
    )


def _log_row(message: Postback, answer: Answer) -> tuple[object, ...]:
    return (
        message.message_id.hex(), moment(message.received_ms), answer.status, answer.reason, message.program_id,
        None if answer.conversion_id is None else answer.conversion_id.hex, hex_of(message.click_id), message.to_json(),
    )


def _programs_of(messages: Iterable[Postback]) -> set[int]:
    return {message.program_id for message in messages if message.program_id is not None}


def _links_of(messages: Iterable[Postback]) -> set[int]:
    return {message.link_id for message in messages if message.link_id is not None}


def _coupons_of(messages: Iterable[Postback]) -> set[str]:
    return {coupon_key(message.coupon) for message in messages if message.coupon}


def _ids(messages: Iterable[Postback]) -> list[bytes]:
    return [message.message_id for message in messages]


def key_id(key: ConversionKey | None) -> UUID | None:
    """The conversion's id as the driver wants it; None while the key is unknown."""
    return None if key is None else as_uuid(key.conversion_id)
