"""Commits groups of messages, and finds the one at fault when PostgreSQL refuses: what an error means, and what follows.

A lock that does not come: halve, until the messages of the one locked key are set aside and all others are through; each
half waits half as long, so a group of 256 knows within 0.6 s. Data that is refused (classes 22 and 23, or a decision that
cannot be made): halve, until the one message is quarantined in the log. Halves go along the sorted keys, each is a
transaction of its own, and the messages of one key keep their order. A mark that moved and what else PostgreSQL says is
an outage and is raised.

What is done with outages, and which messages come next, is recorder.py's; the inside of a transaction conversions/store.py's.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from tracker.domain.conversion_id import key_of
from tracker.domain.postback import Postback
from tracker.storage.conversions import sql as sql
from tracker.storage.conversions.answers import QUARANTINED, QUEUED, Answer
from tracker.storage.conversions.journal_mark import BEGIN
from tracker.storage.conversions.rows import as_json, hex_of, moment
from tracker.storage.conversions.store import apply_messages
from tracker.storage.conversions.transaction import PATIENCE_MS, Mark, Transaction
from tracker.storage.postgres import Connection, PostgresError, Unavailable
from tracker.storage.spool.cursor import CursorMovedError

logger = logging.getLogger(__name__)

LEAST_PATIENCE_MS: Final = 20
TRIES: Final = 3           # deadlocks, serialization failures, keys that were free a moment ago


class Fault(Enum):
    """What an error says about a group."""

    LOCKED = "locked"
    AGAIN = "again"
    TWICE = "twice"        # a key that two inserted at once: again, and in the end data
    DATA = "data"
    OUTAGE = "outage"


def fault_of(error: Exception) -> Fault:
    """The verdict on an error inside a group's transaction.

    What nobody foresaw is a fault of data as well: raised, it would end the worker, and its successor by the same message.
    """
    if not isinstance(error, PostgresError):
        # The driver's refusal to encode a value is a ValueError, and an InterfaceError as an outage is.
        outage = isinstance(error, (*Unavailable, CursorMovedError)) and not isinstance(error, ValueError)
        return Fault.OUTAGE if outage else Fault.DATA
    state = error.sqlstate or ""
    known = {"55P03": Fault.LOCKED, "40P01": Fault.AGAIN, "40001": Fault.AGAIN, "23505": Fault.TWICE}
    return known.get(state, Fault.DATA if state[:2] in {"22", "23"} else Fault.OUTAGE)


Apply = Callable[[Transaction, Sequence[Postback]], Awaitable[dict[bytes, Answer]]]
"""What is done about them; it commits the transaction."""


@dataclass(frozen=True, slots=True)
class _Part:
    """Some keys' messages, tried together."""

    units: tuple[tuple[Postback, ...], ...]    # one per key
    patience_ms: int
    tries: int = 0

    @property
    def messages(self) -> list[Postback]:
        return list(itertools.chain.from_iterable(self.units))

    def halves(self, patience_ms: int) -> list[_Part]:
        """Two parts, the later first: a stack gives the earlier one back next. A single key's messages are cut in order."""
        units = self.units if len(self.units) > 1 else tuple((message,) for message in self.units[0])
        middle = len(units) // 2
        return [_Part(half, patience_ms) for half in (units[middle:], units[:middle])]


async def commit_group(
    connection: Connection, messages: Iterable[Postback], mark: Mark, answer: Callable[[dict[bytes, Answer]], None],
    *, apply: Apply = apply_messages, patience_ms: int = PATIENCE_MS,
) -> list[tuple[Postback, ...]]:
    """Apply the messages, given in the order they came. `answer` is called after each commit. Returns keys still locked.

    Raises what is an outage, the connection then being unfit; messages not answered by then are in doubt.
    """
    locked: dict[bytes, list[Postback]] = {}
    parts = [_Part(by_key(messages), patience_ms)]
    while parts:
        part = parts.pop()
        key = rough_key(part.units[0][0])
        if key in locked:      # its first messages; the part is of the same key, for only a key alone is cut apart: it waits behind
            locked[key] += part.messages
            continue
        try:
            answers = await apply(Transaction(connection, part.messages, mark, patience_ms=part.patience_ms), part.messages)
        except Exception as error:
            fault = Fault.OUTAGE if connection.is_closed() else fault_of(error)
            if fault is Fault.OUTAGE:
                raise
            if connection.is_in_transaction():
                await connection.execute("ROLLBACK")
            if fault is Fault.LOCKED and len(part.units) == 1:
                locked[key] = list(part.units[0])
            elif fault in (Fault.AGAIN, Fault.TWICE) and part.tries < TRIES:
                parts.append(_Part(part.units, part.patience_ms, part.tries + 1))
            elif fault is Fault.AGAIN:
                raise
            elif len(part.messages) > 1:
                patience = max(LEAST_PATIENCE_MS, part.patience_ms // 2) if fault is Fault.LOCKED else part.patience_ms
                parts += part.halves(patience)
            else:
                await _quarantine(connection, part.messages[0], error, mark)
                answer({part.messages[0].message_id: Answer(QUEUED, None, QUARANTINED)})
        else:
            answer(answers)
    return [tuple(unit) for unit in locked.values()]


def by_key(messages: Iterable[Postback]) -> tuple[tuple[Postback, ...], ...]:
    """The messages of each key together, in the order given, sorted by key.

    Discriminators are left out: that takes the program's row, and a coarser key keeps order just as well.
    """
    keyed = sorted(((rough_key(message), number, message) for number, message in enumerate(messages)), key=lambda k: k[:2])
    return tuple(tuple(message for *_, message in unit) for _, unit in itertools.groupby(keyed, key=lambda k: k[0]))


def rough_key(message: Postback) -> bytes:
    """The key's id without discriminator; of a message without key its own id. Never raises: see fault_of."""
    try:
        return key_of(message, several_per_key=False).conversion_id
    except (ValueError, TypeError, AttributeError):
        return message.message_id


async def _quarantine(connection: Connection, message: Postback, error: Exception, mark: Mark) -> None:
    """Put the message aside, in the log, with what was wrong with it: a person has to look, and nobody else waits."""
    state = error.sqlstate if isinstance(error, PostgresError) else None
    reason = f"{state or type(error).__name__}: {error}"[:500]
    logger.error("message %s is quarantined: %s", message.message_id.hex(), reason, exc_info=error if state is None else None)
    row = (
        message.message_id.hex(), moment(message.received_ms), QUARANTINED, storable(reason), message.program_id,
        None, hex_of(message.click_id), storable(message.to_json()),
    )
    await connection.execute(BEGIN)
    await mark.move(connection, [message], quarantined=1)
    await connection.execute(sql.WRITE_FAULT, as_json(sql.names_of(sql.LOG), [row]))
    await mark.commit(connection)


def storable(value: Any) -> Any:
    """The same JSON value without what jsonb refuses: NUL and lone surrogates become U+FFFD."""
    if isinstance(value, str):
        return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {key: storable(item) for key, item in value.items()}
    return value
