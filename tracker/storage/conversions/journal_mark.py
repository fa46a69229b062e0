"""How far a journal is applied: its cursor, a low-water mark, and what is applied above it already.

It exists because messages around a locked key go ahead of it: the cursor may move only over what is applied without a
hole, in the transaction that applies it. After a reconnect what was above it is forgotten: the postback log knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tracker.domain.postback import Postback
from tracker.storage.clicks.store import QUARANTINE
from tracker.storage.postgres import Connection
from tracker.storage.spool.cursor import SpoolCursor
from tracker.storage.together import Part

BEGIN: Final = "BEGIN; SET LOCAL synchronous_commit = on"
"""How every transaction begins after which somebody is told `recorded`: durable, whatever the role's default is."""


class JournalMark:
    """The journal's cursor, and what was applied above it. Moves in the groups' transactions."""

    def __init__(self, spool_id: int) -> None:
        self.cursor = SpoolCursor(spool_id, "journal")
        self.next_seq = 0                      # all below is applied
        self.ahead: dict[int, int] = {}        # sequence number: 1 when quarantined, else 0
        self._moving: tuple[int, dict[int, int]] = (0, {})

    async def claim(self, connection: Connection) -> None:
        """Make the connection the one that may move the mark, and go on from what it says."""
        self.next_seq = await self.cursor.claim(connection)
        self.ahead.clear()

    async def move(self, connection: Connection, messages: Sequence[Postback], *, quarantined: int) -> None:
        """Count the messages as applied; the cursor goes up to the first that is not. Raises CursorMovedError."""
        stored, spoiled = self._plan(messages, quarantined)
        await self.cursor.advance(connection, self.next_seq, stored=stored, quarantined=spoiled)

    async def write(self, connection: Connection, messages: Sequence[Postback], parts: Sequence[Part]) -> None:
        """Move, carry out these statements and commit, all at once. Raises CursorMovedError."""
        stored, spoiled = self._plan(messages, 0)
        await self.cursor.advance_with(connection, self.next_seq, parts, stored=stored, quarantined=spoiled)
        self.next_seq, self.ahead = self._moving

    def _plan(self, messages: Sequence[Postback], quarantined: int) -> tuple[int, int]:
        """Where the mark is going with these; how many it passes that are stored, and how many that are not."""
        # A key that was locked is tried again with those of its messages that were applied before: they count no more.
        moving = {seq: quarantined for message in messages if (seq := sequence_of(message)) >= self.next_seq}
        ahead = moving | self.ahead
        next_seq, spoiled = self.next_seq, 0
        while (fault := ahead.pop(next_seq, None)) is not None:
            next_seq, spoiled = next_seq + 1, spoiled + fault
        self._moving = next_seq, ahead
        return next_seq - self.next_seq - spoiled, spoiled

    async def commit(self, connection: Connection) -> None:
        """Commit; only then the mark counts as moved."""
        await self.cursor.commit(connection)
        self.next_seq, self.ahead = self._moving

    async def skip(self, connection: Connection, seq: int, count: int, reason: str, row: bytes | None) -> None:
        """Numbers without a message, lost to damage or no message at all: quarantined, in a transaction of its own."""
        await connection.execute(BEGIN)
        place = (self.cursor.spool_id, self.cursor.log, seq)
        await connection.execute(QUARANTINE, *place, count, reason, row)
        marks = self.ahead | dict.fromkeys(range(seq, seq + count), 1)
        self.ahead = marks
        await self.move(connection, [], quarantined=0)
        await self.commit(connection)


def sequence_of(message: Postback) -> int:
    """The message's number in its journal: the second half of its id."""
    return int.from_bytes(message.message_id[8:], "big")
