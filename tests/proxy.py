"""A TCP proxy in front of PostgreSQL that breaks connections on command: cuts after n bytes, holds, swallows,
delivers late.

Bytes are counted over the proxy's life and in one direction ("up": to the server), so a test measures an undisturbed
run first and then cuts at any byte of it. A `Fault` strikes once; connections after it are passed through.
"""

import asyncio
import socket
import struct
import threading
import urllib.parse
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Literal

Direction = Literal["up", "down"]
_LINGER_NONE = struct.pack("ii", 1, 0)  # close sends a reset


@dataclass(slots=True)
class Fault:
    """Strikes at byte `at` of a direction, or at the chunk that contains `on` (which begins or ends a statement).

    With `after`, only on a connection that has sent this since the fault was set: of all commits, that of a COPY.

    `cut`: what stands before is passed on, then both sides are reset. `hold`: from there on nothing goes that way, the
    sockets stay open. `swallow`: the chunk goes on, the client is reset without ever seeing the answer. `late`: the
    client is reset, the chunk reaches the server when `deliver` is set.
    """

    direction: Direction
    action: Literal["cut", "hold", "swallow", "late"]
    at: int | None = None
    on: bytes | None = None
    after: bytes = b""
    struck: asyncio.Event = field(default_factory=asyncio.Event)
    deliver: asyncio.Event = field(default_factory=asyncio.Event)

    def strikes(self, chunk: bytes, before: int) -> int | None:
        """How many bytes of the chunk go before it; None: not here. `before` is what passed earlier."""
        if self.struck.is_set():
            return None
        if self.at is not None:
            return self.at - before if before + len(chunk) > self.at else None
        return 0 if self.on is not None and self.on in chunk else None


class Proxy:
    """Made by `proxied`. `dsn` leads through it; `passed` counts bytes; set `fault` at any time."""

    def __init__(self, target: str) -> None:
        self.dsn = ""
        self.lead_to(target)
        self.fault: Fault | None = None
        self.passed: dict[Direction, int] = {"up": 0, "down": 0}
        self.connections = 0
        self._open: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    def lead_to(self, target: str) -> None:
        """Where connections go from now on: a server that was restarted has a new socket."""
        parts = urllib.parse.urlsplit(target)
        query = dict(urllib.parse.parse_qsl(parts.query))
        self._host = query.get("host") or parts.hostname or "127.0.0.1"
        self._port = int(query.get("port") or parts.port or 5432)

    def deliver(self, fault: Fault) -> None:
        """Let go on what the fault holds; from any thread."""
        self._loop.call_soon_threadsafe(fault.deliver.set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        self.connections += 1
        up = None
        try:
            if self._host.startswith("/"):
                up_reader, up = await asyncio.open_unix_connection(f"{self._host}/.s.PGSQL.{self._port}")
            else:
                up_reader, up = await asyncio.open_connection(self._host, self._port)
            pumps = {asyncio.ensure_future(self._pump("up", reader, up, writer))}
            pumps.add(asyncio.ensure_future(self._pump("down", up_reader, writer, writer)))
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._open.discard(task)
            for side in (writer, up):
                if side is not None:
                    _reset(side)

    async def _pump(
        self, way: Direction, source: asyncio.StreamReader, sink: asyncio.StreamWriter, client: asyncio.StreamWriter
    ) -> None:
        armed: Fault | None = None
        while chunk := await source.read(65536):
            fault = self.fault if self.fault is not None and self.fault.direction == way else None
            if fault is not None and fault.after in chunk:
                armed = fault
            keep = fault.strikes(chunk, self.passed[way]) if fault is not None and fault is armed else None
            self.passed[way] += len(chunk)
            if fault is None or keep is None:
                sink.write(chunk)
                await sink.drain()
                continue
            fault.struck.set()
            if fault.action in ("cut", "hold"):
                sink.write(chunk[:keep])
                await sink.drain()
            if fault.action == "cut":
                return
            if fault.action == "hold":
                await fault.deliver.wait()
            elif fault.action == "swallow":
                _reset(client)
                sink.write(chunk)
                await sink.drain()
                await asyncio.sleep(0.1)  # the server answers into the void
                return
            else:
                _reset(client)
                await fault.deliver.wait()
            sink.write(chunk[keep:] if fault.action == "hold" else chunk)
            await sink.drain()
            if fault.action == "late":
                await asyncio.sleep(0.2)
                return

    async def close(self) -> None:
        """Reset every open connection."""
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)


def _reset(side: asyncio.StreamWriter) -> None:
    connected = side.get_extra_info("socket")
    if connected is not None and connected.family == socket.AF_INET and not side.is_closing():
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
    side.transport.abort()


@contextmanager
def proxied_aside(dsn: str) -> Iterator[Proxy]:
    """The same in a thread of its own, for tests that wait without a loop. Its faults' events belong to that thread: set
    `fault`, look whether it has `struck`, and let what is held go on with `deliver`."""
    opened: Future[Proxy] = Future()
    closing: Future[None] = Future()

    async def serve() -> None:
        async with proxied(dsn) as proxy:
            opened.set_result(proxy)
            await asyncio.wrap_future(closing)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        yield opened.result(20)
    finally:
        closing.set_result(None)
        thread.join(20)


@asynccontextmanager
async def proxied(dsn: str) -> AsyncIterator[Proxy]:
    """A proxy on 127.0.0.1 to the server that `dsn` names."""
    parts = urllib.parse.urlsplit(dsn)
    proxy = Proxy(dsn)
    listening = socket.create_server(("127.0.0.1", 0))
    # Little room, so that a held COPY stops the writer as it does over a long and thin line.
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
    server = await asyncio.start_server(proxy.serve, sock=listening)
    port = server.sockets[0].getsockname()[1]
    user = f"{parts.username}@" if parts.username else ""
    proxy.dsn = f"postgresql://{user}127.0.0.1:{port}{parts.path}?sslmode=disable"
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
        await server.wait_closed()
