"""Control: everything that may be slow, the admin API and the jobs. Each job runs under a lease, so any number of these is safe."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import secrets
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final
from uuid import UUID

from aiohttp import web

from tracker.app.live_secrets import SECRETS_SECONDS, SecretFile
from tracker.domain.postback import Status
from tracker.jobs.lease import Lease
from tracker.jobs.outbox import OutboxJob
from tracker.jobs.outbox_client import OutboxClient
from tracker.jobs.partitions import EVERY_SECONDS as PARTITIONS_SECONDS
from tracker.jobs.partitions import keep_partitions
from tracker.jobs.pending import PendingJob
from tracker.jobs.statistics import EVERY_SECONDS as STATISTICS_SECONDS
from tracker.jobs.statistics import fold_statistics
from tracker.metrics import Page
from tracker.settings import Settings
from tracker.storage.conversions.store import decide_conversion
from tracker.storage.entities.store import Store
from tracker.storage.postgres import Connection, Pool, PostgresError, Unavailable, connect, create_pool
from tracker.storage.spool.worker_numbers import reclaim
from tracker.web.admin import AdminApi

log = logging.getLogger(__name__)

POOL_SIZE: Final = 8           # API requests in PostgreSQL at once; the jobs have sessions of their own
RETRY_SECONDS: Final = 2.0
NUMBERS_SECONDS: Final = 3600.0
GAUGES_SECONDS: Final = 10.0
CLOCK_SECONDS: Final = 2.0     # ids are made by this machine's clock; windows and terms are judged by what they say

_GAUGES: Final = """
    SELECT (SELECT count(*) FROM (SELECT 1 FROM pending LIMIT 100000) AS p) AS pending,
           (SELECT count(*) FROM (SELECT 1 FROM clicks_stray LIMIT 100000) AS s) AS strays,
           (SELECT count(*) FROM outbox_endpoints WHERE status = 'off') AS endpoints_off, outbox.waiting, outbox.oldest,
           (SELECT max(to_date(right(inhrelid::regclass::text, 8), 'YYYYMMDD')) - (now() AT TIME ZONE 'UTC')::date
              FROM pg_inherits WHERE inhparent = 'clicks'::regclass) AS days_ahead,
           extract(epoch FROM clock_timestamp())::float AS now
      FROM (SELECT count(*) AS waiting, coalesce(extract(epoch FROM now() - min(created_at)), 0)::float AS oldest
              FROM (SELECT o.created_at FROM outbox AS o JOIN outbox_endpoints AS e USING (endpoint_id)
                     WHERE o.state = 'waiting' AND e.status = 'active' LIMIT 100000) AS w) AS outbox
