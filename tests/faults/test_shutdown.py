"""SIGTERM at the door: whoever is let in is answered, whoever comes too late is refused, nobody is let in and then reset."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest
from demo_world import make_world
from tracker_process import running, tracker_environ, until
from visitor import click

SECONDS = 20.0
REQUEST = b"GET /c/l1 HTTP/1.1\r\nHost: go.example\r\n\r\n"
LISTENING = "0A"      # a state in /proc/net/tcp (include/net/tcp_states.h)


def is_let_in(port: int) -> bool:
    """Click on a connection of its own: answered, or not let in at all."""
    with socket.socket() as visitor:
        visitor.settimeout(SECONDS)
        try:
            visitor.connect(("127.0.0.1", port))
        except ConnectionRefusedError:
            return False
        visitor.sendall(REQUEST)
        assert visitor.recv(4096).startswith(b"HTTP/1.1 302 "), "let in, and not answered"
        return True


def doors(port: int) -> int:
    """How many sockets listen on a port."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(line[3] == LISTENING and int(line[1].rpartition(":")[2], 16) == port for line in lines)


@pytest.mark.fault(3)
def test_newcomers_are_refused_before_the_doors_close(dsn: str, tmp_path: Path) -> None:
    """Handshakes that are under way when a door closes end in a reset: its last second is for them alone."""
    make_world(dsn, links=3)
    with running("edge", tracker_environ(dsn, tmp_path / "spool", TRACKER_WORKERS="1")) as tracker:
        assert is_let_in(tracker.public_port)
        tracker.terminate()
        while is_let_in(tracker.public_port):
            pass
        assert 1 == doors(tracker.public_port), "refused because the door was closed: who was on his way was reset"
        assert 0 == tracker.exit_code()
        assert 0 == doors(tracker.public_port)


def test_a_worker_told_to_end_alone_leaves_an_open_door_to_its_successor(dsn: str, tmp_path: Path) -> None:
    """The socket is the parent's and is handed on: what keeps newcomers away at the end of one worker must not outlive it."""
    make_world(dsn, links=3)
    with running("edge", tracker_environ(dsn, tmp_path / "spool", TRACKER_WORKERS="1")) as tracker:
        [worker] = tracker.workers()
        os.kill(worker, signal.SIGTERM)
        until(lambda: tracker.workers() not in ([], [worker]) and tracker.metric("tracker_ready") == 1, "its successor is ready")
        assert 302 == click(tracker.public_port).status
