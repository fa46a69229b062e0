"""The public port's connections, whatever serves them: asyncio's promises to a protocol, and the two ways' same behaviour."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import select
import socket
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import has_address
from ways import OURS, WAYS, take_way

from tracker.web import port, wire
from tracker.web.port import Port, open_port
from tracker.web.sockets import open_sockets
from tracker.web.wire import HIGH_WATER, IN, OUT, READ_BYTES, Wire


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    take_way(request.param, monkeypatch)
    return str(request.param)


@pytest.fixture(params=OURS)
def ours(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A port: what the loop's own transports do otherwise, or not at all."""
    take_way(request.param, monkeypatch)


@dataclass(eq=False)
class Seen(asyncio.Protocol):
    """A protocol that notes what it is told, and does what a test wants when data comes."""

    told: list[Any] = field(default_factory=list)
    data: bytearray = field(default_factory=bytearray)
    on_data: Callable[[Seen, bytes], None] = lambda *_: None
    stays_after_eof: bool = False
    came: asyncio.Event = field(default_factory=asyncio.Event)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.told.append("made")
        self.came.set()

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.changed.set()
        self.on_data(self, data)

    def eof_received(self) -> bool:
        self.told.append("eof")
        self.changed.set()
        return self.stays_after_eof

    def pause_writing(self) -> None:
        self.told.append("pause")
        self.changed.set()

    def resume_writing(self) -> None:
        self.told.append("resume")
        self.changed.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.told.append(("lost", type(exc)) if exc else "lost")
        self.changed.set()

    @property
    def lost(self) -> bool:
        return "lost" in (self.told[-1], self.told[-1][0])

    async def ended(self) -> None:
        await self.until(lambda: self.lost)

    async def until(self, what: Callable[[], bool]) -> None:
        while not what():
            self.changed.clear()
            await self.changed.wait()


@dataclass
class Place:
    """An open port whose protocols are noted in the order of their connections."""

    listening: socket.socket
    seen: list[Seen]
    port: Any
    came: asyncio.Event
    clients: list[socket.socket] = field(default_factory=list)

    async def client(self) -> tuple[socket.socket, Seen]:
        """A connection's two ends."""
        self.came.clear()
        client = socket.socket()
        client.setblocking(False)
        self.clients.append(client)
        await asyncio.get_running_loop().sock_connect(client, self.listening.getsockname())
        await self.came.wait()
        return client, self.seen[-1]


@contextlib.asynccontextmanager
async def opened(**options: Any) -> AsyncIterator[Place]:
    listening = open_sockets(["127.0.0.1"], 0, setting="")[0][0]
    seen: list[Seen] = []
    came = asyncio.Event()

    def protocol() -> Seen:
        seen.append(Seen(came=came, **options))
        return seen[-1]

    place = Place(listening, seen, await open_port(protocol, [listening]), came)
    try:
        yield place
    finally:
        place.port.stop_accepting()
        listening.close()
        for one in seen:
            if not one.lost:
                one.transport.abort()
        for client in place.clients:
            client.close()
        for one in seen:
            await one.ended()
            assert one.told[0] == "made"
            assert 1 == sum(told == "lost" or told[0] == "lost" for told in one.told)


async def receive_all(client: socket.socket) -> bytes:
    loop, parts = asyncio.get_running_loop(), []
    with contextlib.suppress(ConnectionResetError):
        while part := await loop.sock_recv(client, 1 << 20):
            parts.append(part)
    return b"".join(parts)


@pytest.mark.usefixtures("way")
async def test_what_is_sent_comes_and_what_is_written_goes() -> None:
    async with opened(on_data=lambda seen, data: seen.transport.write(data.upper())) as place:
        client, seen = await place.client()
        assert "127.0.0.1" == seen.transport.get_extra_info("peername")[0]
        await asyncio.get_running_loop().sock_sendall(client, b"hello")
        assert b"HELLO" == await asyncio.get_running_loop().sock_recv(client, 100)


