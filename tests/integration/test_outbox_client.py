"""The client that talks to strangers, against real sockets: where it connects, what it follows, how long, how much."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator, Sequence
from ipaddress import ip_network

import pytest
from receiver import Answer as Answering
from receiver import Heard, Receiver, receiver, says
from shipping import eventually

from tracker.domain.outgoing import Request
from tracker.jobs.outbox_client import ANSWER_BYTES, LOOK_UPS, Answer, LookUp, OutboxClient, SystemLookUp

PUBLIC = (ip_network("127.0.0.2/32"),)      # stands for the world: what is allowed. 127.0.0.1 stands for what is ours
SECONDS = 1.0


@pytest.fixture
def ours() -> Iterator[Receiver]:
    with receiver("127.0.0.1") as made:
        yield made


@pytest.fixture
def theirs(ours: Receiver) -> Iterator[Receiver]:
    """On the same port as ours, at another address: only the address tells them apart."""
    with receiver("127.0.0.2", ours.port) as made:
        yield made


class Names:
    """A name server: gives each answer in turn, the last one for ever, and counts."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self._answers, self.asked = list(answers), 0

    async def __call__(self, _: str, __: int) -> Sequence[str]:
        self.asked += 1
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


async def send(url: str, look_up: LookUp | None = None, **changed: str) -> Answer:
    async with OutboxClient(PUBLIC, look_up=look_up, seconds=SECONDS) as client:
        return await client.send(Request("GET", url, {"webhook-id": "1", **changed}, None))


@pytest.mark.fault(37)
async def test_a_name_that_changes_its_mind_is_asked_once_and_the_judged_address_is_the_connected_one(
    ours: Receiver, theirs: Receiver
) -> None:
    """DNS rebinding: public for the check, private for the connection. There is one question for both."""
    names = Names(["127.0.0.2"], ["127.0.0.1"])
    assert Answer("sent", 200) == await send(f"http://rebinds.example:{ours.port}/", names)
    assert (1, 1, 0) == (names.asked, theirs.connections, ours.connections)
    assert Answer("refused") == await send(f"http://rebinds.example:{ours.port}/", names)
    assert (2, 1, 0) == (names.asked, theirs.connections, ours.connections)
    assert f"rebinds.example:{ours.port}" == theirs.heard[0].headers["host"]


@pytest.mark.fault(37)
@pytest.mark.parametrize("addresses", [
    ["127.0.0.1"], ["127.0.0.2", "127.0.0.1"], ["::ffff:127.0.0.1"], ["10.0.0.1"], ["169.254.169.254"], ["fe80::1%lo"],
    ["2002:7f00:1::"],
])  # fmt: skip
async def test_a_name_with_one_address_that_may_not_be_reached_is_refused_before_anything_is_sent(
    ours: Receiver, theirs: Receiver, addresses: list[str]
) -> None:
    assert Answer("refused") == await send(f"http://t.example:{ours.port}/", Names(addresses))
    assert (0, 0) == (ours.connections, theirs.connections)


@pytest.mark.fault(37)
@pytest.mark.parametrize("host", ["127.0.0.1", "[::ffff:127.0.0.1]", "0x7f.1", "2130706433", "127.1", "0177.1", "localhost"])
async def test_however_it_is_spelled_ours_is_not_connected_to(ours: Receiver, host: str) -> None:
    """Also where a URL was saved before it was forbidden. The system's own resolver takes part."""
    assert Answer("refused") == await send(f"http://{host}:{ours.port}/")
    assert 0 == ours.connections


@pytest.mark.fault(37)
async def test_a_redirect_into_our_network_is_not_followed(ours: Receiver, theirs: Receiver) -> None:
    for status in (301, 302, 303, 307, 308):
        theirs.answer = says(f"HTTP/1.1 {status} Go\r\nLocation: {ours.url('/admin')}\r\nContent-Length: 0\r\n\r\n".encode())
        assert Answer("status", status) == await send(theirs.url("/"))
    assert (5, 0) == (theirs.connections, ours.connections)


