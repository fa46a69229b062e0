"""HTTP as bytes: what a test sends is what leaves, and what came back is taken apart without forgiving anything."""

from __future__ import annotations

import contextlib
import re
import socket
from dataclasses import dataclass
from typing import Self

from lane_server import KEYRING, LaneServer

SENTINEL = b"GET /sentinel HTTP/1.1\r\nHost: a\r\n\r\n"
_TOKEN = re.compile(rb"(?<![0-9A-Za-z%])[0-9a-v]{32}(?![0-9A-Za-z])")


@dataclass(frozen=True)
class Answer:
    """One response. `headers` by lower-case name; a repeated header is a mistake of ours and fails."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes
    version: bytes

    @property
    def location(self) -> bytes | None:
        """The Location, with its click id (verified) replaced by one constant."""
        found = self.headers.get(b"location")
        if found is None:
            return None
        for token in _TOKEN.findall(found):
            KEYRING.verify(token)
        return _TOKEN.sub(b"TOKEN", found)

    @property
    def tokens(self) -> list[bytes]:
        """The click ids in the Location."""
        return _TOKEN.findall(self.headers.get(b"location", b""))


class Client:
    """One connection. Everything raises after 20 s, so that a test that waits for what never comes fails."""

    def __init__(self, port: int, *, receive_bytes: int = 0) -> None:
        self.socket = socket.socket()
        if receive_bytes:      # what the kernel may keep of the answers while nobody reads
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.settimeout(20)
        self.socket.connect(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send all of it; a server that has closed already is no error here."""
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            self.socket.sendall(data)

    def answer(self, *, head: bool = False) -> Answer | None:
        """The next answer, interim ones passed over; None when the server has closed."""
        while b"\r\n\r\n" not in self._buffer:
            if not self._more():
                assert not self._buffer, "closed in the middle of a head"
                return None
        end = self._buffer.index(b"\r\n\r\n")
        raw = bytes(self._buffer[:end])
        del self._buffer[:end + 4]
        first, *lines = raw.split(b"\r\n")
        line = re.fullmatch(rb"(HTTP/[12]\.[01]) (\d{3}) [A-Za-z -]+", first)
        assert line, first
        status = int(line[2])
        if status < 200:
            return self.answer(head=head)
        headers: dict[bytes, bytes] = {}
        for text in lines:
            header = re.fullmatch(rb"([A-Za-z-]+): ([ -~]*)", text)
            assert header, text
            assert header[1].lower() not in headers, text
            headers[header[1].lower()] = header[2]
        assert b"transfer-encoding" not in headers
        length = 0 if head else int(headers[b"content-length"])
        while len(self._buffer) < length:
            assert self._more(), "closed in the middle of a body"
        body = bytes(self._buffer[:length])
        del self._buffer[:length]
        return Answer(status, headers, body, line[1])

    def ask(self, data: bytes, *, head: bool = False) -> Answer:
        """Send, and take the answer."""
        self.send(data)
        answer = self.answer(head=head)
        assert answer is not None, "closed without an answer"
        return answer

    def assert_in_step(self) -> None:
        """The connection is open and owes nothing: the next request gets the next answer."""
        assert b"<>" == self.ask(SENTINEL).body

    def assert_swept(self, server: LaneServer, seconds: int) -> None:
        """The server ends the connection, without a word, when so many seconds are over, and not before.

        What was sent has to be with the server first: it is, once a younger connection has been answered.
        """
        with Client(server.port) as other:
            other.assert_in_step()
        server.seconds_pass(seconds)
        self.assert_silent()
        server.seconds_pass(1)
        assert b"" == self.rest()

    def assert_silent(self) -> None:
        """Open, and nothing has come."""
        self.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            assert self.socket.recv(1) is None, "closed, or an answer"
        self.socket.settimeout(20)

    def rest(self) -> bytes:
        """Everything until the server closes."""
        while self._more():
            pass
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest

    def _more(self) -> bool:
        try:
            data = self.socket.recv(1 << 16)
        except ConnectionResetError:
            return False
        self._buffer += data
        return bool(data)


def click(slug: bytes = b"open", query: bytes = b"", *headers: bytes, method: bytes = b"GET") -> bytes:
    """A plain click."""
    target = b"/c/" + slug + (b"?" + query if query else b"")
    return b"%b %b HTTP/1.1\r\nHost: go.example\r\n%b\r\n" % (method, target, b"".join(header + b"\r\n" for header in headers))


def post(body: bytes = b"", target: bytes = b"/echo") -> bytes:
    """A request that aiohttp answers with its body."""
    return b"POST %b HTTP/1.1\r\nHost: go.example\r\nContent-Length: %d\r\n\r\n%b" % (target, len(body), body)
