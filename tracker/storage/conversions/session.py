"""The sessions that groups of messages are read and written in."""

from __future__ import annotations

from typing import Final

from tracker.storage.conversions.transaction import PATIENCE_MS
from tracker.storage.postgres import Connection, connect

COMMAND_SECONDS: Final = 5.0


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
