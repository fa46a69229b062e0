"""Listening sockets at their end. Handshakes are the kernel's work, so these ask the kernel, over loopback."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from support import has_address

from tracker.web.sockets import accept_rest, open_sockets, turn_newcomers_away

SECONDS = 20.0


@pytest.fixture(params=[host for host in ("127.0.0.1", "::1") if has_address(host)])
def listening(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    [[opened]] = open_sockets([request.param], 0, setting="")
    with opened:
        yield opened


def knock(listening: socket.socket) -> socket.socket:
    """A client whose handshake has ended, as it sees it."""
    return socket.create_connection(listening.getsockname()[:2], timeout=SECONDS)


def accept(listening: socket.socket) -> socket.socket:
    assert select.select([listening], [], [], SECONDS)[0], "nobody came"
    [connection] = accept_rest(listening)
    return connection


def test_handshakes_under_way_complete_and_newcomers_are_refused(listening: socket.socket) -> None:
    """Else the queue never ends: whoever the kernel lets in after the last accept is reset, with his request."""
    with knock(listening) as queued:
        # A handshake then ends with the client's first byte, not with its ACK.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, int(SECONDS))
        with knock(listening) as under_way:
            assert turn_newcomers_away(listening)
            with pytest.raises(ConnectionRefusedError):
                knock(listening)
            with accept(listening) as first:
                assert queued.getsockname() == first.getpeername()
            assert [] == accept_rest(listening)
            under_way.sendall(b"request")
            with accept(listening) as second:
                assert under_way.getsockname() == second.getpeername()
                assert b"request" == second.recv(100)
                second.sendall(b"answer")
                assert b"answer" == under_way.recv(100), "let in like this, it is a connection like any other"


def test_a_socket_that_the_parent_may_hand_on_stays_open(listening: socket.socket) -> None:
    """A worker that was told to end alone: its successor gets this very socket, and nobody could open it again."""
    child = (
        "import sys; from tracker.web.sockets import adopt, turn_newcomers_away\n"
        "[listening] = adopt([int(sys.argv[1])])\n"
        "sys.stdin.read()\n"
        "print(turn_newcomers_away(listening))\n"
    )

    def turned_away(*, parent_closes: bool) -> bytes:
        fd = os.dup(listening.fileno())
        with subprocess.Popen(
            [sys.executable, "-c", child, str(fd)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[fd]
        ) as process:
            if parent_closes:
                os.close(fd)
            said, _ = process.communicate(timeout=SECONDS)
        if not parent_closes:
            os.close(fd)
        return said.strip()

    assert b"False" == turned_away(parent_closes=False)
    knock(listening).close()
    assert b"True" == turned_away(parent_closes=True)
    with pytest.raises(ConnectionRefusedError):
        knock(listening)


def test_a_kernel_that_refuses_is_no_failure() -> None:
    """Then connections may be reset, as ever; the drain must go on."""
    left, right = socket.socketpair()
    with left, right:
        left.close()
        assert not turn_newcomers_away(left)
