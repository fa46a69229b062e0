"""Another PostgreSQL in the place of the one that took the last commits: a replica that lagged, a read-only one, a backup.

What was committed and told is gone there. Everything comes back from the edges' disks: clicks from segments that are
kept after they were shipped, sales from the journal.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from demo_world import LINKS, execute, own_database, run_dir, value
from postgres_fixtures import PostgresFactory
from second_server import base_backup, cut_off, streaming_replica
from tracker_process import until
from trade import BACK_SECONDS, Trade, trading

LOST_SECONDS = [2.0, pytest.param(60.0, marks=pytest.mark.nightly)]      # of commits that the other server never had
CLICKS = "SELECT count(*) FROM clicks"


@pytest.mark.fault(10)
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seconds", LOST_SECONDS)
def test_failover_to_a_replica_that_lags(postgres_factory: PostgresFactory, tmp_path: Path, seconds: float) -> None:
    """Its address is taken over by a server that never saw the last commits, and that is read-only until it is promoted."""
    with own_database(postgres_factory(tmp_path / "first")) as database:
        replica = streaming_replica(database, postgres_factory, tmp_path / "second")
        with trading(database.dsn, tmp_path) as trade:
            trade.goes_on()
            cut_off(replica)
            assert "recorded" in trade.goes_on(seconds)
            for table in ("clicks", "conversions"):
                count = f"SELECT count(*) FROM {table}"
                assert value(database.dsn, count) > value(replica.dsn, count), "nothing is lost: this test proves nothing"
            database.stop_immediately()
            database.lead_to(replica)
            trade.shops.wait_for(1, "queued")
            assert {"queued"} == set(trade.goes_on())
            assert value(database.dsn, "SELECT pg_promote()")
            trade.comes_back()
            trade.goes_on()
            trade.assert_all_kept(database.dsn)


@pytest.mark.fault(10)
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seconds", LOST_SECONDS)
def test_switchover_to_another_host(postgres_factory: PostgresFactory, tmp_path: Path, seconds: float) -> None:
    """The server that everybody is connected to becomes read-only (25006) and stays; the one that writes is the other address."""
    with own_database(postgres_factory(tmp_path / "first"), links=LINKS + 1) as database:
        replica = streaming_replica(database, postgres_factory, tmp_path / "second")
        hosts = f"{database.run_dir},{run_dir(replica)}"
        both = f"postgresql://postgres@/postgres?host={hosts}&port=5432,5432&target_session_attrs=read-write"
        with trading(both, tmp_path) as trade:
            assert 200 == set_status(trade, "active")      # on a session that the pool keeps
            trade.goes_on()
            execute(database.dsn, "ALTER SYSTEM SET default_transaction_read_only = on")
            execute(database.dsn, "SELECT pg_reload_conf()")
            trade.shops.wait_for(1, "queued")
            assert {"queued"} == set(trade.goes_on(seconds))
            cut_off(replica)
            assert value(replica.dsn, "SELECT pg_promote()")
            trade.comes_back()
            trade.goes_on()
            until(lambda: set_status(trade, "paused") == 200, "the admin API writes", seconds=BACK_SECONDS)
            until(lambda: trade.status_of(f"l{LINKS + 1}") == 410, "a change is followed", seconds=BACK_SECONDS)
            trade.assert_all_kept(replica.dsn)


def set_status(trade: Trade, status: str) -> int:
    """Change the link that the crowd does not know; the API's answer."""
    answered, _ = trade.tracker.admin("PATCH", f"/v1/links/l{LINKS + 1}", {"status": status})
    return answered


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seconds", LOST_SECONDS)
def test_restore_of_an_earlier_point(postgres_factory: PostgresFactory, tmp_path: Path, seconds: float) -> None:
    """A backup of before the edges' start is put in the database's place while they serve: it does not even know their spools."""
    with own_database(postgres_factory(tmp_path / "first")) as database:
        base_backup(database, tmp_path / "backup")
        with trading(database.dsn, tmp_path) as trade:
            assert "recorded" in trade.goes_on(seconds)
            until(lambda: value(database.dsn, CLICKS) > 0, "clicks are shipped")
            database.stop_immediately()
            backup = postgres_factory(tmp_path / "backup")
            backup.start()
            assert 0 == value(backup.dsn, CLICKS), "nothing is lost: this test proves nothing"
            database.lead_to(backup)
            trade.comes_back()
            trade.goes_on()
            trade.assert_all_kept(database.dsn)
