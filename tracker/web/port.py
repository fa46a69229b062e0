"""The public port of one worker: its connections are accepted and read here, a turn at a time; lanes see asyncio transports.

    the loop: something is ready → receive: what each connection sent → Lane … Desk.flush … Lane → Wire.write → the kernel

One epoll holds all connections, and the loop watches that one descriptor. So a turn costs the loop one callback, however many
connections have sent something, and a new connection costs few system calls and small objects. The loop's own transports do
more for anybody's sockets: with them (LoopPort) a click costs 5 to 10 % more, one over a new connection 2.3 times as much.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import select
import socket
from collections.abc import Callable, Sequence
from typing import Final

from tracker import speedups
from tracker.web.wire import IN, READ_BYTES, Poll, Wire

log = logging.getLogger(__name__)

TURN_CONNECTIONS: Final = 256     # read in one turn; their answers leave together after it, so it bounds what the first waits
ACCEPTED_AT_ONCE: Final = 64      # then those who are connected have their turn
REST_SECONDS: Final = 1.0         # without descriptors or memory for newcomers: they wait in the kernel's queue
HAS_EPOLL: Final = hasattr(select, "epoll")
_NO_ROOM: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def receive_in_python(poll: Poll, wires: list[Wire | None]) -> None:
    """One turn: what each ready connection sent goes to its wire, found by descriptor. Never waits.

    All are read before the first is served: kernel and lanes keep each their own caches warm, 2 to 4 % of a click.
    """
    heard: list[tuple[int, int, Wire, bytes | None]] = []
    for fd, events in poll.poll(0, TURN_CONNECTIONS):
        wire, data = wires[fd], None
        if wire is None:
            continue
        if events == IN:
            try:
                data = os.read(fd, READ_BYTES)
            except BlockingIOError:
                continue
            except OSError:
                events = select.EPOLLERR
        heard.append((fd, events, wire, data))
    for fd, events, wire, data in heard:
        if wire is not wires[fd]:      # it ended earlier in this turn
            continue
        if data is None:
            wire.woken(events)
        else:
            wire.received(data)


def accept_in_python(listening: socket.socket) -> tuple[int, str] | None:
    """A new connection's descriptor, which does not block, and its peer's address; None when nobody waits. OSError."""
    try:
        connection, name = listening.accept()
    except BlockingIOError:
        return None
    connection.setblocking(False)
    return connection.detach(), name[0].partition("%")[0]      # a link's name says nothing about who called


receive = speedups.receiver(receive_in_python)
accept = speedups.accepter(accept_in_python)


class Port:
    """`listening` sockets and all connections accepted there. The sockets stay open, and their owner's."""

    def __init__(self, protocol: Callable[[], asyncio.Protocol], listening: Sequence[socket.socket]) -> None:
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._poll: Poll = select.epoll()
        self._wires: list[Wire | None] = []      # by descriptor
        self._loop.add_reader(self._poll.fileno(), receive, self._poll, self._wires)
        self._accepting = list(listening)
        for one in listening:
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)      # accepted ones inherit it
            self._loop.add_reader(one.fileno(), self._accept, one)

    def stop_accepting(self) -> None:
        """Who knocks from now on waits in the kernel's queue. Connections go on."""
        for one in self._accepting:
            self._loop.remove_reader(one.fileno())
        self._accepting = []

    async def take(self, connection: socket.socket) -> None:
        """One that was accepted elsewhere."""
        try:
            peer = connection.getpeername()[0]
        except OSError:      # it has gone again
            connection.close()
            return
        connection.setblocking(False)
        self._begin(connection.detach(), peer.partition("%")[0])

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                newcomer = accept(listening)
            except OSError as exc:
                if exc.errno in _NO_ROOM:
                    self._rest(listening, exc)
                    return
                continue      # it has gone again; others may wait behind it
            if newcomer is None:
                return
            self._begin(*newcomer)

    def _begin(self, fd: int, peer: str) -> None:
        try:
            self._poll.register(fd, IN)
        except OSError as exc:      # sysctl fs.epoll.max_user_watches, or no memory
            log.warning("a connection is closed, it cannot be watched: %s", exc)
            os.close(fd)
            return
        if fd >= len(self._wires):
            self._wires.extend([None] * (fd + 1 - len(self._wires)))
        wire = self._wires[fd] = Wire(fd, peer, self._protocol(), loop=self._loop, poll=self._poll, wires=self._wires)
        wire.begin()

    def _rest(self, listening: socket.socket, why: OSError) -> None:
        log.error("no room for another connection (%s): who knocks waits a second", why)
        self._loop.remove_reader(listening.fileno())
        self._loop.call_later(REST_SECONDS, self._accept_again, listening)

    def _accept_again(self, listening: socket.socket) -> None:
        if listening in self._accepting:
            self._loop.add_reader(listening.fileno(), self._accept, listening)


class LoopPort:
    """The same with the loop's own transports, for systems without epoll."""

    def __init__(self, protocol: Callable[[], asyncio.Protocol], servers: Sequence[asyncio.Server]) -> None:
        self._protocol = protocol
        self._servers = servers

    @classmethod
    async def open(cls, protocol: Callable[[], asyncio.Protocol], listening: Sequence[socket.socket]) -> LoopPort:
        loop = asyncio.get_running_loop()
        return cls(protocol, [await loop.create_server(protocol, sock=one.dup()) for one in listening])

    def stop_accepting(self) -> None:
        for server in self._servers:
            server.close()

    async def take(self, connection: socket.socket) -> None:
        await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)


async def open_port(protocol: Callable[[], asyncio.Protocol], listening: Sequence[socket.socket]) -> Port | LoopPort:
    """Connections of `listening` get protocols from now on."""
    return Port(protocol, listening) if HAS_EPOLL else await LoopPort.open(protocol, listening)
