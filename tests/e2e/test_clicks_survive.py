"""Clicks at full speed while something breaks. A client that keeps every id it received whole is the judge."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest
from demo_world import Database, make_world
from judge import all_is_shipped, assert_all_kept, assert_kept, clients
from tracker_process import free_port, running, tracker_environ, until

from tracker.app.edge import DRAIN_SECONDS

CLICKS = 4_000          # before, and after, the middle: a second or two each on two slow cores
SECONDS = [0.0, pytest.param(15.0, marks=pytest.mark.nightly)]      # at least so long, each


@pytest.mark.parametrize("seconds", SECONDS)
def test_undisturbed_every_click_is_one_row_and_the_metrics_say_so(dsn: str, tmp_path: Path, seconds: float) -> None:
    """The plain case must be exact: no request without its own redirect, no id without its row, no number that differs."""
    make_world(dsn)
    environ = tracker_environ(dsn, tmp_path / "spool")
    with running("serve", environ) as tracker, clients(tracker.public_port, tmp_path / "acks") as crowd:
        crowd.wait_for_acks(2 * CLICKS, seconds=2 * seconds)
        history = crowd.stop()
        assert history.flawless, history
        until(lambda: all_is_shipped(dsn, tmp_path / "spool"), "every click is shipped", every=0.1)
        until(lambda: tracker.metric("tracker_spool_pending_records") == 0, "the metrics say so")
        assert_kept(dsn, tmp_path / "spool", history, environ)
        sent = len(history.acks)
        until(lambda: tracker.metric("tracker_clicks_shipped_total", "clicks") == sent, "the shipped clicks are published")
        metrics = tracker.metrics()
        assert (sent, 0, 0) == tuple(metrics["tracker_clicks_total", kind] for kind in ("click", "prefetch", "head"))
        assert (sent, 0) == (metrics["tracker_clicks_appended_total", ""], metrics["tracker_clicks_unlogged_total", ""])
        assert (0, 0) == (metrics["tracker_clicks_shipped_total", "stray"], metrics["tracker_clicks_shipped_total", "quarantine"])
        tracker.terminate()
        assert 0 == tracker.exit_code()


@pytest.mark.parametrize("seconds", SECONDS)
@pytest.mark.parametrize("sync", ["50ms", "always", "off"])
def test_kill_9_of_everything_loses_nothing(dsn: str, tmp_path: Path, seconds: float, sync: str) -> None:
    """Nobody is left to tidy up: the next start finds what was acknowledged on the disk, synced or not."""
    make_world(dsn)
    environ = tracker_environ(dsn, tmp_path / "spool", TRACKER_PORT=str(free_port()), TRACKER_SYNC=sync)
    with contextlib.ExitStack() as stack:
        tracker = stack.enter_context(running("serve", environ))
        crowd = stack.enter_context(clients(tracker.public_port, tmp_path / "acks"))
        crowd.wait_for_acks(CLICKS, seconds=seconds)
        tracker.kill_everything()
        stack.enter_context(running("serve", environ))
        crowd.wait_for_acks(CLICKS, seconds=seconds)
        assert_all_kept(dsn, tmp_path / "spool", crowd, environ)


@pytest.mark.fault(3)
@pytest.mark.parametrize("seconds", SECONDS)
def test_sigterm_fails_no_request_and_leaves_an_empty_spool(dsn: str, tmp_path: Path, seconds: float) -> None:
    """Every deployment does this. Who honours `Connection: close` must not see an error, and nothing may stay behind."""
    make_world(dsn)
    environ = tracker_environ(dsn, tmp_path / "spool")
    with running("serve", environ) as tracker, clients(tracker.public_port, tmp_path / "acks") as crowd:
        crowd.wait_for_acks(CLICKS, seconds=seconds)
        tracker.terminate()
        assert 0 == tracker.exit_code()
        history = crowd.stop()
        assert (0, 0, 0, 0) == (history.torn, history.stuck, history.unanswered_reused, history.unanswered_fresh), history
        assert history.refused, "nobody knocked until the door was closed: nothing is proved"
        assert all_is_shipped(dsn, tmp_path / "spool"), "the spool is not empty"
        assert_kept(dsn, tmp_path / "spool", history, environ)


@pytest.mark.fault(4)
def test_sigterm_while_postgres_is_away_leaves_all_to_the_next_start(database: Database, tmp_path: Path) -> None:
    """A node is drained during an outage: the process must end in order and in time, with everything on its disk."""
    environ = tracker_environ(database.dsn, tmp_path / "spool", TRACKER_PORT=str(free_port()))
    with contextlib.ExitStack() as stack:
        tracker = stack.enter_context(running("serve", environ))
        crowd = stack.enter_context(clients(tracker.public_port, tmp_path / "acks"))
        crowd.wait_for_acks(2_000)
        database.stop_immediately()
        crowd.wait_for_acks(2_000)
        tracker.terminate()
        told = time.monotonic()
        assert 0 == tracker.exit_code(), tracker.output
        assert time.monotonic() - told <= DRAIN_SECONDS
        database.start()
        assert not all_is_shipped(database.dsn, tmp_path / "spool"), "nothing was left: this test proves nothing"
        stack.enter_context(running("serve", environ))
        crowd.wait_for_acks(1_000)
        assert_all_kept(database.dsn, tmp_path / "spool", crowd, environ)
