"""A job that looks for work again and again, on one session, while its lease is held, whatever PostgreSQL does.

It polls: work appears by the hand of other processes, and correctness must not depend on a wake-up. What the work is, and
what is fenced by the lease, is the job's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Final

from tracker.jobs.lease import Lease
from tracker.storage.conversions.recorder import OUTAGES
from tracker.storage.conversions.session import open_session
from tracker.storage.postgres import Connection

logger = logging.getLogger(__name__)

RELEASE_SECONDS: Final = 1.0   # for giving the lease back; else the next holder waits until it expires
_LAST_BACKOFF_SECONDS: Final = 5.0


class Poller:
    """Runs in every control process; the one that holds the lease works. `poll` says how much it did: after 0 it rests."""

    def __init__(
        self, dsn: str, lease: Lease, poll: Callable[[Connection], Awaitable[int]], *, every_seconds: float, what: str
    ) -> None:
        self._dsn, self._lease, self._poll = dsn, lease, poll
        self._every_seconds, self._what = every_seconds, what
        self._stopping = False
        self._woken = asyncio.Event()

    def stop(self) -> None:
        """End `run` after the poll under way."""
        self._stopping = True
        self._woken.set()

    def wake(self) -> None:
        """Poll at once."""
        self._woken.set()

    async def run(self) -> None:
        """Poll until `stop`; waits out whatever PostgreSQL does. However it ends, the lease is given back."""
        backoff = self._every_seconds
        while not self._stopping:
            try:
                connection = await open_session(self._dsn)
                try:
                    await self._poll_on(connection)
                finally:
                    await self._give_back(connection)
            except OUTAGES as error:
                logger.warning("%s wait: %s: %s", self._what, type(error).__name__, error)
            else:
                return
            await asyncio.sleep(backoff * random.uniform(0.5, 1.0))  # noqa: S311 - spreads processes
            backoff = min(2 * backoff, _LAST_BACKOFF_SECONDS)

    async def _poll_on(self, connection: Connection) -> None:
        while not self._stopping:
            self._woken.clear()
            if await self._lease.acquire(connection) and await self._poll(connection):
                continue   # there may be more
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._every_seconds):
                    await self._woken.wait()

    async def _give_back(self, connection: Connection) -> None:
        """Release the lease, whatever the connection was at, and end it. The next process need not wait for it to expire."""
        with contextlib.suppress(*OUTAGES):
            async with asyncio.timeout(RELEASE_SECONDS):
                await connection.execute("ROLLBACK")
                await self._lease.release(connection)
        connection.terminate()
