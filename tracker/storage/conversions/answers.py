"""What became of a message: said to its sender, and kept in the postback log, which knows it for good."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final
from uuid import UUID

from tracker.domain.values import valueclass
from tracker.storage.conversions import sql as sql
from tracker.storage.postgres import Connection, as_uuid
from tracker.storage.together import Part, fetch_together

PENDING_CLICK: Final = "pending_click"
QUEUED: Final = "queued"
REFUSED: Final = "refused"
QUARANTINED: Final = "quarantined"
OVER_CAP: Final = "pending_cap"


@valueclass(frozen=True, slots=True)
class Answer:
    """What became of a message. `status`: recorded, updated, duplicate, conflict, pending_click, queued, or refused
    (reason `pending_cap`: the program's limit of unconfirmed conversions a day)."""

    status: str
    conversion_id: UUID | None
    reason: str | None = None


async def logged_answers(connection: Connection, message_ids: Iterable[bytes]) -> dict[bytes, Answer]:
    """The answers of those messages that were applied, or quarantined (the reason then is that word), before."""
    [logged] = await fetch_together(connection, logged_asked(message_ids))
    return answers_of(logged)


def logged_asked(message_ids: Iterable[bytes]) -> Part:
    """The question which of these are in the log, and how each was answered: see `answers_of`."""
    return sql.LOGGED, ([as_uuid(id_) for id_ in message_ids],)


def answers_of(logged: Iterable[tuple[Any, ...]]) -> dict[bytes, Answer]:
    """What PostgreSQL answered, by message id."""
    return {
        message_id.bytes: Answer(QUEUED, None, QUARANTINED) if outcome == QUARANTINED else Answer(outcome, conversion_id, reason)
        for message_id, outcome, reason, conversion_id in logged
    }
