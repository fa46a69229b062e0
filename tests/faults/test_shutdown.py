"""SIGTERM at the door: whoever is let in is answered, whoever comes too late is refused, nobody is let in and then reset."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

import pytest
from demo_world import make_world
from tracker_process import running, tracker_environ, until
from visitor import click

SECONDS = 20.0
TOTAL_RETRANS = 100      # where struct tcp_info (linux/tcp.h) has it
REQUEST = b"GET /c/l1 HTTP/1.1\r\nHost: go.example\r\n\r\n"


def knock(port: int) -> int | None:
    """Click on a connection of its own. None when it was answered; when refused, how often its SYN had been sent again."""
    with socket.socket() as visitor:
        visitor.settimeout(SECONDS)
        try:
            visitor.connect(("127.0.0.1", port))
        except ConnectionRefusedError:
            info = visitor.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TOTAL_RETRANS + 4)
            return int.from_bytes(info[TOTAL_RETRANS:], sys.byteorder)
        visitor.sendall(REQUEST)
        assert visitor.recv(4096).startswith(b"HTTP/1.1 302 "), "let in, and not answered"
        return None


@pytest.mark.fault(3)
def test_the_first_who_is_not_let_in_is_left_without_an_answer_before_the_door_closes(dsn: str, tmp_path: Path) -> None:
    """A door that refuses while handshakes still complete has let somebody in whom nobody will answer."""
    make_world(dsn, links=3)
    with running("edge", tracker_environ(dsn, tmp_path / "spool")) as tracker:
        assert knock(tracker.public_port) is None
        tracker.terminate()
        while (sent_again := knock(tracker.public_port)) is None:
            pass
        assert sent_again > 0, "refused at once: connections that the kernel completed after the last accept were reset"
        assert 0 == tracker.exit_code()


def test_a_worker_told_to_end_alone_leaves_an_open_door_to_its_successor(dsn: str, tmp_path: Path) -> None:
    """The socket is the parent's and is handed on: what holds newcomers off at the end of one worker must not outlive it."""
    make_world(dsn, links=3)
    with running("edge", tracker_environ(dsn, tmp_path / "spool", TRACKER_WORKERS="1")) as tracker:
        [worker] = tracker.workers()
        os.kill(worker, signal.SIGTERM)
        until(lambda: tracker.workers() not in ([], [worker]) and tracker.metric("tracker_ready") == 1, "its successor is ready")
        assert 302 == click(tracker.public_port).status