@pytest.mark.usefixtures("way")
async def test_an_answer_larger_than_the_kernel_takes_comes_whole_and_in_order() -> None:
    parts = [bytes([n]) * 700_000 for n in range(20)]
    async with opened() as place:
        client, seen = await place.client()
        for part in parts:
            seen.transport.write(part)
        assert "pause" == seen.told[-1]
        assert seen.transport.get_write_buffer_size() > HIGH_WATER
        seen.transport.close()          # all that was written before is owed
        assert b"".join(parts) == await receive_all(client)
        await seen.until(lambda: seen.told[-1] == "lost")


@pytest.mark.usefixtures("ours")
async def test_nothing_is_written_after_the_end() -> None:
    async with opened() as place:
        client, seen = await place.client()
        seen.transport.write(b"x" * 20_000_000)
        seen.transport.close()
        seen.transport.write(b"too late")
        assert b"x" * 20_000_000 == await receive_all(client)
        seen.transport.write(b"too late")
        seen.transport.close()


@pytest.mark.usefixtures("way")
async def test_a_protocol_goes_on_when_the_client_reads_again() -> None:
    async with opened() as place:
        client, seen = await place.client()
        seen.transport.write(b"x" * 20_000_000)
        assert ["made", "pause"] == seen.told
        received = 0
        while received < 20_000_000:
            received += len(await asyncio.get_running_loop().sock_recv(client, 1 << 20))
        await seen.until(lambda: seen.told[-1] == "resume")
        assert 0 == seen.transport.get_write_buffer_size()


@pytest.mark.usefixtures("way")
async def test_reading_stops_and_goes_on_as_asked() -> None:
    async with opened() as place:
        client, seen = await place.client()
        other, seen_other = await place.client()
        seen.transport.pause_reading()
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(client, b"held back")
        await loop.sock_sendall(other, b"looked at since")
        await seen_other.until(lambda: len(seen_other.data) == 15)
        assert b"" == seen.data
        seen.transport.resume_reading()
        await seen.until(lambda: seen.data == b"held back")


@pytest.mark.usefixtures("way")
async def test_much_at_once_comes_whole_and_so_does_the_end() -> None:
    """More than one turn reads, and the client may be gone before the first."""
    much = os.urandom(12 * READ_BYTES + 1)
    async with opened() as place:
        client, seen = await place.client()
        sending = asyncio.create_task(asyncio.get_running_loop().sock_sendall(client, much))
        sending.add_done_callback(lambda _: client.close())
        await seen.until(lambda: seen.lost)
        assert much == seen.data
        assert ["made", "eof", "lost"] == seen.told


@pytest.mark.usefixtures("way")
async def test_who_only_stopped_sending_still_gets_the_answer() -> None:
    async with opened(stays_after_eof=True) as place:
        client, seen = await place.client()
        await asyncio.get_running_loop().sock_sendall(client, b"question")
        client.shutdown(socket.SHUT_WR)
        await seen.until(lambda: seen.told[-1] == "eof")
        assert b"question" == seen.data
        seen.transport.write(b"answer")
        seen.transport.close()
        assert b"answer" == await receive_all(client)


@pytest.mark.usefixtures("way")
async def test_who_leaves_is_told_of_once() -> None:
    async with opened() as place:
        client, seen = await place.client()
        client.close()
        await seen.until(lambda: "lost" in seen.told)
        assert ["made", "eof", "lost"] == seen.told


@pytest.mark.usefixtures("way")
async def test_what_was_sent_before_a_reset_is_received() -> None:
    async with opened() as place:
        client, seen = await place.client()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.send(b"a click, and gone")
        client.close()
        await seen.until(lambda: len(seen.told) > 1)
        assert b"a click, and gone" == seen.data


@pytest.mark.usefixtures("ours")
async def test_a_reset_ends_a_connection_that_is_not_read() -> None:
    async with opened() as place:
        client, seen = await place.client()
        seen.transport.pause_reading()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        await seen.until(lambda: seen.told[-1] == ("lost", ConnectionResetError))


@pytest.mark.usefixtures("way")
async def test_nothing_is_called_back_from_within_a_call() -> None:
    """A lane delivers many answers in a loop: a connection that turns out to be gone must not end under its hands."""
    async with opened() as place:
        client, seen = await place.client()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        before = list(seen.told)
        for _ in range(3):
            seen.transport.write(b"x" * 1000)
        assert before == seen.told
        await seen.until(lambda: len(seen.told) > len(before))
        assert seen.transport.is_closing()


