"""Another PostgreSQL in the place of the one that took the last commits: a replica that lagged, a read-only one, a backup.

What was committed and told is gone there. Everything comes back from the edges' disks: clicks from segments that are
kept after they were shipped, sales from the journal.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from demo_world import own_database, value
from postgres_fixtures import PostgresFactory
from second_server import base_backup, cut_off, streaming_replica
from trade import trading

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


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seconds", LOST_SECONDS)
def test_restore_of_an_earlier_point(postgres_factory: PostgresFactory, tmp_path: Path, seconds: float) -> None:
    """A backup is put in the place of the database while edges serve: what came after it is shipped and recorded again."""
    with own_database(postgres_factory(tmp_path / "first")) as database, trading(database.dsn, tmp_path) as trade:
        trade.goes_on()
        base_backup(database, tmp_path / "backup")
        kept = value(database.dsn, CLICKS)
        assert "recorded" in trade.goes_on(seconds)
        lost = value(database.dsn, CLICKS)
        database.stop_immediately()
        backup = postgres_factory(tmp_path / "backup")
        backup.start()
        assert value(backup.dsn, CLICKS) <= kept < lost, "nothing is lost: this test proves nothing"
        database.lead_to(backup)
        trade.comes_back()
        trade.goes_on()
        trade.assert_all_kept(database.dsn)
