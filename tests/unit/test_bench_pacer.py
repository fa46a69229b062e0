"""The pacer: requests leave by the clock, not when the server is ready for them, and latency counts from the clock."""

import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import pytest

from bench.kit.pacer import Pacer, answer_length, interval_ns
from bench.kit.timer import ring

ANSWER = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n"
LONGER = b"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\ncontent-length: 12\r\nX: y\r\n\r\n"


@contextmanager
def server(answer: Callable[[socket.socket, int, bytes], None]) -> Iterator[int]:
    """Takes one connection and calls `answer` with it, the request's number and its bytes; yields the port."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with closing(connection):
                for number in range(10_000):
                    request = connection.recv(8192)
                    if not request:
                        return
                    answer(connection, number, request)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        thread.join(10)


@pytest.mark.parametrize(("rate", "expected"), [(1, 10**9), (10_000, 100_000), (3, 333_333_333)])
def test_requests_are_a_whole_number_of_nanoseconds_apart(rate: int, expected: int) -> None:
    assert expected == interval_ns(rate)


def test_what_a_stalled_server_keeps_waiting_is_late_by_the_clock() -> None:
    """No coordinated omission: with one connection and 50 ms of silence, a closed loop sees one late answer of sixty."""

    def stall_once(connection: socket.socket, number: int, _: bytes) -> None:
        if number == 0:
            time.sleep(0.05)
        connection.sendall(ANSWER)

    with server(stall_once) as port:
        pacer = Pacer(port, [b"GET / HTTP/1.1\r\n\r\n"], rate=1000, total=60, connections=1, serial=0)
        pacer.run()
        pacer.close()
    assert 60 == len(pacer.latencies)
    # The request due after n ms could leave after 50 ms at the earliest.
    assert 25 <= sum(latency >= 25e6 for latency in pacer.latencies)
    assert 25 <= sum(late >= 25e6 for late in pacer.lateness)


def test_serials_are_used_once_and_refusals_are_counted() -> None:
    seen = []

    def refuse_second(connection: socket.socket, number: int, request: bytes) -> None:
        seen.append(request)
        connection.sendall(ANSWER if number != 1 else b"HTTP/1.1 404 Not Found\r\ncontent-length: 3\r\n\r\nno!")

    with server(refuse_second) as port:
        pacer = Pacer(port, [b"GET /\x01 HTTP/1.1\r\n\r\n"], rate=1000, total=3, connections=1, serial=70)
        pacer.run()
        pacer.close()
    assert [b"GET /71 HTTP/1.1\r\n\r\n", b"GET /72 HTTP/1.1\r\n\r\n", b"GET /73 HTTP/1.1\r\n\r\n"] == seen
    assert 1 == pacer.refused


def test_an_answer_in_pieces_is_one_answer() -> None:
    def in_pieces(connection: socket.socket, _: int, __: bytes) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in (ANSWER[:10], ANSWER[10:-2], ANSWER[-2:]):
            connection.sendall(piece)

    with server(in_pieces) as port:
        pacer = Pacer(port, [b"GET / HTTP/1.1\r\n\r\n"], rate=1000, total=20, connections=1, serial=0)
        pacer.run()
        pacer.close()
    assert 20 == len(pacer.latencies)


def test_a_server_that_hangs_up_is_an_error() -> None:
    """A run that lost answers must not become a figure."""
    with server(lambda connection, *_: connection.shutdown(socket.SHUT_RDWR)) as port:
        pacer = Pacer(port, [b"GET / HTTP/1.1\r\n\r\n"], rate=1000, total=5, connections=1, serial=0)
        with pytest.raises(OSError, match="closed"):
            pacer.run()
        pacer.close()


def test_a_server_that_says_nothing_is_an_error_too() -> None:
    """While the clock goes on ringing, a wait for any event would never end."""
    with server(lambda *_: None) as port:
        pacer = Pacer(port, [b"GET / HTTP/1.1\r\n\r\n"], rate=1000, total=5, connections=1, serial=0)
        pacer.patience_ns = 50_000_000
        with pytest.raises(OSError, match="1 answers did not come"):
            pacer.run()
        pacer.close()


@pytest.mark.parametrize(("data", "expected"), [
    (b"HTTP/1.1 302 Found\r\nLocation", 0),
    (ANSWER, len(ANSWER)),
    (LONGER, len(LONGER) + 12),
    (b"HTTP/1.1 204 No Content\r\n\r\n", 27),
])
def test_where_an_answer_ends(data: bytes, expected: int) -> None:
    assert expected == answer_length(data)


def test_the_bell_rings_at_its_first_moment_and_then_again() -> None:
    first = time.monotonic_ns() + 2_000_000
    bell = ring(first, 1_000_000)
    rung = 0
    with closing(select.epoll()) as epoll:
        epoll.register(bell, select.EPOLLIN)
        while rung < 3:
            assert epoll.poll(10)
            rung += int.from_bytes(os.read(bell, 8), sys.byteorder)
            assert time.monotonic_ns() >= first + (rung - 1) * 1_000_000
    os.close(bell)
