"""Recording without a journal: what is left when the spool's disk takes nothing.

It exists because a full disk should cost no sale while PostgreSQL is there. Such messages have random ids, move no
cursor, and are promised only when committed. The usual way is recorder.py: faster, and it survives a lost commit.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Sequence
from dataclasses import replace

from tracker.domain.postback import Postback
from tracker.storage.conversions.answers import Answer
from tracker.storage.conversions.group_commit import commit_group
from tracker.storage.conversions.recorder import OUTAGES
from tracker.storage.conversions.session import open_session
from tracker.storage.conversions.transaction import NoMark
from tracker.storage.postgres import Connection

log = logging.getLogger(__name__)


class UnjournalledRecorder:
    """One connection, one group at a time: an emergency's speed. `messages` counts what was recorded this way."""

    def __init__(self, dsn: str) -> None:
        self.messages = 0
        self._dsn = dsn
        self._connection: Connection | None = None
        self._turn = asyncio.Lock()

    async def record(self, drafts: Sequence[Postback], *, seconds: float) -> list[Answer | None]:
        """What became of each message: committed, or None when it was not, or nobody knows, within so many seconds."""
        messages = [replace(draft, message_id=secrets.token_bytes(16)) for draft in drafts]
        answers: dict[bytes, Answer] = {}
        try:
            async with asyncio.timeout(seconds), self._turn:
                await self._record(messages, answers)
        except OUTAGES as error:
            log.warning("neither journal nor PostgreSQL takes postbacks: %s: %s", type(error).__name__, error)
        self.messages += len(answers)
        return [answers.get(message.message_id) for message in messages]

    async def _record(self, messages: Sequence[Postback], answers: dict[bytes, Answer]) -> None:
        try:
            if self._connection is None:
                self._connection = await open_session(self._dsn)
            await commit_group(self._connection, messages, NoMark(), answers.update)
        except BaseException:      # a deadline too: what the session was doing is unknown, it is of no more use
            self.close()
            raise

    def close(self) -> None:
        """Without a word to the server, which may not be listening."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None
