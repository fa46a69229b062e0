"""A partner's tracker for tests: a real HTTP receiver that keeps what it is sent, byte for byte, and answers as it is told.

Threads and sockets, no library of ours: what it heard is what went over the wire. Use `receiver`.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from standardwebhooks import Webhook

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK"
BROKEN = b"HTTP/1.1 500 Oops\r\nContent-Length: 6\r\n\r\nsecret"


@dataclass(frozen=True, slots=True)
class Heard:
    """One request."""

    method: str
    target: str
    headers: dict[str, str]      # names in lower case
    body: str

    @property
    def query(self) -> dict[str, str]:
        """Its parameters; one that came twice would be lost, so that fails."""
        pairs = parse_qsl(urlsplit(self.target).query, keep_blank_values=True, strict_parsing=True)
        assert len(pairs) == len(dict(pairs))
        return dict(pairs)

    def assert_signed(self, secret: str) -> None:
        """By another's implementation of Standard Webhooks: of a GET the target is signed. Raises WebhookVerificationError."""
        Webhook(secret).verify(self.body if self.method == "POST" else self.target, self.headers, json_parse=False)


Answer = Callable[[Heard, socket.socket], None]


def says(answer: bytes) -> Answer:
    """Always the same."""

    def tell(_: Heard, connection: socket.socket) -> None:
        connection.sendall(answer)

    return tell


def hangs(_: Heard, connection: socket.socket) -> None:
    """Say nothing until the other side has had enough."""
    connection.recv(1)


class Receiver:
    """Listens on `address`. `answer` may be changed at any time; `connections` counts those that came, with a request or not."""

    def __init__(self, address: str = "127.0.0.1", port: int = 0) -> None:
        self._listening = socket.create_server((address, port))
        self.port: int = self._listening.getsockname()[1]
        self.address = address
        self.answer: Answer = says(OK)
        self.connections = 0
        self._heard: list[Heard] = []
        self._changed = threading.Condition()
        self.ending = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def heard(self) -> list[Heard]:
        with self._changed:
            return list(self._heard)

    def url(self, rest: str) -> str:
        return f"http://{self.address}:{self.port}{rest}"

    def wait_for(self, count: int, *, seconds: float = 20.0) -> list[Heard]:
        """Until so many requests have come, ever."""
        with self._changed:
            met = self._changed.wait_for(lambda: len(self._heard) >= count, seconds)
            assert met, f"{len(self._heard)} requests, not {count}"
            return list(self._heard)

    def close(self) -> None:
        self.ending.set()
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        while not self.ending.is_set():
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with self._changed:
                self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError, ValueError):
            heard = _read(connection)
            with self._changed:
                self._heard.append(heard)
                self._changed.notify_all()
            self.answer(heard, connection)


def _read(connection: socket.socket) -> Heard:
    """ValueError for what ends early."""
    stream = connection.makefile("rb")
    method, target, _ = stream.readline().decode("ascii").split(" ")
    headers: dict[str, str] = {}
    while line := stream.readline().decode("ascii").rstrip("\r\n"):
        name, _, value = line.partition(":")
        assert name.lower() not in headers
        headers[name.lower()] = value.strip()
    body = stream.read(int(headers.get("content-length", "0"))).decode()
    return Heard(method, target, headers, body)


@contextlib.contextmanager
def receiver(address: str = "127.0.0.1", port: int = 0) -> Iterator[Receiver]:
    made = Receiver(address, port)
    try:
        yield made
    finally:
        made.close()
