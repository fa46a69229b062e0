"""kill -9 at moments of its own choosing: what was acknowledged is on the disk, and whoever comes next ships it, once."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from demo_world import Database, make_world, value
from judge import all_is_shipped, assert_all_kept, assert_verified, clients
from shipping import click_row, now_ms
from tracker_process import TrackerProcess, free_port, running, tracker_environ, until, within
from visitor import click

from tracker.storage.clicks.rows import CLICK_COLUMNS
from tracker.storage.spool.spool import Spool

SHIPPED = "SELECT coalesce(sum(next_seq), 0) FROM spool_cursors WHERE log = 'clicks'"
ROUNDS = [1, pytest.param(17, marks=pytest.mark.nightly)]
KILLS = 3                    # in a round: more at this pace, and the parent waits longer and longer before it starts another
KILLED_REPLAYS = [2, pytest.param(20, marks=pytest.mark.nightly)]
READY_SECONDS = 5.0          # the contract: from a start to ready, with a million records to ship
RECORDS = 1_000_000
FRAME_ROWS = 1_000           # of a busy worker's a hundred: the fewer frames, the faster they are written


@pytest.mark.fault(1)
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("rounds", ROUNDS)
def test_of_a_worker_at_random_times(dsn: str, tmp_path: Path, rounds: int) -> None:
    """Between write and answer, between COPY and commit, before it has a number: at full speed, whenever it happens."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    make_world(dsn)
    environ = tracker_environ(dsn, tmp_path / "spool", TRACKER_PORT=str(free_port()))
    with contextlib.ExitStack() as stack:
        tracker = stack.enter_context(running("serve", environ))
        crowd = stack.enter_context(clients(tracker.public_port, tmp_path / "acks"))
        for number in range(rounds):
            if number:
                tracker.kill_everything()
                tracker = stack.enter_context(running("serve", environ))
            for kill in range(KILLS):
                crowd.wait_for_acks(chance.randint(1, 2_000))
                until(lambda: bool(tracker.workers()), "one lives")      # noqa: B023 - called at once
                tracker.kill_worker(chance.choice(tracker.workers()))
                until(partial(has_restarted, tracker, kill + 1), "it is replaced")
        assert_all_kept(dsn, tmp_path / "spool", crowd, environ)


@pytest.mark.fault(1)
@pytest.mark.timeout(600)
@pytest.mark.parametrize("to_the_end", [False, pytest.param(True, marks=pytest.mark.nightly)])
def test_ready_with_a_million_records_to_ship(dsn: str, tmp_path: Path, *, to_the_end: bool) -> None:
    """A start must not wait for what an earlier one left: visitors come at once. By night all of it is seen to arrive."""
    make_world(dsn, links=7)
    with contextlib.ExitStack() as stack:
        started: list[tuple[TrackerProcess, Path]] = []

        def start(number: int) -> Callable[[], Any]:
            for earlier, _ in started:
                earlier.kill_everything()      # it would ship its million beside this one's start
            spool = tmp_path / f"spool {number}"
            leave_records(spool, 77 + number)
            before = time.monotonic()
            started.append((stack.enter_context(running("serve", tracker_environ(dsn, spool))), spool))
            took = time.monotonic() - before
            return lambda: took <= READY_SECONDS

        within(0.0, start, f"it is ready after {READY_SECONDS:g} s")
        tracker, spool = started[-1]
        assert 302 == click(tracker.public_port).status
        until(lambda: tracker.metric("tracker_dead_spool_records") > 0, "they are known to wait")
        if to_the_end:
            until(lambda: all_is_shipped(dsn, spool), "every record is shipped", seconds=300, every=1.0)
            assert_verified(tracker_environ(dsn, spool))


@pytest.mark.fault(2)
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kills", KILLED_REPLAYS)
def test_of_everything_during_the_replay(database: Database, tmp_path: Path, kills: int) -> None:
    """Crash, and crash again while the last crash is being made good: the mark and the rows move together or not at all."""
    environ = tracker_environ(database.dsn, tmp_path / "spool", TRACKER_PORT=str(free_port()))
    with contextlib.ExitStack() as stack:
        tracker = stack.enter_context(running("serve", environ))
        crowd = stack.enter_context(clients(tracker.public_port, tmp_path / "acks"))
        crowd.wait_for_acks(1_000)
        database.stop_immediately()
        crowd.wait_for_acks(10_000 * kills)
        tracker.kill_everything()
        database.start()
        for _ in range(kills):
            shipped = value(database.dsn, SHIPPED)
            again = stack.enter_context(running("serve", environ, all_workers=False))
            until(partial(has_shipped_more, database, shipped), "the replay goes on", every=0.0)
            again.kill_everything()
        stack.enter_context(running("serve", environ))
        crowd.wait_for_acks(1_000)
        assert_all_kept(database.dsn, tmp_path / "spool", crowd, environ)


def has_restarted(tracker: TrackerProcess, workers: int) -> bool:
    return tracker.metric("tracker_worker_restarts_total") == workers


def has_shipped_more(database: Database, than: int) -> bool:
    return bool(value(database.dsn, SHIPPED) > than)


def leave_records(root: Path, spool_id: int) -> None:
    """A dead worker's spool with a million rows nobody has shipped."""
    spool = Spool.create(root, spool_id=spool_id, worker=32_767, clicks=CLICK_COLUMNS, max_bytes=2**31, sync="off")
    row = click_row()
    head, tail = row[:6], row[22:]       # the number of columns and an id's length, the id, the rest
    first_id = now_ms() << 83
    for first in range(0, RECORDS, FRAME_ROWS):
        ids = range(first_id + first, first_id + first + FRAME_ROWS)
        spool.clicks.append([head + id_.to_bytes(16, "big") + tail for id_ in ids])
    assert RECORDS == spool.clicks.next_seq
    spool.close()
