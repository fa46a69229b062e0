"""A start finds what earlier ones left, however much it is, and does not keep anybody waiting for it."""

from __future__ import annotations

import secrets
import time
from pathlib import Path

import pytest
from demo_world import make_world, value
from judge import all_is_shipped, assert_verified
from shipping import click_row
from tracker_process import running, tracker_environ, until
from visitor import click

from tracker.storage.clicks.rows import CLICK_COLUMNS
from tracker.storage.spool.spool import Spool

READY_SECONDS = 5.0
ROWS_A_FRAME = 100
ROWS = [20_000, pytest.param(1_000_000, marks=pytest.mark.nightly)]      # a million: two minutes of a full worker, PostgreSQL away


def leave_spool(root: Path, rows: int) -> None:
    """What a worker killed after so many clicks leaves, none of them shipped."""
    spool_id = secrets.randbits(62) + 1
    spool = Spool.create(root, spool_id=spool_id, worker=30_000, clicks=CLICK_COLUMNS, max_bytes=1 << 33, sync="off")
    for _ in range(rows // ROWS_A_FRAME):
        spool.clicks.append([click_row() for _ in range(ROWS_A_FRAME)])
    spool.close()


@pytest.mark.fault(1)
@pytest.mark.timeout(300)
@pytest.mark.parametrize("rows", ROWS)
def test_ready_within_five_seconds_whatever_is_to_be_recovered(dsn: str, tmp_path: Path, rows: int) -> None:
    """Visitors must not wait until a long outage has been caught up with."""
    make_world(dsn)
    spool_dir = tmp_path / "spool"
    spool_dir.mkdir()
    leave_spool(spool_dir, rows)
    environ = tracker_environ(dsn, spool_dir)
    began = time.monotonic()
    with running("serve", environ, all_workers=False) as tracker:
        assert 302 == click(tracker.public_port).status
        assert time.monotonic() - began < READY_SECONDS
        until(lambda: all_is_shipped(dsn, spool_dir), "all of it is shipped", seconds=240, every=0.5)
        assert rows + 1 == value(dsn, "SELECT count(*) FROM clicks")
        assert_verified(environ)
