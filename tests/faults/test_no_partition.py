"""No partition for today: clicks wait in a table of their own, sales find them there, and a day made late gets them all."""

from __future__ import annotations

from pathlib import Path

import pytest
from demo_world import execute, fetch, make_world, value
from tracker_process import running, tracker_environ, until
from trade import trading

WITHOUT_JOB = "INSERT INTO job_leases (job, holder, expires_at) VALUES ('partitions', 'nobody', 'infinity')"
FOUR_HUNDRED = "SELECT ensure_click_partitions((now() AT TIME ZONE 'UTC')::date - 369, 400)"
STRAYS = "SELECT count(*) FROM clicks_stray"


@pytest.mark.fault(12)
def test_clicks_of_a_day_without_a_partition(dsn: str, tmp_path: Path) -> None:
    """The job that makes them has not run for a month; then somebody makes a year of them at once, and it runs again."""
    make_world(dsn)
    for partition in fetch(dsn, "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = 'clicks'::regclass"):
        execute(dsn, f"DROP TABLE {partition['name']}")
    execute(dsn, WITHOUT_JOB)
    control = tracker_environ(dsn, tmp_path / "spool")
    with trading(dsn, tmp_path, role="edge") as trade:
        until(lambda: value(dsn, STRAYS) > 0, "strays are put aside")
        assert "recorded" in trade.goes_on()
        with running("control", control) as without_job:
            until(lambda: without_job.metric("tracker_stray_rows") > 0, "somebody is told")
            assert 0 == without_job.metric("tracker_partitions_ahead_seconds")
        execute(dsn, FOUR_HUNDRED)
        assert "recorded" in trade.goes_on()
        execute(dsn, "DELETE FROM job_leases")
        with running("control", control):
            until(lambda: value(dsn, STRAYS) == 0, "strays are moved in")
            assert "recorded" in trade.goes_on()
            trade.assert_all_kept(dsn, strays=True)
