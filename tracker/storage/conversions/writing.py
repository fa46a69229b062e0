"""What is to be written of decisions: a statement for each table, its rows as one JSON document. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tracker.domain.conversion import Conversion, Step
from tracker.domain.conversion_id import ConversionKey
from tracker.domain.outgoing import Outgoing
from tracker.domain.postback import Postback
from tracker.storage.conversions import sql as sql
from tracker.storage.conversions.answers import Answer
from tracker.storage.conversions.rows import as_json, hex_of, moment, state_row
from tracker.storage.together import Part


def changes(
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


def new_states(conversions: Iterable[Conversion]) -> Part:
    """Of conversions that nobody has heard of before."""
    return _written(sql.NEW_STATE, sql.STATE, map(state_row, conversions))


def first_messages(recorded: Iterable[tuple[Postback, ConversionKey]]) -> Part:
    """What their first message said of them: it never changes."""
    return _written(sql.WRITE_CONVERSIONS, sql.CONVERSIONS, (_conversion_row(*one) for one in recorded))


def waiting_messages(waiting: Iterable[tuple[Postback, ConversionKey | None, bytes]]) -> Part:
    """Those that wait for a click, with its id."""
    return _written(sql.WRITE_PENDING, sql.PENDING, (_pending_row(*one) for one in waiting))


def log_entries(given: Iterable[tuple[Postback, Answer]], statement: str = sql.WRITE_LOG) -> Part:
    """What became of each message."""
    return _written(statement, sql.LOG, (_log_row(*one) for one in given))


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
