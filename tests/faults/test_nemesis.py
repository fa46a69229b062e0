"""Rounds of random faults under full load, several in a row: whatever breaks, every acknowledged click and sale is there once.

Each round has a seed, and says it: TRACKER_TEST_SEED repeats the first one.
"""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPException
from pathlib import Path

import pytest
from demo_world import Database, fetch, own_database, value
from judge import all_is_shipped, assert_kept, clients
from postgres_fixtures import PostgresFactory
from tracker_process import TrackerProcess, children, free_port, running, tracker_environ, until
from trade import DECIDED, SOLD, Sale, sale_accusations
from visitor import PATIENT_SECONDS, Answer, Connection, click

ROUNDS = [*range(3), *(pytest.param(number, marks=pytest.mark.nightly) for number in range(3, 50))]
FAULTS_A_ROUND = 3
CLICKS = 1_500               # between two faults
SHORT, LONG = 0.3, 2.0       # seconds that something stays away: within a group's patience, and beyond every one
RETRY_SECONDS = 0.2


def _signal(pid: int, number: int) -> None:
    """A backend may have ended since it was listed; the others must still be stopped, and go on afterwards."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


class InsistentShops:
    """Senders that tell a sale again and again until somebody says 200, as a good one does; every sale is another's word."""

    def __init__(self, port: int, visitors: list[Answer]) -> None:
        self._port, self._visitors = port, visitors
        self.sales: list[Sale] = []
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._sell, args=(shop,), daemon=True) for shop in range(3)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(3 * PATIENT_SECONDS)
            assert not thread.is_alive(), "a shop is still waiting to be told 200"

    def _sell(self, shop: int) -> None:
        number = 0
        while not self._stopping.is_set():
            number += 1
            visitor = self._visitors[number % len(self._visitors)]
            self.sales.append(self._told(f"shop {shop} sale {number}", visitor))

    def _told(self, txid: str, visitor: Answer) -> Sale:
        while True:
            try:
                with Connection(self._port) as connection:
                    answer = connection.postback(click_id=visitor.token, txid=txid, amount="10")
            except (OSError, HTTPException):
                answer = None
            if answer is not None and answer.status == 200:
                # `duplicate`: an earlier try was taken, and its answer lost.
                status = "recorded" if answer.said["status"] == "duplicate" else answer.said["status"]
                return Sale(txid, 200, {**answer.said, "status": status}, 0.0)
            time.sleep(RETRY_SECONDS)


class World:
    """What a round has to break, and how each thing breaks and comes back."""

    def __init__(self, database: Database, environ: dict[str, str], tracker: TrackerProcess, stack: ExitStack) -> None:
        self.database, self.environ, self.tracker = database, environ, tracker
        self._stack = stack
        self.faults: dict[str, Callable[[random.Random], None]] = {
            "kill -9 of a worker": lambda rng: self.tracker.kill_worker(rng.choice(self.tracker.workers())),
            "kill -9 of everything": self._kill_everything,
            "SIGTERM and a new start": self._restart,
            "SIGSTOP of a worker": lambda rng: self._stop_for(rng, [rng.choice(self.tracker.workers())]),
            "SIGSTOP of PostgreSQL": lambda rng: self._stop_for(rng, [database.pid, *children(database.pid)]),
            "PostgreSQL stopped at once": self._stop_postgres,
            "kill -9 of everything while PostgreSQL is gone": self._kill_everything_without_postgres,
        }

    def start(self) -> None:
        self.tracker = self._stack.enter_context(running("serve", self.environ))

    def _kill_everything(self, _: random.Random) -> None:
        self.tracker.kill_everything()
        self.start()

    def _restart(self, _: random.Random) -> None:
        self.tracker.terminate()
        assert 0 == self.tracker.exit_code()
        self.start()

    def _stop_for(self, rng: random.Random, pids: list[int]) -> None:
        for pid in pids:
            _signal(pid, signal.SIGSTOP)
        time.sleep(rng.uniform(SHORT, LONG))      # the fault is its length
        for pid in reversed(pids):
            _signal(pid, signal.SIGCONT)

    def _stop_postgres(self, rng: random.Random) -> None:
        self.database.stop_immediately()
        time.sleep(rng.uniform(SHORT, LONG))
        self.database.start()

    def _kill_everything_without_postgres(self, _: random.Random) -> None:
        self.database.stop_immediately()
        self.tracker.kill_everything()
        self.start()
        self.database.start()


@contextmanager
def a_world(database: Database, folder: Path) -> Iterator[World]:
    environ = tracker_environ(database.dsn, folder / "spool", TRACKER_PORT=str(free_port()))
    with ExitStack() as stack:
        yield World(database, environ, stack.enter_context(running("serve", environ)), stack)


@pytest.mark.fault(1, 2)
@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", ROUNDS)
def test_random_faults_under_load_lose_and_double_nothing(
    postgres_factory: PostgresFactory, tmp_path: Path, number: int, record_property: Callable[[str, object], None]
) -> None:
    """One fault at a time is what its author thought of. These come in any order, some before the last one has healed."""
    seed = int(os.environ.get("TRACKER_TEST_SEED") or secrets.randbits(32)) if number == 0 else secrets.randbits(32)
    record_property("seed", seed)
    rng = random.Random(seed)
    with own_database(postgres_factory()) as database, a_world(database, tmp_path) as world:
        chosen = rng.sample(sorted(world.faults), FAULTS_A_ROUND)
        print(f"TRACKER_TEST_SEED={seed}: {', '.join(chosen)}")
        port, dsn = world.tracker.public_port, database.dsn
        visitors = [click(port) for _ in range(20)]
        with clients(port, tmp_path / "acks") as crowd:
            shops = InsistentShops(port, visitors)
            for fault in chosen:
                crowd.wait_for_acks(CLICKS)
                world.faults[fault](rng)
            crowd.wait_for_acks(CLICKS)
            shops.stop()
            history = crowd.stop()
        until(lambda: all_is_shipped(dsn, tmp_path / "spool"), "every click is shipped", seconds=60, every=0.1)
        until(lambda: value(dsn, DECIDED) >= len(shops.sales), "every sale is decided", seconds=60, every=0.1)
        found = sale_accusations(shops.sales, map(dict, fetch(dsn, SOLD)))
        assert [] == found, "\n".join(found)
        assert_kept(dsn, tmp_path / "spool", history, world.environ, besides=[visitor.uuid for visitor in visitors])
