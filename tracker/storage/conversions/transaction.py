"""The transaction of one group: one statement where that will do, an open one where rows have to be locked before deciding.

Most groups tell of sales nobody has heard of: nothing is locked, so what is written of them, and the mark that moves along,
is one statement and one round trip, after which it is committed. With round trips of their own for BEGIN, the mark and COMMIT
a group took seven in place of three, and an edge committed a fifth fewer postbacks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from tracker.domain.postback import Postback
from tracker.storage.conversions.journal_mark import BEGIN, JournalMark
from tracker.storage.postgres import Connection
from tracker.storage.together import Part, execute_together

PATIENCE_MS: Final = 300   # for another edge's open claim, which takes 20 ms when all is well; also a recorder's session's


class Mark(Protocol):
    """What moves in a group's transaction along with it: a journal's cursor, rows of `pending`, or nothing."""

    async def move(self, connection: Connection, messages: Sequence[Postback], *, quarantined: int) -> None:
        """Inside the transaction, before anything else; the messages count as applied if it commits."""

    async def commit(self, connection: Connection) -> None:
        """End the transaction."""


class NoMark:
    """For messages that no cursor counts: a replay."""

    async def move(self, connection: Connection, messages: Sequence[Postback], *, quarantined: int) -> None:
        """Nothing moves."""

    async def commit(self, connection: Connection) -> None:
        await connection.execute("COMMIT")


class Transaction:
    """Of these messages: `begin` when rows are to be locked, then `commit`, once."""

    def __init__(
        self, connection: Connection, messages: Sequence[Postback], mark: Mark, *, patience_ms: int = PATIENCE_MS
    ) -> None:
        self.connection = connection
        self._messages, self._mark, self._patience_ms = messages, mark, patience_ms
        self._begun = False

    async def begin(self) -> None:
        """From here on statements are the transaction's; waiting for a lock takes `patience_ms` at most. Again: nothing."""
        if not self._begun:
            await self.connection.execute(f"{BEGIN}; SET LOCAL lock_timeout = {self._patience_ms}")
            await self._mark.move(self.connection, self._messages, quarantined=0)
            self._begun = True

    async def commit(self, *writes: Part) -> None:
        """Carry them out, none of which may touch a row that another one touches. The messages count as applied."""
        if not self._begun and self._patience_ms == PATIENCE_MS and isinstance(self._mark, JournalMark):
            await self._mark.write(self.connection, self._messages, writes)
            return
        await self.begin()
        await execute_together(self.connection, *writes)
        await self._mark.commit(self.connection)
