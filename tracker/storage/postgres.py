"""Connections to PostgreSQL: the only importer of asyncpg, and the one place that knows how a session of ours is set up.

Every session has `jit=off` (a look-up over many partitions took 127-334 ms with it, 0.85 without), UTC, TCP keep-alive
left to the server, and a statement timeout, because asyncpg has no deadline of its own and a silently dead socket would
otherwise hold a pool for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, TypeAlias
from uuid import UUID

import asyncpg
from asyncpg.exceptions import PostgresError
from asyncpg.pgproto import pgproto

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
Record: TypeAlias = asyncpg.Record

# What a broken or absent server looks like from here: wait and retry, never a fault of the data.
Unavailable = (OSError, asyncio.TimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError)

as_uuid: Final[Callable[[bytes], UUID]] = pgproto.UUID
"""Sixteen bytes as the driver wants and gives them: a UUID made in 0.3 µs, where UUID(bytes=…) takes 3."""

SESSION_SETTINGS = {
    "jit": "off",
    "timezone": "UTC",
    "application_name": "tracker",
    "statement_timeout": "30s",
    "idle_in_transaction_session_timeout": "30s",
}

READ_ONLY = "SELECT current_setting('transaction_read_only') = 'on'"
"""True of a replica, and of a server that another one has followed: nothing of ours belongs there."""

__all__ = ["READ_ONLY", "Connection", "Pool", "PostgresError", "Record", "Unavailable", "as_uuid", "connect", "create_pool"]


async def connect(dsn: str, *, timeout: float = 5.0, command_timeout: float = 30.0, **settings: str) -> Connection:
    """One session. `timeout` and `command_timeout` in seconds; `settings` override SESSION_SETTINGS.

    Raises one of `Unavailable`, or PostgresError when the server refuses (53300 too many connections, 3D000 no such database …).
    """
    return await asyncpg.connect(
        dsn, timeout=timeout, command_timeout=command_timeout, server_settings={**SESSION_SETTINGS, **settings}
    )


async def create_pool(dsn: str, *, max_size: int, command_timeout: float = 10.0, **settings: str) -> Pool:
    """A pool that opens its sessions when they are first needed, so that it can be made while PostgreSQL is away.

    Sessions of a server that has become read-only are not used again: after a switchover it may live on for long.
    """

    async def reset(connection: Connection) -> None:
        await connection.execute(connection.get_reset_query())
        if await connection.fetchval(READ_ONLY):
            await pool.expire_connections()

    pool: Any = asyncpg.create_pool(
        dsn,
        min_size=0,
        max_size=max_size,
        timeout=5.0,
        command_timeout=command_timeout,
        reset=reset,
        server_settings={**SESSION_SETTINGS, **settings},
    )
    opened: Pool = await pool
    return opened
