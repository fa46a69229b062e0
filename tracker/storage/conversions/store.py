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
from tracker.domain.conversion_id import key_of
from tracker.domain.outgoing import Outgoing, news
from tracker.domain.postback import Postback, Status
from tracker.domain.program import coupon_key
from tracker.storage.conversions import sql as sql
from tracker.storage.conversions.answers import OVER_CAP, PENDING_CLICK, QUARANTINED, REFUSED, Answer, answers_of, logged_asked
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
from tracker.storage.conversions.rows import columns, conversion_of, key_id, key_of_row, key_parts, uuid_of
from tracker.storage.conversions.screen import Screened, Subject, keys_asked, known_programs, program_key, read_programs, screen
from tracker.storage.conversions.transaction import Transaction
from tracker.storage.conversions.writing import changes, first_messages, log_entries, new_states, waiting_messages
from tracker.storage.postgres import Connection, as_uuid
from tracker.storage.together import Part, execute_together, fetch_together

_BEGUN: Final = "SET LOCAL synchronous_commit = on; SET LOCAL lock_timeout = '2s'"
_TURN: Final = 16   # decisions in one turn of the event loop, which answers clicks too: about 1 ms


class Prepared(NamedTuple):
    """A group that was read, and decided as far as that needs no lock: `settled` are the answers of what was applied before."""

    settled: dict[bytes, Answer]
    work: _Work | None = None          # None: all was applied before
    decided: _Decided | None = None    # None: some keys have rows, which must be claimed first


class _Work(NamedTuple):
    """Messages that were not applied yet, and what was true when they were read."""

    screened: Screened
    programs: Mapping[int, ProgramRow]
    facts: Facts
    write_log: str


class _Decided(NamedTuple):
    """What is to be written of a group, and the answers to give when it is."""

    writes: list[Part]
    answers: dict[bytes, Answer]


async def apply_messages(transaction: Transaction, messages: Sequence[Postback]) -> dict[bytes, Answer]:
    """Apply these messages, given in the order they came; answers by message id.

    A message in the postback log already is not applied again: its answer is the logged one. ValueError for messages
    nothing can be decided about.
    """
    return await finish(transaction, await prepare(transaction.connection, messages))


async def apply_again(transaction: Transaction, messages: Sequence[Postback]) -> dict[bytes, Answer]:
    """As apply_messages, for a replay: what was quarantined gets another chance, its cause may be mended."""
    return await finish(transaction, await _prepare(
        transaction.connection, messages, lambda answer: answer.reason != QUARANTINED, sql.WRITE_LOG_AGAIN))


async def prepare(connection: Connection, messages: Sequence[Postback]) -> Prepared:
    """The half of apply_messages that changes nothing: on any connection, at any time when no message of the same keys is
    being applied here. What another edge does meanwhile makes `finish` fail (23505). Raises as apply_messages does."""
    return await _prepare(connection, messages, lambda _: True, sql.WRITE_LOG)


async def _prepare(
    connection: Connection, messages: Sequence[Postback], settles: Callable[[Answer], bool], write_log: str
) -> Prepared:
    found = await _read(connection, messages)
    settled = {id_: answer for id_, answer in answers_of(found.logged).items() if settles(answer)}
    fresh = [message for message in messages if message.message_id not in settled]
    if not fresh:
        return Prepared(settled)
    programs = known_programs(programs_of(found.programs), _programs_of(fresh))
    screened = await screen(connection, fresh, programs, found.here, dict(found.known), dict(found.waiting))
    facts = await facts_of(connection, programs, found.facts[0], found.here)
    work = _Work(screened, programs, facts, write_log)
    if any(key.conversion_id in screened.known for _, key in screened.ready):
        return Prepared(settled, work)
    return Prepared(settled, work, _decided(work, *await _decide(screened.ready, {}, facts)))


async def finish(transaction: Transaction, prepared: Prepared) -> dict[bytes, Answer]:
    """The other half: claim what is known already and decide it, write, commit."""
    settled, work, decided = prepared
    if work is None:
        await transaction.commit()
        return settled
    if decided is None:
        decided = _decided(work, *await record(transaction, work.screened.ready, work.programs, work.screened.known, work.facts))
    await transaction.commit(*decided.writes)
    return settled | decided.answers


def _decided(work: _Work, steps: Iterable[tuple[Subject, Step]], writes: list[Part]) -> _Decided:
    """With what was decided of those that were ready: what is to be written and answered of all."""
    screened = work.screened
    given = [(message, Answer(step.outcome.value, key_id(key), step.reason)) for (message, key), step in steps]
    given += [(message, Answer(PENDING_CLICK, key_id(key))) for message, key, _ in screened.waiting]
    given += [(message, Answer(REFUSED, key_id(key), OVER_CAP)) for message, key in screened.over_cap]
    if screened.waiting:
        writes.append(waiting_messages(screened.waiting))
    writes.append(log_entries(given, work.write_log))
    return _Decided(writes, {message.message_id: answer for message, answer in given})


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
        logged_asked(_ids(messages)), programs_asked(programs), *keys_asked(map(as_uuid, keys)),
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


async def record(
    transaction: Transaction, subjects: Sequence[Subject], programs: Mapping[int, ProgramRow], known: AbstractSet[bytes],
    facts: Facts,
) -> tuple[list[tuple[Subject, Step]], list[Part]]:
    """Claim the keys, fold the messages in in the order given; what came of it, and what is to be written of that.

    `known`: ids of the keys that had a row a moment ago; `facts` about the messages. A row that has come since, of another
    edge, makes what is to be written fail (23505), and the group is tried again.
    """
    keys = {key.conversion_id: key for _, key in subjects}
    before: dict[bytes, Conversion] = {}
    if there := sorted(keys.keys() & known):
        await transaction.begin()
        connection = transaction.connection
        rows = await connection.fetch(sql.CLAIM, *columns((key_parts(keys[id_]) for id_ in there), 6))
        before = {id_: conversion_of(row, keys[id_]) for row in rows for id_ in [row["conversion_id"].bytes]}
        facts = await _facts_for(connection, before.values(), [subject.message for subject in subjects], programs, facts)
    return await _decide(subjects, before, facts)


async def _decide(
    subjects: Sequence[Subject], before: Mapping[bytes, Conversion], facts: Facts
) -> tuple[list[tuple[Subject, Step]], list[Part]]:
    """Fold the messages in in the order given. `before`: the conversions that exist, by id."""
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
    writes = changes(
        [after for id_, after in now.items() if id_ in before and before[id_] != after],
        [(subject.message.message_id, step) for subject, step in steps],
        outgoing,
    )
    if new := [after for id_, after in now.items() if id_ not in before]:
        writes.append(new_states(new))
    if recorded := [subject for subject, step in steps if step.outcome is Outcome.RECORDED]:
        writes.append(first_messages(recorded))
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
    await execute_together(connection, *changes([step.after] if step.after != before else [], [(None, step)], outgoing))
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


def _programs_of(messages: Iterable[Postback]) -> set[int]:
    return {message.program_id for message in messages if message.program_id is not None}


def _links_of(messages: Iterable[Postback]) -> set[int]:
    return {message.link_id for message in messages if message.link_id is not None}


def _coupons_of(messages: Iterable[Postback]) -> set[str]:
    return {coupon_key(message.coupon) for message in messages if message.coupon}


def _ids(messages: Iterable[Postback]) -> list[bytes]:
    return [message.message_id for message in messages]