"""


class Control:
    """One control process; `page` is its part of the shared metrics. `api` is what /v1 answers, None without an admin token."""

    def __init__(self, settings: Settings, page: Page) -> None:
        assert settings.database_url is not None
        self._settings, self._page, self._dsn = settings, page, settings.database_url
        self._holder = f"{platform.node()} {os.getpid()} {secrets.token_hex(4)}"
        self._tasks: list[asyncio.Task[None]] = []
        self._pool: Pool | None = None
        self.api: web.Application | None = None

    async def start(self) -> None:
        """Begin the jobs. PostgreSQL may be away: then they wait, and the API says so."""
        self._pool = await create_pool(self._dsn, max_size=POOL_SIZE)
        if self._settings.admin_token:
            store = Store(self._pool, outbox_networks=self._settings.outbox_networks)
            api = AdminApi(store, admin_token=self._settings.admin_token, decide=self._decide)
            self.api = api.application()
            self._tasks.append(asyncio.create_task(self._for_ever("admin token", partial(self._keep_token, api))))
        pending = PendingJob(self._dsn, self._holder)
        for name, work in (
            ("partitions", partial(self._run_job, "partitions", PARTITIONS_SECONDS, keep_partitions)),
            ("statistics", partial(self._run_job, "statistics", STATISTICS_SECONDS, fold_statistics)),
            ("numbers", partial(self._run_job, "numbers", NUMBERS_SECONDS, reclaim)),
            ("pending", pending.run),
            ("outbox", self._send_outbox),
            ("gauges", self._keep_gauges),
        ):
            self._tasks.append(asyncio.create_task(self._for_ever(name, work)))

    async def _for_ever(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """A job that ends in what nobody foresaw is told and begun again: money must not stand still in silence."""
        while True:
            try:
                await work()
            except Exception:
                log.exception("job %s failed and is begun again", name)
            await asyncio.sleep(RETRY_SECONDS)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._pool is not None:
            self._pool.terminate()

    async def _decide(self, conversion_id: UUID, status: Status, reason: str) -> object | None:
        connection = await connect(self._dsn, command_timeout=10.0)
        try:
            return await decide_conversion(connection, conversion_id, status, reason)
        finally:
            connection.terminate()

    async def _send_outbox(self) -> None:
        """A job and a client for each beginning: one that failed left its own in whatever state."""
        await OutboxJob(
            self._dsn, self._holder, OutboxClient(self._settings.outbox_networks),
            count=lambda outcome: self._page.add("tracker_outbox_attempts_total", label=outcome),
            count_given_up=partial(self._page.add, "tracker_outbox_given_up_total"),
        ).run()

    async def _keep_token(self, api: AdminApi) -> None:
        """The admin token as its file has it."""
        file = SecretFile(self._settings, "admin_token")
        while True:
            await asyncio.sleep(SECRETS_SECONDS)
            token = file.changed()
            if token is not None:
                api.use_token(token)
                log.info("the admin token was taken anew")
                self._page.add("tracker_secret_reloads_total")

    async def _run_job(self, name: str, every_seconds: float, job: Callable[[Connection], Awaitable[object]]) -> None:
        """Do it again and again while the lease is ours. These jobs do no harm when done twice at once: the lease saves work."""
        lease = Lease(name, self._holder, seconds=every_seconds + 30)
        while True:
            try:
                connection = await connect(self._dsn)
                try:
                    while True:
                        if await lease.acquire(connection):
                            await job(connection)
                        await asyncio.sleep(every_seconds)
                finally:
                    await _let_go(lease, connection)
            except (*Unavailable, PostgresError) as exc:
                log.warning("job %s waits for PostgreSQL: %s: %s", name, type(exc).__name__, exc)
                await asyncio.sleep(RETRY_SECONDS)

    async def _keep_gauges(self) -> None:
        """What only the database knows of itself, for /metrics."""
        while True:
            try:
                connection = await connect(self._dsn, command_timeout=5.0)
                try:
                    while True:
                        before = time.time()
                        found = await connection.fetchrow(_GAUGES)
                        assert found is not None
                        self._page.set("tracker_pending_postbacks", found["pending"])
                        self._page.set("tracker_stray_rows", found["strays"])
                        self._page.set("tracker_outbox_waiting", found["waiting"])
                        self._page.set("tracker_outbox_oldest_seconds", found["oldest"])
                        self._page.set("tracker_outbox_endpoints_off", found["endpoints_off"])
                        self._page.set("tracker_partitions_ahead_seconds", (found["days_ahead"] or 0) * 86_400)
                        offset = (before + time.time()) / 2 - found["now"]
                        self._page.set("tracker_clock_offset_seconds", abs(offset))
                        if abs(offset) > CLOCK_SECONDS:
                            log.warning("this machine's clock is %.1f s off PostgreSQL's", offset)
                        await asyncio.sleep(GAUGES_SECONDS)
                finally:
                    connection.terminate()
            except (*Unavailable, PostgresError) as exc:
                log.warning("gauges wait for PostgreSQL: %s: %s", type(exc).__name__, exc)
                await asyncio.sleep(RETRY_SECONDS)


async def _let_go(lease: Lease, connection: Connection) -> None:
    """Give the lease back, so that the next control process need not wait for it to expire; not for long."""
    try:
        async with asyncio.timeout(1.0):
            await lease.release(connection)
    except (*Unavailable, PostgresError):
        pass      # it expires by itself
    finally:
        connection.terminate()
