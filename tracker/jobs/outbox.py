"""Sends the outbox to partners' trackers: takes what is due, asks, writes down how it ended.

At least once, under an id that stays the same. One control process sends at a time; attempts run beside each other, a few
to a host, so that a host that hangs holds up its own postbacks only. What is due, when something is tried again, given up
or switched off is storage/outbox.py's; what a request may reach is outbox_client.py's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from tracker.domain.outgoing import Delivery, Outcome, compose, message_id
from tracker.jobs.lease import Lease
from tracker.jobs.outbox_client import Answer, OutboxClient
from tracker.jobs.polling import Poller
from tracker.storage.conversions.recorder import OUTAGES
from tracker.storage.conversions.session import open_session
from tracker.storage.outbox import Due, Ended, find_due, forget_old, take, write_ended
from tracker.storage.postgres import Connection

logger = logging.getLogger(__name__)

POLL_SECONDS: Final = 1.0    # a partner hears of a sale within two
AT_ONCE: Final = 64          # attempts; each up to 5 s: 13 a second when every host hangs, some hundreds when all answer
PER_HOST: Final = 8          # of these. At half, one busy tracker gets 40 a second at 100 ms; at double, 4 that hang take all
FORGET_EVERY: Final = 60.0   # seconds
END_SECONDS: Final = 2.0     # for attempts under way when control ends: what is not told by then is sent again

Count = Callable[[Outcome], None]


class OutboxJob:
    """Runs in every control process; the one that holds the lease sends. `count` and `count_given_up` keep the metrics."""

    def __init__(
        self, dsn: str, holder: str, client: OutboxClient, *, count: Count = lambda _: None,
        count_given_up: Callable[[int], None] = lambda _: None,
    ) -> None:  # fmt: skip
        self._dsn, self._client, self._count, self._count_given_up = dsn, client, count, count_given_up
        self._lease = Lease("outbox", holder)
        self._poller = Poller(dsn, self._lease, self._poll, every_seconds=POLL_SECONDS, what="outgoing postbacks")
        self._sending: dict[asyncio.Task[None], Due] = {}
        self._ended: list[Ended] = []
        self._forget_at = 0.0

    def stop(self) -> None:
        """End `run` after the attempts under way, which get two seconds."""
        self._poller.stop()

    async def run(self) -> None:
        """Send until `stop`; waits out whatever PostgreSQL does."""
        async with self._client:
            try:
                await self._poller.run()
            finally:
                await self._finish()

    async def _poll(self, connection: Connection) -> int:
        """Write down what has ended, take what there is room for. The lease must be held."""
        await self._write_down(connection)
        taken: list[Due] = []
        postponed = 0
        room = AT_ONCE - len(self._sending)
        if room:
            under_way = self._sending.values()
            found = await find_due(
                connection, busy=Counter(due.host for due in under_way), probed=[due.key.endpoint_id for due in under_way],
                per_host=PER_HOST, most=room,
            )
            if any(found):
                async with connection.transaction():
                    await self._lease.fence(connection)
                    await take(connection, found)
            taken, postponed = found.ready, len(found.postponed)
            for due in taken:
                task = asyncio.create_task(self._attempt(due))
                self._sending[task] = due
                task.add_done_callback(self._done)
        if time.monotonic() >= self._forget_at:
            self._forget_at = time.monotonic() + FORGET_EVERY      # first: should it fail, sending goes on meanwhile
            if await forget_old(connection):
                self._forget_at = 0.0
        return len(taken) + postponed      # who waits for a click takes his host's places: the next poll looks behind him

    async def _write_down(self, connection: Connection) -> None:
        """They stay in memory until PostgreSQL has them."""
        ended = list(self._ended)
        if not ended:
            return
        given_up, off = await write_ended(connection, ended)
        del self._ended[:len(ended)]
        self._count_given_up(given_up)
        for endpoint_id in off:
            logger.warning("outgoing postbacks: endpoint %d has failed for a day and is switched off", endpoint_id)

    async def _attempt(self, due: Due) -> None:
        try:
            answer = await self._client.send(compose(_delivery(due)))
        except Exception as error:  # noqa: BLE001
            # Only its kind: what it says may hold the URL, and with it what a partner keeps secret.
            logger.error("an outgoing postback could not be sent: %s", type(error).__name__)  # noqa: TRY400
            answer = Answer("connection")
        self._count(answer.outcome)
        self._ended.append(Ended(due, answer.outcome, answer.status, random.uniform(0.5, 1.0)))  # noqa: S311

    def _done(self, task: asyncio.Task[None]) -> None:
        del self._sending[task]
        self._poller.wake()

    async def _finish(self) -> None:
        if self._sending:
            _, late = await asyncio.wait(self._sending, timeout=END_SECONDS)
            for task in late:
                task.cancel()
        with contextlib.suppress(*OUTAGES):
            async with asyncio.timeout(END_SECONDS):
                connection = await open_session(self._dsn)
                try:
                    await self._write_down(connection)
                finally:
                    connection.terminate()


def _delivery(due: Due) -> Delivery:
    return Delivery(
        message_id=message_id(*due.key), template=due.template, method=due.method, secret=due.secret, fields=due.fields,
        test=due.test, decided_at=due.decided_at, sent_at=int(time.time()),
    )