@pytest.mark.usefixtures("way")
async def test_a_mistake_in_a_protocol_costs_its_connection_alone() -> None:
    def fail(_: Seen, data: bytes) -> None:
        if data == b"bad":
            raise LookupError("a mistake of ours")

    errors: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    async with opened(on_data=fail) as place:
        client, seen = await place.client()
        other, seen_other = await place.client()
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(client, b"bad")
        await loop.sock_sendall(other, b"good")
        assert b"" == await receive_all(client)
        await seen_other.until(lambda: seen_other.data == b"good")
        await seen.until(lambda: seen.told[-1] != "made")
        assert ["made"] == seen_other.told
        assert [LookupError] == [type(error["exception"]) for error in errors]


@pytest.mark.usefixtures("ours")
async def test_a_connection_ended_by_another_in_the_same_turn_gets_nothing_more() -> None:
    place: Place
    ended: list[Seen] = []

    def end_the_others(seen: Seen, _: bytes) -> None:
        for other in place.seen:
            if other is not seen and other not in ended:
                ended.append(other)
                other.transport.abort()

    async with opened(on_data=end_the_others) as place:
        clients = [(await place.client())[0] for _ in range(5)]
        for client in clients:
            client.send(b"x")                   # all are ready when the loop looks again
        first = place.seen[0]
        await first.until(lambda: sum(len(one.data) for one in place.seen) > 0)
        assert 1 == sum(len(one.data) for one in place.seen)
        assert 4 == len(ended)


@pytest.mark.usefixtures("ours")
async def test_newcomers_wait_while_there_are_no_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened() as place:
        await place.client()
        client = socket.socket()
        place.clients.append(client)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        probe = os.dup(client.fileno())      # the lowest free one: there is none below
        os.close(probe)
        place.came.clear()
        told = asyncio.Event()
        monkeypatch.setattr(logging.getLogger("tracker.web.port"), "error", lambda *_: told.set())
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (probe, hard))
            client.connect(place.listening.getsockname())      # the kernel answers for us
            await told.wait()
            assert not place.came.is_set()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        await place.came.wait()


@pytest.mark.usefixtures("way")
async def test_who_waits_in_the_queue_when_the_port_stops_can_be_taken_by_hand() -> None:
    async with opened() as place:
        place.port.stop_accepting()
        client = socket.socket()
        place.clients.append(client)
        client.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            client.connect(place.listening.getsockname())
        client.send(b"was here")
        place.listening.setblocking(True)
        connection, _ = place.listening.accept()
        assert [] == place.seen
        connection.setblocking(False)
        await place.port.take(connection)
        await place.seen[0].until(lambda: place.seen[0].data == b"was here")


@pytest.mark.usefixtures("way")
async def test_who_is_gone_when_taken_by_hand_costs_nothing() -> None:
    async with opened() as place:
        place.port.stop_accepting()
        client = socket.create_connection(place.listening.getsockname())
        place.listening.setblocking(True)
        connection, _ = place.listening.accept()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        connection.setblocking(False)
        await place.port.take(connection)
        for one in place.seen:
            await one.ended()


@pytest.mark.usefixtures("way")
async def test_a_mistake_when_a_connection_is_made_costs_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    errors: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    async with opened() as place:
        made = Seen.connection_made

        def fail(seen: Seen, transport: asyncio.BaseTransport) -> None:
            made(seen, transport)
            raise LookupError("a mistake of ours")

        with monkeypatch.context() as patched:
            patched.setattr(Seen, "connection_made", fail)
            await place.client()
        client, seen = await place.client()
        await asyncio.get_running_loop().sock_sendall(client, b"fine")
        await seen.until(lambda: seen.data == b"fine")
        assert [LookupError] == [type(error["exception"]) for error in errors]


# The two ways of a port


@pytest.mark.usefixtures("ours")
@pytest.mark.parametrize("address", [host for host in ("127.0.0.1", "::1") if has_address(host)])
def test_both_name_the_peer_alike(address: str) -> None:
    listening = open_sockets([address], 0, setting="")[0][0]
    with contextlib.closing(listening), socket.socket(listening.family) as client:
        assert port.accept(listening) is None
        client.connect(listening.getsockname())
        newcomer = port.accept(listening)
        assert newcomer is not None
        fd, peer = newcomer
        assert address == peer
        assert not os.get_blocking(fd)
        assert not os.get_inheritable(fd)
        os.close(fd)
    with pytest.raises((OSError, ValueError)):
        port.accept(listening)


