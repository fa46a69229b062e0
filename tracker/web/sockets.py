"""Listening sockets: opened once, by the parent, and kept: a dead worker's queue waits for its successor."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence
from pathlib import Path

BACKLOG = 4096      # connections the kernel keeps while a worker is being replaced: two seconds at 2,000 new ones a second
ALL_ADDRESSES = ("0.0.0.0", "::")  # noqa: S104 - the contract's default

_SO_BINDTOIFINDEX = 62       # asm/socket.h, since Linux 5.0; without privileges since 5.7
_NO_INTERFACE = 2**31 - 1    # the kernel takes any number, and counts interfaces up from 1


class PortTakenError(Exception):
    """Somebody else listens there; the text is one sentence for people."""


def open_sockets(hosts: Sequence[str], port: int, *, copies: int = 1, setting: str) -> list[list[socket.socket]]:
    """`copies` sets of listening sockets, one socket per host in each; SO_REUSEPORT spreads connections over the sets.

    No hosts: all IPv4 and IPv6 addresses. Port 0: any free one, the same for all. Raises PortTakenError, or OSError for an
    address that is not this machine's.
    """
    sets: list[list[socket.socket]] = []
    for copy in range(copies):
        one: list[socket.socket] = []
        for host in hosts or ALL_ADDRESSES:
            try:
                if copy == 0 and copies > 1:      # without SO_REUSEPORT, or another `tracker` would share its port with us
                    _open(host, port, reuse_port=False).close()
                opened = _open(host, port, reuse_port=copies > 1)
            except OSError as exc:
                if exc.errno == errno.EADDRINUSE:
                    raise PortTakenError(f"port {port} is taken by another program: stop it, or choose one ({setting})") from exc
                if not hosts and host == "::" and exc.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                    continue      # a machine without IPv6
                raise
            port = opened.getsockname()[1]
            one.append(opened)
        sets.append(one)
    return sets


def _open(host: str, port: int, *, reuse_port: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        opened.bind((host, port))
        opened.listen(BACKLOG)
        opened.setblocking(False)
    except OSError:
        opened.close()
        raise
    return opened


def adopt(fds: Sequence[int]) -> list[socket.socket]:
    """The sockets a parent handed down."""
    return [socket.socket(fileno=fd) for fd in fds]


def turn_newcomers_away(listening: socket.socket) -> bool:
    """From now on who knocks is refused as at a closed door, while handshakes under way still complete and can be accepted.

    Closing alone would reset every connection whose handshake completes after the last accept, its request unanswered. So
    the socket is bound to an interface that does not exist: the kernel then finds no listener for a new SYN, but it finds
    the handshakes that have begun. (Until all workers of a port have done so, a SYN may also be left without an answer; it
    is sent again a second later.) There is no way back without privileges, so a socket that our parent may hand to a
    successor is left alone. False then, and where the kernel cannot do it: those resets remain possible there.
    """
    if _has_heir(listening):
        return False
    try:
        listening.setsockopt(socket.SOL_SOCKET, _SO_BINDTOIFINDEX, _NO_INTERFACE)
    except OSError:
        return False
    return True


def _has_heir(listening: socket.socket) -> bool:
    """Whether our parent holds this socket too, under the number that we inherited. When in doubt it does."""
    fd = listening.fileno()
    try:
        ours = Path(f"/proc/self/fd/{fd}").stat()
    except OSError:
        return True      # not Linux, or no /proc
    try:
        return os.path.samestat(ours, Path(f"/proc/{os.getppid()}/fd/{fd}").stat())
    except FileNotFoundError:
        return False
    except OSError:
        return True      # our parent is somebody else's process


def accept_rest(listening: socket.socket) -> list[socket.socket]:
    """The connections that wait in a socket's queue."""
    waiting: list[socket.socket] = []
    while True:
        try:
            connection, _ = listening.accept()
        except ConnectionAbortedError:       # it has gone again; others may wait behind it
            continue
        except OSError:                      # the queue is empty, or there are no descriptors left
            return waiting
        connection.setblocking(False)
        waiting.append(connection)
