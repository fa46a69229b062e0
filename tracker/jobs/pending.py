"""Resolves postbacks that wait for their click's row, or for its link to be known.

Only this job resolves, under a lease, so one key is never resolved twice at once. What resolves is the same claim and
decision as at the door: it knows when, not what. The door parks messages (storage/conversions/store.py); nothing here may
decide about money.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import orjson

from tracker.domain.attribution import was_spooled
from tracker.domain.postback import Postback
from tracker.domain.refusal import Reason
from tracker.jobs.lease import Lease, LeaseLostError
from tracker.jobs.polling import Poller
from tracker.storage.conversions import sql as sql
from tracker.storage.conversions.answers import PENDING_CLICK, QUARANTINED, REFUSED, Answer
from tracker.storage.conversions.facts import find_clicks
from tracker.storage.conversions.group_commit import commit_group
from tracker.storage.conversions.recorder import MAX_GROUP
from tracker.storage.conversions.rows import as_json, key_id, moment
from tracker.storage.conversions.screen import program_key, read_programs
from tracker.storage.conversions.store import attach_click, note_resolved, resolve_messages
from tracker.storage.postgres import Connection, Record

logger = logging.getLogger(__name__)

POLL_SECONDS: Final = 0.5      # a click posted back at once is credited within 2 s: shipped within 1
WAIT_SECONDS: Final = 900.0    # then the conversion is credited from the id itself
UNKNOWN_LINK_SECONDS: Final = 7 * 86_400.0   # as long as journals are kept: a restore that lost links is mended by then
ATTACH_SECONDS: Final = 30 * 86_400.0        # how long rows that land late are looked for
ATTACH_EVERY: Final = 20       # polls
PAGE: Final = 1000             # clicks looked up in a poll, beside the newest; more are reached by turns
NEWEST: Final = 200
_NO_CLICK: Final = UUID(int=0)
_FIRST: Final = (datetime(1970, 1, 1, tzinfo=UTC), UUID(int=0))


class LeavePending:
    """The rows of `pending` that a group resolves leave in its transaction, while the lease is held."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease

    async def move(self, connection: Connection, messages: Sequence[Postback], *, quarantined: int) -> None:  # noqa: ARG002
        """Raises LeaseLostError, also when somebody resolved one of them already."""
        await self.leave(connection, [UUID(bytes=message.message_id) for message in messages])

    async def leave(self, connection: Connection, message_ids: Sequence[UUID]) -> None:
        """The same by the rows' ids."""
        await self._lease.fence(connection)
        status = await connection.execute(sql.LEAVE_PENDING, message_ids)
        if status != f"DELETE {len(message_ids)}":
            raise LeaseLostError(f"{status} of {len(message_ids)}")

    async def commit(self, connection: Connection) -> None:
        await connection.execute("COMMIT")


