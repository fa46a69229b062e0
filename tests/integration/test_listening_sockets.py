"""Listening sockets at their end. Handshakes are the kernel's work, so these ask the kernel, over loopback."""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Iterator

import pytest

from tracker.web import sockets
from tracker.web.sockets import accept_rest, adopt, let_no_handshake_begin, open_sockets

SECONDS = 20.0
SO_LOCK_FILTER = 44            # asm/socket.h: from then on the kernel refuses to change the filter
NOTHING = [(0x06, 0, 0, 0)]    # a filter that drops every packet
ESTABLISHED, SYN_SENT = 1, 2   # netinet/tcp.h


def exists(host: str) -> bool:
    try:
        socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError:
        return False
    return True


@pytest.fixture(params=[host for host in ("127.0.0.1", "::1") if exists(host)])
def listening(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    [[opened]] = open_sockets([request.param], 0, setting="")
    with opened:
        yield opened


def begin(listening: socket.socket, *, deaf: bool = False) -> socket.socket:
    """A client that has sent its SYN, and, unless deaf to the answer, ended its handshake: over loopback that is done at once."""
    client = socket.socket(listening.family)
    if deaf:
        sockets._attach_filter(client, NOTHING)
    client.setblocking(False)
    assert errno.EINPROGRESS == client.connect_ex(listening.getsockname())
    return client


def state(client: socket.socket) -> int:
    return client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]


def accept(listening: socket.socket) -> list[socket.socket]:
    """Those who come next."""
    assert select.select([listening], [], [], SECONDS)[0], "nobody came"
    return accept_rest(listening)


def test_handshakes_under_way_complete_and_none_begins(listening: socket.socket) -> None:
    """Else the queue never ends: whoever the kernel lets in after the last accept is reset with his request."""
    with begin(listening) as known, begin(listening, deaf=True) as under_way:
        assert (ESTABLISHED, SYN_SENT) == (state(known), state(under_way))
        assert let_no_handshake_begin(listening)
        under_way.setsockopt(socket.SOL_SOCKET, sockets._SO_DETACH_FILTER, 0)      # it hears the next try, a second later
        with begin(listening) as newcomer:
            [first] = accept(listening)
            with first:
                assert known.getsockname() == first.getpeername()
            [second] = accept(listening)
            with second:
                assert under_way.getsockname() == second.getpeername()
                under_way.send(b"request")
                assert select.select([second], [], [], SECONDS)[0]
                assert b"request" == second.recv(100), "a connection let in like this carries data"
            assert SYN_SENT == state(newcomer)
            listening.close()
            assert select.select([], [newcomer], [], SECONDS)[1], "it is left without an answer for ever"
            assert errno.ECONNREFUSED == newcomer.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def test_who_adopts_a_socket_lets_handshakes_begin_again(listening: socket.socket) -> None:
    """A worker that was told to end alone, or killed in its drain: the parent hands the same socket to its successor."""
    assert let_no_handshake_begin(listening)
    [adopted] = adopt([os.dup(listening.fileno())])
    with adopted, begin(adopted) as client:
        assert ESTABLISHED == state(client)


def test_a_kernel_that_refuses_filters_is_no_failure(listening: socket.socket) -> None:
    """Then connections may be reset, as ever; the drain and the next start must go on."""
    listening.setsockopt(socket.SOL_SOCKET, SO_LOCK_FILTER, 1)
    assert not let_no_handshake_begin(listening)
    [adopted] = adopt([os.dup(listening.fileno())])
    with adopted, begin(adopted) as client:
        assert ESTABLISHED == state(client)