class Noted:
    """In the place of a wire."""

    def __init__(self, told: list[Any], name: int, wires: list[Any], ends: int | None) -> None:
        self.told, self.name, self.wires, self.ends = told, name, wires, ends

    def received(self, data: bytes) -> None:
        self.told.append((self.name, data))
        if self.ends is not None:
            self.wires[self.ends] = None

    def woken(self, events: int) -> None:
        self.told.append((self.name, events))


def turn(receive: Callable[..., None], acts: list[tuple[str, bytes]], ends: int | None) -> list[Any]:
    """What one turn tells, when these peers have done that."""
    told: list[Any] = []
    poll, wires = select.epoll(), list[Any]()
    pairs = [socket.socketpair() for _ in acts]
    wires.extend([None] * (max(ours.fileno() for ours, _ in pairs) + 1))
    try:
        for name, ((ours, theirs), (act, data)) in enumerate(zip(pairs, acts, strict=True)):
            ours.setblocking(False)
            wires[ours.fileno()] = Noted(told, name, wires, pairs[ends % len(pairs)][0].fileno() if ends is not None else None)
            poll.register(ours.fileno(), OUT if act == "writable" else 0 if act == "paused" else IN)
            if act == "unknown":
                wires[ours.fileno()] = None
            if data:
                theirs.send(data)
            if act in ("ends", "paused"):
                theirs.close()
        receive(poll, wires)
        return told
    finally:
        poll.close()
        for ours, theirs in pairs:
            ours.close()
            theirs.close()


@given(
    st.lists(st.tuples(st.sampled_from(["sends", "ends", "writable", "paused", "unknown"]), st.binary(max_size=300)), min_size=1,
             max_size=8),
    st.none() | st.integers(0, 7),
)
def test_a_turn_tells_the_same_in_both_ways(acts: list[tuple[str, bytes]], ends: int | None) -> None:
    if not port.HAS_EPOLL:
        return
    assert turn(port.receive_in_python, acts, ends) == turn(port.receive, acts, ends)


@pytest.mark.usefixtures("ours")
def test_a_turn_reads_no_more_than_its_share_of_one_connection() -> None:
    assert [(0, b"x" * READ_BYTES)] == turn(port.receive, [("sends", b"x" * (READ_BYTES + 10_000))], None)


@pytest.mark.usefixtures("ours")
@pytest.mark.usefixtures("ours")
def test_a_turn_hears_so_many_connections_and_leaves_the_others_to_the_next() -> None:
    assert port.TURN_CONNECTIONS == len(turn(port.receive, [("sends", b"x")] * (port.TURN_CONNECTIONS + 1), None))


@pytest.mark.parametrize("wrong", [(), (1,), (1, []), ("poll", []), (select.epoll, [])])
def test_a_turn_without_a_poll_is_a_mistake(wrong: tuple[Any, ...]) -> None:
    with pytest.raises((TypeError, AttributeError, OSError, ValueError)):
        port.receive(*wrong)


@pytest.mark.usefixtures("ours")
def test_sending_says_how_much_went_and_that_nobody_is_there() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        ours.setblocking(False)
        assert 5 == wire.send(ours.fileno(), b"hello")
        assert 3 == wire.send(ours.fileno(), bytearray(b"you"))
        assert b"helloyou" == theirs.recv(100)
        sent = 0
        while more := wire.send(ours.fileno(), b"x" * 100_000):
            sent += more
        assert sent > 100_000
        theirs.close()
        with pytest.raises(ConnectionError):
            wire.send(ours.fileno(), b"hello")


def test_a_port_is_what_serves_here(way: str) -> None:
    """Else all of the above would test the loop."""

    async def run() -> None:
        async with opened() as place:
            await place.client()
            assert isinstance(place.port, Port) == (way != "loop")
            assert isinstance(place.seen[0].transport, Wire) == (way != "loop")

    asyncio.run(run())
