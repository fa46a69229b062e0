"""A machine with nothing left: no descriptors, a fifth of a processor. What is served goes on; what comes back is whole."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from demo_world import make_world, value
from judge import all_is_shipped, assert_kept, assert_verified, clients
from raw_http import Client, click
from tracker_process import TrackerProcess, free_port, running, tracker_environ, until
from visitor import click as visit
from visitor import postback

from tracker.app.edge import KEPT_DESCRIPTORS

STRANGERS = 200
CONNECTIONS = 100          # that a worker may have, by its descriptors
SPARE_DESCRIPTORS = 20
IDLE_SHARE = 0.3           # of a processor, at most, while nothing can be accepted; a busy loop takes all of one


def descriptors(pid: int) -> list[int]:
    return [int(entry.name) for entry in (Path("/proc") / str(pid) / "fd").iterdir()]


def processor_seconds(pid: int) -> float:
    fields = (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def strangers(port: int, full: Callable[[], bool]) -> Iterator[None]:
    """Connections that say nothing, as many as it takes until nothing is left for others."""
    with contextlib.ExitStack() as stack:
        for _ in range(STRANGERS):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
        until(full, "the strangers have taken everything")
        yield


def assert_serves_without_spinning(worker: int, known: Client) -> int:
    """Two seconds of clicks on a connection that was there before; returns how many."""
    before, begun, clicks = processor_seconds(worker), time.monotonic(), 0
    while time.monotonic() < begun + 2.0:
        assert 302 == known.ask(click(b"l1")).status
        clicks += 1
        time.sleep(0.01)
    share = (processor_seconds(worker) - before) / (time.monotonic() - begun)
    assert share < IDLE_SHARE, f"{share:.0%} of a processor"
    return clicks


def assert_is_back(tracker: TrackerProcess, dsn: str, spool: Path, visits: int) -> None:
    """New visitors are served, their sales too, and there is a row for every visit before and after."""
    until(lambda: tracker.metric("tracker_connections") <= 1, "the strangers are gone")
    for _ in range(10):
        assert 302 == visit(tracker.public_port).status
    sold = visit(tracker.public_port)
    until(lambda: all_is_shipped(dsn, spool), "every click is shipped")
    assert visits + 11 == value(dsn, "SELECT count(*) FROM clicks")
    assert "recorded" == postback(tracker.public_port, click_id=sold.token, txid="1", amount="5").said["status"]


@pytest.mark.fault(38)
def test_strangers_may_take_every_connection_and_no_descriptor_of_the_spool(dsn: str, tmp_path: Path) -> None:
    """Whoever opens connections until there are no more must not keep us from writing down what our visitors do."""
    make_world(dsn, links=1)
    environ = tracker_environ(dsn, tmp_path / "spool", TRACKER_WORKERS="1")
    with running("serve", environ) as tracker:
        limit = KEPT_DESCRIPTORS + CONNECTIONS
        resource.prlimit(tracker.pid, resource.RLIMIT_NOFILE, (limit, limit))      # its next worker starts with it
        [first] = tracker.workers()
        tracker.kill_worker(first)
        until(lambda: tracker.workers() not in ([], [first]) and tracker.metric("tracker_ready") == 1, "the worker is replaced")
        [worker] = tracker.workers()
        with Client(tracker.public_port) as known:
            known.ask(click(b"l1"))
            with strangers(tracker.public_port, lambda: tracker.metric("tracker_connections") == CONNECTIONS):
                refused = STRANGERS + 1 - CONNECTIONS
                until(lambda: tracker.metric("tracker_connections_refused_total") == refused, "the others are sent away")
                visits = 1 + assert_serves_without_spinning(worker, known)
                with Client(tracker.public_port) as late:
                    assert b"" == late.rest(), "refused at once: whoever is refused may ask another"
        assert_is_back(tracker, dsn, tmp_path / "spool", visits)
        assert 0 == tracker.metric("tracker_clicks_unlogged_total")
        assert_verified(environ)


@pytest.mark.fault(38)
def test_out_of_descriptors_it_serves_on_counts_what_it_could_not_write_and_comes_back(dsn: str, tmp_path: Path) -> None:
    """Somebody lowered the limit, or something leaks: accept fails, files cannot be made. Nothing spins, and nobody has to help."""
    make_world(dsn, links=1)
    environ = tracker_environ(dsn, tmp_path / "spool", TRACKER_WORKERS="1")
    with running("serve", environ) as tracker, Client(tracker.public_port) as known:
        known.ask(click(b"l1"))
        [worker] = tracker.workers()
        _, hard = resource.prlimit(worker, resource.RLIMIT_NOFILE)
        limit = max(descriptors(worker)) + SPARE_DESCRIPTORS
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (limit, hard))
        with strangers(tracker.public_port, lambda: len(descriptors(worker)) >= limit - 1):
            visits = 1 + assert_serves_without_spinning(worker, known)
        until(lambda: tracker.metric("tracker_spool_healthy") == 1, "the spool can be written again")
        assert visits == tracker.metric("tracker_clicks_total", "click")
        assert_is_back(tracker, dsn, tmp_path / "spool", visits - int(tracker.metric("tracker_clicks_unlogged_total")))
        assert [worker] == tracker.workers(), "nobody had to be replaced"
        assert len(tracker.output.splitlines()) < 100, "a line for each refused connection would fill the disk"
        assert_verified(environ)


@contextlib.contextmanager
def throttled(*pids: int) -> Iterator[None]:
    """A fifth of a processor, as a container's quota gives it: 20 ms of every 100, then nothing."""
    stop = threading.Event()

    def throttle() -> None:
        while not stop.is_set():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
            stop.wait(0.08)
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
            stop.wait(0.02)

    throttling = threading.Thread(target=throttle)
    throttling.start()
    try:
        yield
    finally:
        stop.set()
        throttling.join()


@pytest.mark.fault(38)
def test_throttled_to_a_fifth_and_killed_for_its_memory_it_loses_nothing(dsn: str, tmp_path: Path) -> None:
    """A container at its limits: its processor is taken away, then the kernel kills a worker without a word (SIGKILL is how)."""
    make_world(dsn)
    environ = tracker_environ(dsn, tmp_path / "spool", TRACKER_PORT=str(free_port()))
    with running("serve", environ) as tracker, clients(tracker.public_port, tmp_path / "acks") as crowd:
        with throttled(tracker.pid, *tracker.workers()):
            crowd.wait_for_acks(2_000)
            victim = tracker.workers()[0]
            os.kill(victim, signal.SIGKILL)
            crowd.wait_for_acks(1_000)
        until(lambda: victim not in tracker.workers() and tracker.metric("tracker_ready") == 2, "the worker is replaced")
        crowd.wait_for_acks(1_000)
        history = crowd.stop()
        until(partial(all_is_shipped, dsn, tmp_path / "spool"), "every click is shipped", every=0.1)
        assert_kept(dsn, tmp_path / "spool", history, environ)
        assert 1 == tracker.metric("tracker_worker_restarts_total")
