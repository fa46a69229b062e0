"""Listening sockets: opened once, by the parent, and kept: a dead worker's queue waits for its successor."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import socket
import struct
import sys
from collections.abc import Sequence

BACKLOG = 4096      # connections the kernel keeps while a worker is being replaced: two seconds at 2,000 new ones a second
ALL_ADDRESSES = ("0.0.0.0", "::")  # noqa: S104 - the contract's default

_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27     # asm/socket.h
_SYN, _ACK = 0x02, 0x10
# Classic BPF (linux/filter.h): code, jumps when true and false, operand. A TCP socket's filter sees packets from their TCP
# header on, over IPv4 and IPv6 alike.
_NO_HANDSHAKE_BEGINS = (
    (0x30, 0, 0, 13),               # load byte 13, the flags
    (0x54, 0, 0, _SYN | _ACK),      # of which these two count
    (0x15, 0, 1, _SYN),             # SYN alone begins a handshake; anything else goes one further
    (0x06, 0, 0, 0),                # keep 0 bytes of it: dropped, without an answer
    (0x06, 0, 0, 0xFFFF_FFFF),      # keep all of it
)


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
    """The sockets a parent handed down. A predecessor may have been ending when it let go of them: handshakes begin again."""
    adopted = [socket.socket(fileno=fd) for fd in fds]
    for listening in adopted:
        with contextlib.suppress(OSError):      # nothing to take off
            listening.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
    return adopted


def let_no_handshake_begin(listening: socket.socket) -> bool:
    """From now on nobody new is answered, while handshakes under way still complete: so that a queue can end before its door does.

    Closing resets every connection whose handshake the kernel completes after the last accept, requests and all. Who is
    left without an answer has sent nothing yet; his kernel asks again a second later, and is refused or finds a successor.
    False where the kernel has no such filters: then those resets remain possible.
    """
    try:
        _attach_filter(listening, _NO_HANDSHAKE_BEGINS)
    except OSError:
        return False
    return True


def _attach_filter(to: socket.socket, steps: Sequence[tuple[int, int, int, int]]) -> None:
    if sys.platform != "linux":
        raise OSError(errno.ENOPROTOOPT, "socket filters are Linux's")
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    to.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(steps), ctypes.addressof(program)))


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
