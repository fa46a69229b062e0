"""PostgreSQL is gone, hangs, or has no room: clicks never wait, sales are kept, and afterwards everything is there once."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from demo_world import Database
from tracker_process import children
from trade import trading

OUTAGE_SECONDS = [2.0, pytest.param(60.0, marks=pytest.mark.nightly)]


@pytest.mark.fault(5)
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seconds", OUTAGE_SECONDS)
def test_stopped_at_once_and_started_again(database: Database, tmp_path: Path, seconds: float) -> None:
    """The redirect must not know whether PostgreSQL is there, and a sale that comes meanwhile is kept, not refused."""
    with trading(database.dsn, tmp_path) as trade:
        trade.goes_on()
        database.stop_immediately()
        trade.shops.wait_for(1, "queued")       # what was committed before the end may still be answered so
        assert {"queued"} == set(trade.goes_on(seconds))
        database.start()
        trade.comes_back()
        trade.goes_on()
        trade.assert_all_kept(database.dsn)


@pytest.mark.fault(6)
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seconds", OUTAGE_SECONDS)
def test_hung_and_continued(database: Database, tmp_path: Path, seconds: float) -> None:
    """A server that accepts and never answers is worse than none: nothing says that it is away."""
    with trading(database.dsn, tmp_path) as trade:
        trade.goes_on()
        with stopped(database):
            trade.shops.wait_for(1, "queued")
            assert {"queued"} == set(trade.goes_on(seconds))
        trade.comes_back()
        trade.goes_on()
        trade.assert_all_kept(database.dsn)


@contextmanager
def stopped(database: Database) -> Iterator[None]:
    """SIGSTOP to the server and every backend of it: connections are taken, nothing is ever answered."""
    os.kill(database.pid, signal.SIGSTOP)      # first, or it would start another backend behind our back
    pids = [database.pid, *children(database.pid)]
    for pid in pids[1:]:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in reversed(pids):
            os.kill(pid, signal.SIGCONT)
