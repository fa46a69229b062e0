"""A deadline for work on one connection, which also ends it when the connection is lost.

It stands alone because the driver does not look at a lost connection everywhere: a COPY that waits for room to write
would wait for ever. What is done about either lives with the caller.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from tracker.storage.postgres import Connection


@contextlib.asynccontextmanager
async def deadline(connection: Connection, seconds: float) -> AsyncIterator[None]:
    """TimeoutError when the body takes longer; ConnectionResetError at once when the connection is gone."""
    lost = inside = False

    def on_loss(_: object) -> None:
        nonlocal lost
        if inside:
            lost = True
            scope.reschedule(0.0)

    connection.add_termination_listener(on_loss)
    try:
        async with asyncio.timeout(seconds) as scope:
            inside = True
            try:
                yield
            finally:
                inside = False
    except (TimeoutError, RuntimeError) as error:
        if lost:  # woken in a COPY, the driver writes a farewell to the closed connection; uvloop calls that a RuntimeError
            raise ConnectionResetError("the connection to PostgreSQL broke") from error
        if isinstance(error, RuntimeError):
            raise
        raise TimeoutError(f"PostgreSQL took longer than {seconds:g} s") from error
    finally:
        connection.remove_termination_listener(on_loss)