def floods(sent: list[int]) -> Answering:
    """Ten gigabytes, as fast as they are taken; `sent` tells how much that was."""

    def flood(_: Heard, connection: socket.socket) -> None:
        piece = b"x" * 65_536
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n")
        try:
            while len(sent) < 160_000:
                connection.sendall(piece)
                sent.append(len(piece))
        except OSError:
            sent.append(0)

    return flood


@pytest.mark.fault(37)
async def test_an_endless_answer_is_cut(theirs: Receiver) -> None:
    """It is read no further than 64 kB; what is beyond stays in sockets, which hold a few MB at most."""
    sent: list[int] = []
    theirs.answer = floods(sent)
    assert Answer("too_long", 200) == await send(theirs.url("/"))
    await eventually(lambda: sent and not sent[-1])      # until the other side has noticed
    assert sum(sent) < 16 * 2**20


@pytest.mark.fault(37)
@pytest.mark.parametrize("begins", [
    b"", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n",
])  # fmt: skip
async def test_an_answer_that_never_ends_is_left_in_time(theirs: Receiver, begins: bytes) -> None:
    """One byte now and then keeps a connection busy for ever where a time limit is on reading only."""
    stop = threading.Event()

    def drip(_: Heard, connection: socket.socket) -> None:
        connection.sendall(begins)
        piece = b"1\r\nx\r\n" if b"chunked" in begins else b"x"
        while begins and not stop.wait(0.05):
            connection.sendall(piece)
        stop.wait(20)

    theirs.answer = drip
    assert Answer("timeout") == await send(theirs.url("/"))
    stop.set()


async def test_a_packed_answer_is_not_unpacked(theirs: Receiver) -> None:
    """64 kB of zeros in a few bytes are no more than these bytes."""
    packed = b"\x1f\x8b garbage"
    theirs.answer = says(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 10\r\n\r\n" + packed[:10])
    assert Answer("sent", 200) == await send(theirs.url("/"))


async def test_as_much_as_is_allowed_is_fine(theirs: Receiver) -> None:
    theirs.answer = says(b"HTTP/1.1 202 Yes\r\nContent-Length: %d\r\n\r\n" % ANSWER_BYTES + b"x" * ANSWER_BYTES)
    assert Answer("sent", 202) == await send(theirs.url("/"))


async def test_nothing_of_the_environment_and_nothing_of_earlier_answers_is_sent(
    theirs: Receiver, ours: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy would connect for us, to whatever it likes; a cookie would tie one partner's sales to another's."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, ours.url(""))
    theirs.answer = says(b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b; Path=/\r\nContent-Length: 2\r\n\r\nOK")
    async with OutboxClient(PUBLIC, look_up=Names(["127.0.0.2"]), seconds=SECONDS) as client:
        for _ in range(2):
            assert Answer("sent", 200) == await client.send(Request("GET", f"http://t.example:{theirs.port}/", {}, None))
    assert 2 == theirs.connections
    assert {"host"} == theirs.heard[1].headers.keys() - {"accept", "accept-encoding", "user-agent", "connection"}
    assert 0 == ours.connections


async def test_what_cannot_be_found_or_reached_is_told_apart(theirs: Receiver) -> None:
    async def nowhere(_: str, __: int) -> Sequence[str]:
        raise OSError("no such name")

    async def speak_no_tls(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"no TLS is spoken here\r\n")
        await writer.drain()
        writer.close()

    assert Answer("unresolved") == await send("http://t.example/", nowhere)
    assert Answer("unresolved") == await send("http://t.example/", Names([]))
    assert Answer("unresolved") == await send("http://nobody.invalid/")
    async with await asyncio.start_server(speak_no_tls, "127.0.0.2") as plain:
        assert Answer("tls") == await send(f"https://127.0.0.2:{plain.sockets[0].getsockname()[1]}/")
    theirs.close()
    assert Answer("connection") == await send(theirs.url("/"))


async def test_a_machine_without_room_for_a_thread_gives_its_place_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Danger: after 32 of them no name would be looked up until the next start."""
    look_up = SystemLookUp()

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        for _ in range(LOOK_UPS):
            with pytest.raises(OSError, match="can't start"):
                await look_up("localhost", 80)
    async with asyncio.timeout(20):
        assert await look_up("localhost", 80)
