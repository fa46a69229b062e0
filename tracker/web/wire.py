"""One connection of the public port: what asyncio calls a transport, over a bare descriptor.

It exists because nearly all that our connections do is receive one request and send one answer that the kernel takes at once.
The rest (answers the kernel does not take whole, clients that stop sending, resets) keeps asyncio's promises to the protocol:
nothing is called back from within its own calls, and `connection_lost` comes last, once.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from typing import Any, Final, Protocol

from tracker import speedups

READ_BYTES: Final = 1 << 16
HIGH_WATER: Final = 1 << 16       # bytes unsent at which the protocol is told to pause, and …
LOW_WATER: Final = 1 << 14        # … to go on: asyncio's defaults

IN: Final = 1                     # EPOLLIN and …
OUT: Final = 4                    # … EPOLLOUT; what else comes is the end: EPOLLERR, EPOLLHUP


class Poll(Protocol):
    """What is used of select.epoll."""

    def register(self, fd: int, eventmask: int, /) -> None: ...

    def modify(self, fd: int, eventmask: int, /) -> None: ...

    def poll(self, timeout: float | None = ..., maxevents: int = ...) -> list[tuple[int, int]]: ...

    def fileno(self) -> int: ...


def send_in_python(fd: int, data: bytes | bytearray | memoryview) -> int:
    """How many bytes of it the kernel took. Never waits. OSError: the connection is gone."""
    try:
        return os.write(fd, data)
    except BlockingIOError:
        return 0


send = speedups.sender(send_in_python)


_NOBODY: Final = asyncio.Protocol()


class Wire(asyncio.Transport):
    """Made for a descriptor that does not block and that `poll` watches for IN; the descriptor is its own from then on.

    `wires`: every connection, by descriptor; this one leaves it when it ends.
    """

    __slots__ = ("_closing", "_ended", "_fd", "_full", "_loop", "_peer", "_poll", "_protocol", "_reading", "_unsent", "_wires")

    def __init__(
        self, fd: int, peer: str, protocol: asyncio.Protocol, *, loop: asyncio.AbstractEventLoop, poll: Poll,
        wires: list[Wire | None],
    ) -> None:
        self._fd = fd                  # -1 when closed
        self._peer = peer
        self._protocol = protocol
        self._loop = loop
        self._poll = poll
        self._wires = wires
        self._unsent: bytearray | None = None
        self._reading = True
        self._full = False             # the protocol was told to pause
        self._ended = False            # the client sends no more
        self._closing = False          # by the protocol's wish, once all is sent, or because it is over

    # What the port says

    def begin(self) -> None:
        """The connection is made; its request is often there already. If not, or not all of it, this wakes us in the next turn."""
        try:
            self._protocol.connection_made(self)
        except Exception as exc:  # noqa: BLE001 - the loop's handler is told
            self._fail(exc)
        if not self._closing:
            self.read()

    def received(self, data: bytes) -> None:
        """The client sent this; nothing: it sends no more."""
        if self._closing:
            return
        try:
            if data:
                self._protocol.data_received(data)
            elif self._protocol.eof_received():
                self._ended = True
                self._watch()
            else:
                self.close()
        except Exception as exc:  # noqa: BLE001 - the loop's handler is told
            self._fail(exc)

    def woken(self, events: int) -> None:
        """The descriptor is ready for something else, or no more good."""
        if events & OUT and self._unsent:
            self._send_rest(self._unsent)
        if self._reads:
            self.read()      # first: who sends a request and is gone has sent it all the same
        elif events & ~(IN | OUT):
            self._end(ConnectionResetError("the client is gone"))

    def read(self) -> None:
        """What is there now; should there be more, we are woken again."""
        try:
            data = os.read(self._fd, READ_BYTES)
        except BlockingIOError:
            return
        except OSError as exc:
            self._end(exc)
            return
        self.received(data)

    # What the protocol says: asyncio.Transport

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing:
            return
        unsent = self._unsent
        if unsent is None:
            try:
                sent = send(self._fd, data)
            except OSError as exc:
                self._end(exc)
                return
            if sent == len(data):
                return
            unsent = self._unsent = bytearray(memoryview(data)[sent:])
            self._watch()
        else:
            unsent += data
        if len(unsent) > HIGH_WATER and not self._full:
            self._full = True
            self._protocol.pause_writing()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(list_of_data))

    def pause_reading(self) -> None:
        self._reading = False
        self._watch()

    def resume_reading(self) -> None:
        self._reading = True
        self._watch()

    @property
    def _reads(self) -> bool:
        return self._reading and not self._closing and not self._ended

    def is_reading(self) -> bool:
        return self._reading and not self._closing

    def is_closing(self) -> bool:
        return self._closing

    def get_write_buffer_size(self) -> int:
        return len(self._unsent or b"")

    def can_write_eof(self) -> bool:
        return False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """`peername` alone, and of that the address."""
        return (self._peer, 0) if name == "peername" else default

    def close(self) -> None:
        """Once all is sent; nothing more is received."""
        if self._closing:
            return
        if self._unsent is None:
            self._end(None)
        else:
            self._closing = True
            self._watch()

    def abort(self) -> None:
        """Now."""
        self._end(None)

    # The rest

    def _send_rest(self, unsent: bytearray) -> None:
        try:
            sent = send(self._fd, unsent)
        except OSError as exc:
            self._end(exc)
            return
        del unsent[:sent]
        if not unsent:
            self._unsent = None
            if self._closing:
                self._end(None)
                return
            self._watch()
        if self._full and len(unsent) <= LOW_WATER:
            self._full = False
            try:
                self._protocol.resume_writing()
            except Exception as exc:  # noqa: BLE001 - the loop's handler is told
                self._fail(exc)

    def _watch(self) -> None:
        """Be woken for what is waited for."""
        if self._fd >= 0:
            self._poll.modify(self._fd, (IN if self._reads else 0) | (OUT if self._unsent else 0))

    def _fail(self, exc: Exception) -> None:
        """A mistake of ours costs this connection, no other."""
        context = {"message": "a connection's protocol failed", "exception": exc, "transport": self, "protocol": self._protocol}
        self._loop.call_exception_handler(context)
        self._end(exc)

    def _end(self, exc: Exception | None) -> None:
        self._closing = True
        self._unsent = None
        if self._fd < 0:
            return
        self._wires[self._fd] = None
        os.close(self._fd)      # which ends its place in `poll`, too
        self._fd = -1
        self._loop.call_soon(self._protocol.connection_lost, exc)
        self._protocol = _NOBODY      # which knows us: two that hold each other wait for the collector, which took a twentieth
