"""PostgreSQL is there and refuses: a table is locked, no connection is left, its disk is full. Nobody outside may notice."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from demo_world import Database, own_database, value
from full_disk import own_disk
from postgres_fixtures import PostgresFactory
from trade import trading

SECONDS = [2.0, pytest.param(60.0, marks=pytest.mark.nightly)]
WORKERS = 2
MORE_SESSIONS = 2 * WORKERS
"""Than when all is well, for a moment: somebody who looks for dead spools, a shipper that follows one that hangs."""
MOST_TRIES_A_SECOND = 30
"""To connect, of two workers and control. Each thing that retries begins with a few within a second and ends at one every 2 to
5 s: some 15. Without a pause it would be thousands."""

SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'tracker%'"
END_OTHERS = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend' AND application_name <> 'stranger'
"""
MOST_CONNECTIONS = 40


@pytest.mark.fault(7)
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seconds", SECONDS)
def test_a_lock_on_clicks_piles_nothing_up(postgres_factory: PostgresFactory, tmp_path: Path, seconds: float) -> None:
    """Somebody's ALTER TABLE waits for its coffee: what needs the table waits behind it, on no more sessions than before."""
    with own_database(postgres_factory()) as database, trading(database.dsn, tmp_path) as trade:
        trade.goes_on()
        usual = value(database.dsn, SESSIONS)
        with locked(database.dsn, "clicks") as sessions:
            trade.shops.wait_for(1, "queued")
            assert {"queued"} == set(trade.goes_on(seconds))
            assert sessions() <= usual + MORE_SESSIONS
        trade.comes_back()
        trade.goes_on()
        trade.assert_all_kept(database.dsn)


@pytest.mark.fault(11)
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seconds", SECONDS)
def test_no_connection_is_left(postgres_factory: PostgresFactory, tmp_path: Path, seconds: float) -> None:
    """Somebody else's pool took them all (53300). A service that knocks without a pause would keep the server from recovering."""
    few = {"max_connections": str(MOST_CONNECTIONS), "superuser_reserved_connections": "0", "reserved_connections": "0"}
    with own_database(postgres_factory(settings=few)) as database, trading(database.dsn, tmp_path) as trade:
        trade.goes_on()
        with every_connection_taken(database.dsn):
            trade.shops.wait_for(1, "queued")
            before = refusals(database)
            assert {"queued"} == set(trade.goes_on(seconds))
            tries = refusals(database) - before
            assert 0 < tries < MOST_TRIES_A_SECOND * seconds
        trade.comes_back()
        trade.goes_on()
        trade.assert_all_kept(database.dsn)


@pytest.mark.fault(13)
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seconds", SECONDS)
def test_its_disk_is_full(postgres_factory: PostgresFactory, tmp_path: Path, seconds: float) -> None:
    """Every table that grows refuses (53100) while look-ups go on: the one outage in which PostgreSQL is there all the time."""
    with own_database(postgres_factory()) as database, own_disk(database) as disk, trading(database.dsn, tmp_path) as trade:
        trade.goes_on()
        disk.fill()
        trade.shops.wait_for(1, "queued")
        trade.goes_on(seconds)
        assert "No space left on device" in trade.tracker.output, "the disk was never full: this test proves nothing"
        disk.empty()
        trade.comes_back()
        trade.goes_on()
        trade.assert_all_kept(database.dsn)


def refusals(database: Database) -> int:
    return database.has_logged("too many clients already", "remaining connection slots")


@contextmanager
def locked(dsn: str, table: str) -> Iterator[Callable[[], int]]:
    """A stranger holds the table; gives what counts the tracker's sessions meanwhile."""
    with asyncio.Runner() as runner:
        stranger = runner.run(asyncpg.connect(dsn))
        runner.run(stranger.execute(f"BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"))
        try:
            yield lambda: runner.run(stranger.fetchval(SESSIONS))
        finally:
            runner.run(stranger.close())


@contextmanager
def every_connection_taken(dsn: str) -> Iterator[None]:
    """Strangers take every place that is free or comes free, and all other sessions are ended."""
    with asyncio.Runner() as runner:
        strangers = [runner.run(connect_as_stranger(dsn))]

        async def take_all() -> None:
            while len(strangers) < MOST_CONNECTIONS:
                await strangers[0].execute(END_OTHERS)
                with contextlib.suppress(asyncpg.TooManyConnectionsError):
                    while True:
                        strangers.append(await connect_as_stranger(dsn))

        async def leave() -> None:
            for stranger in strangers:
                await stranger.close()

        runner.run(take_all())
        try:
            yield
        finally:
            runner.run(leave())


async def connect_as_stranger(dsn: str) -> Any:
    return await asyncpg.connect(dsn, server_settings={"application_name": "stranger"})
