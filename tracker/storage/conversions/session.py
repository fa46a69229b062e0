"""The sessions that groups of messages are read and written in."""

from __future__ import annotations

import logging
import time
from typing import Final

from tracker.storage.conversions.transaction import PATIENCE_MS
from tracker.storage.postgres import Connection, PostgresError, Unavailable, connect

logger = logging.getLogger(__name__)

COMMAND_SECONDS: Final = 5.0
SPARE_AGAIN_SECONDS: Final = 3.0     # until PostgreSQL is asked again for a session it had not to spare


async def open_session(dsn: str, **settings: str) -> Connection:
    """A session fit for groups: the server ends it when it idles inside a transaction for 2 s, so that a dead edge's claims
    do not outlive it by more; and a plan made while a table was empty uses its index, for it is kept. Raises as `connect` does."""
    return await connect(
        dsn, timeout=5.0, command_timeout=COMMAND_SECONDS, idle_in_transaction_session_timeout="2s", enable_seqscan="off",
        **settings,
    )


async def open_recorders(dsn: str) -> Connection:
    """The same for a recorder, whose groups are mostly one statement: durable, and as patient with locks, as a transaction of
    transaction.py is."""
    return await open_session(
        dsn, plan_cache_mode="force_generic_plan", synchronous_commit="on", lock_timeout=f"{PATIENCE_MS}ms"
    )


class SpareSession:
    """A recorder's second session: opened when there is work for it, and missed while PostgreSQL has none to spare, for one is
    enough to record everything."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connection: Connection | None = None
        self._again_at = 0.0

    async def get(self) -> Connection | None:
        """It, or None. Opened after the first one, so it is no older server's."""
        if self._connection is None or self._connection.is_closed():
            self._connection = None
            if (now := time.monotonic()) < self._again_at:
                return None
            try:
                self._connection = await open_recorders(self._dsn)
            except (PostgresError, *Unavailable) as error:
                self._again_at = now + SPARE_AGAIN_SECONDS
                logger.warning("postbacks are not prepared: no second session: %s: %s", type(error).__name__, error)
        return self._connection

    def drop(self) -> None:
        """End it without a word to the server: a close could wait for ever on a silent socket."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None