class PendingJob:
    """Runs in every control process; the one that holds the lease works. `holder` names the process."""

    def __init__(self, dsn: str, holder: str, *, wait_seconds: float = WAIT_SECONDS) -> None:
        self._wait_seconds = wait_seconds
        self._lease = Lease("pending", holder)
        self._poller = Poller(dsn, self._lease, self.poll, every_seconds=POLL_SECONDS, what="pending postbacks")
        self._after, self._after_unknown, self._after_attached = _NO_CLICK, _NO_CLICK, _FIRST
        self._polls = 0

    def stop(self) -> None:
        """End `run` after the poll under way."""
        self._poller.stop()

    async def run(self) -> None:
        """Poll until `stop`; waits out whatever PostgreSQL does. However it ends, the lease is given back."""
        await self._poller.run()

    async def poll(self, connection: Connection) -> int:
        """One look at everything that waits; how many messages left `pending`. The lease must be held."""
        left = await self._name_programs(connection)
        clicks = await self._ready_clicks(connection)
        while clicks:
            rows = await connection.fetch(sql.PENDING_OF_CLICKS, clicks, MAX_GROUP)
            messages = [message for row in rows if (message := await self._message(connection, row)) is not None]
            left += len(rows) - len(messages)
            answers: dict[bytes, Answer] = {}
            locked = await commit_group(
                connection, messages, LeavePending(self._lease), answers.update, apply=resolve_messages
            )
            left += len(answers)
            if locked or len(rows) < MAX_GROUP:
                break
        self._polls += 1
        if self._polls % ATTACH_EVERY == 1:
            await self._attach(connection)
        return left

    async def _ready_clicks(self, connection: Connection) -> list[UUID]:
        """Clicks that messages wait for and whose row is here, or that have been waited for long enough."""
        overdue = await connection.fetch(sql.PENDING_OVERDUE, self._wait_seconds, PAGE)
        page = await connection.fetch(sql.PENDING_PAGE, self._after, PAGE)
        self._after = page[-1]["click_id"] if len(page) == PAGE else _NO_CLICK
        asked = {row["click_id"].bytes for row in (*page, *await connection.fetch(sql.PENDING_NEWEST, NEWEST))}
        async with _planned(connection):
            here = await find_clicks(connection, asked)
        return [UUID(bytes=id_) for id_ in here | {row["click_id"].bytes for row in overdue}]

    async def _name_programs(self, connection: Connection) -> int:
        """Messages whose link was unknown at the door: derive their key once it is known, or refuse them."""
        rows = await connection.fetch(sql.PENDING_UNKNOWN, UNKNOWN_LINK_SECONDS, self._after_unknown, PAGE)
        self._after_unknown = rows[-1]["message_id"] if len(rows) == PAGE else _NO_CLICK
        messages = {
            row["message_id"]: message for row in rows if (message := await self._message(connection, row)) is not None
        }
        wanted = {message.link_id for message in messages.values()}
        owners = {row["link_id"]: row["program_id"] for row in await connection.fetch(sql.LINKS, list(wanted))} if rows else {}
        left = len(rows) - len(messages)
        for row in rows:
            message = messages.get(row["message_id"])
            if message is None:
                continue
            program_id = owners.get(message.link_id)
            if program_id is not None:
                covered = await connection.fetchval(
                    sql.COVERED, message.credential_id, program_id, moment(message.received_ms)
                )
                if covered:
                    await self._name_program(connection, row, replace(message, program_id=program_id), program_id)
                else:
                    left += await self._refuse(connection, replace(message, program_id=program_id), Reason.WRONG_PROGRAM)
            elif row["overdue"]:
                left += await self._refuse(connection, message, Reason.UNKNOWN_PROGRAM)
        return left

    async def _name_program(self, connection: Connection, row: Record, message: Postback, program_id: int) -> None:
        """From now on it waits for its click's row, as others do."""
        async with connection.transaction():
            await self._lease.fence(connection)
            id_ = key_id(program_key(message, await read_programs(connection, [program_id])))
            json = orjson.dumps(message.to_json()).decode()
            await connection.execute(sql.PENDING_KNOWN, row["click_id"], row["message_id"], id_, json)
            await note_resolved(connection, [(message, Answer(PENDING_CLICK, id_))])

    async def _message(self, connection: Connection, row: Record) -> Postback | None:
        """The message of a row of `pending`. None: it is none of this version's; the row is put aside, nobody waits for it."""
        message_id, text = row["message_id"], row["message"]
        try:
            return Postback.from_json(message_id.bytes, orjson.loads(text))
        except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}"[:500]
        logger.error("waiting message %s is quarantined: %s", message_id, reason)
        known = row["conversion_id"] and row["conversion_id"].hex
        logged = (message_id.hex, row["inserted_at"], QUARANTINED, reason, None, known, row["click_id"].hex, orjson.Fragment(text))
        async with connection.transaction():
            await LeavePending(self._lease).leave(connection, [message_id])
            await connection.execute(sql.WRITE_FAULT, as_json(sql.names_of(sql.LOG), [logged]))
        return None

    async def _refuse(self, connection: Connection, message: Postback, reason: Reason) -> int:
        async with connection.transaction():
            await LeavePending(self._lease).move(connection, [message], quarantined=0)
            await note_resolved(connection, [(message, Answer(REFUSED, None, reason))])
        return 1

    async def _attach(self, connection: Connection) -> None:
        """Rows of conversions credited from their ids that have landed since."""
        rows = await connection.fetch(sql.FROM_ID, ATTACH_SECONDS, *self._after_attached, PAGE)
        self._after_attached = (rows[-1]["created_at"], rows[-1]["conversion_id"]) if len(rows) == PAGE else _FIRST
        async with _planned(connection):
            here = await find_clicks(connection, (r["click_id"].bytes for r in rows if was_spooled(r["click_id"].bytes)))
        for row in rows:
            if row["click_id"].bytes in here:
                async with connection.transaction():
                    await self._lease.fence(connection)
                    await attach_click(connection, row["conversion_id"])


@contextlib.asynccontextmanager
async def _planned(connection: Connection) -> AsyncIterator[None]:
    """A transaction whose look-ups in `clicks` open the partitions of their ids only."""
    async with connection.transaction(readonly=True):
        await connection.execute("SET LOCAL plan_cache_mode = force_custom_plan")
        yield
