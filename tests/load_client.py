"""A crowd of browsers in a process of its own: keep-alive connections that click as fast as answers come.

It stands on the visitors' side and shares no code with the tracker. What it keeps is its own history: every request it
sent, every click id it got *whole* (a 302 up to its last CRLF), everything that went wrong. tests/judge.py holds that
against the database.

    python tests/load_client.py PORT CONNECTIONS LINKS OUT [PAUSE]

PAUSE: seconds between an answer and the connection's next request, for a crowd that leaves the machine room; else 0.

Says "acked N" on standard output now and then. Ends when its input ends: after the answers that are on their way it
writes OUT, one line "id request" for each acknowledged click, and the rest of the history as JSON on standard output.
Each request has a number and says it as sub1, so that a row can be held against the request it came from.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sys
import time
from collections import Counter
from pathlib import Path
from typing import cast

import uvloop

USER_AGENTS = [line.encode() for line in (Path(__file__).parent / "data" / "user_agents.txt").read_text().splitlines()]
REFERRERS = (
    b"", b"", b"", b"Referer: https://www.facebook.com/\r\n", b"Referer: https://www.google.com/search?q=shoes\r\n",
    b"Referer: https://news.example/a/b?c=%20d\r\n",
)
QUERIES = (
    b"", b"&sub2=a%20b", b"&utm_source=newsletter&utm_campaign=spring%2026", b"&ext=x-1&color=blue",
    b"&sub3=%E2%82%AC&gclid=Cj0KCQ",
)

TELL_EVERY = 200       # acknowledged clicks between two lines of progress
RECONNECT_SECONDS = 0.02
LAST_ANSWER_SECONDS = 5.0
SILENCE_SECONDS = 60.0       # without a single answer: give up, so that no test waits for ever

_HEAD = re.compile(rb"HTTP/1\.1 (\d{3}) [^\r\n]*\r\n(?:[^\r\n]+\r\n)*\r\n")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_LOCATION = re.compile(rb"\r\nLocation: https://shop\.example/p\?cid=([0-9a-v]{32})&s=(\d+)\r\n")
_CLOSE = re.compile(rb"\r\nconnection: *close\r\n", re.IGNORECASE)


class Crowd:
    """The history, and what all connections share."""

    def __init__(self, port: int, links: int, pause: float) -> None:
        self.port, self.links, self.pause = port, links, pause
        self.next_request = 0
        self.sent = 0
        self.resent: Counter[int] = Counter()      # requests that were sent again after their connection ended unanswered
        self.acks: list[tuple[bytes, int]] = []
        self.statuses: Counter[int] = Counter()
        self.unanswered_reused = self.unanswered_fresh = 0      # on a connection that had served before, and on one that had not
        self.torn = self.mismatched = self.refused = 0
        self.odd: list[str] = []
        self.slowest = 0.0         # seconds from a request to the whole answer
        self.stopping = False
        self._told = 0

    def number(self) -> int:
        self.next_request += 1
        return self.next_request - 1

    def request(self, number: int) -> bytes:
        link = number % self.links + 1
        target = b"/c/l%d?sub1=%d%b" % (link, number, QUERIES[number // 3 % len(QUERIES)])
        agent = USER_AGENTS[number * 7 % len(USER_AGENTS)]
        return b"GET %b HTTP/1.1\r\nHost: go.example\r\nUser-Agent: %b\r\nAccept: text/html,*/*;q=0.8\r\n%b\r\n" % (
            target, agent, REFERRERS[number // 5 % len(REFERRERS)]
        )

    def take(self, answer: bytes, status: int, number: int) -> None:
        """One whole answer to request `number`."""
        self.statuses[status] += 1
        if status != 302:
            self.note(answer)
            return
        location = _LOCATION.search(answer)
        if location is None or int(location[2]) != number:
            self.mismatched += 1
            self.note(b"%d got " % number + answer)
            return
        self.acks.append((location[1], number))
        if len(self.acks) >= self._told + TELL_EVERY:
            self._told = len(self.acks)
            print("acked", self._told, flush=True)

    def note(self, what: bytes) -> None:
        if len(self.odd) < 10:
            self.odd.append(what[:300].decode("latin-1"))


class Browser(asyncio.Protocol):
    """One connection: one request at a time, honours `Connection: close`, sends a GET again that nobody began to answer."""

    def __init__(self, crowd: Crowd, number: int) -> None:
        self.crowd, self.number = crowd, number
        self.buffer = b""
        self.served = 0
        self.waiting = False       # for the answer to `number`
        self.closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.send()

    def send(self) -> None:
        self.waiting = True
        self.crowd.sent += 1
        self.sent_at = time.monotonic()
        self.transport.write(self.crowd.request(self.number))

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head = _HEAD.match(self.buffer)
        if head is None:
            return
        length = _LENGTH.search(head[0])
        end = head.end() + (int(length[1]) if length else 0)
        if len(self.buffer) < end:
            return
        answer, self.buffer = self.buffer[:end], self.buffer[end:]
        self.crowd.slowest = max(self.crowd.slowest, time.monotonic() - self.sent_at)
        self.waiting = False
        self.served += 1
        self.crowd.take(answer, int(head[1]), self.number)
        self.number = self.crowd.number()
        if self.crowd.stopping or _CLOSE.search(head[0]):
            self.transport.close()
        elif self.buffer:
            self.crowd.mismatched += 1      # an answer to nothing
            self.crowd.note(self.buffer)
            self.transport.close()
        elif self.crowd.pause:
            asyncio.get_running_loop().call_later(self.crowd.pause, self.go_on)
        else:
            self.send()

    def go_on(self) -> None:
        """After a pause; the connection may have ended in it, and then another one sends the request."""
        if self.crowd.stopping:
            self.transport.close()
        elif not self.transport.is_closing():
            self.send()

    def connection_lost(self, exc: Exception | None) -> None:
        crowd = self.crowd
        if self.waiting:
            if self.buffer:
                crowd.torn += 1
                self.number = crowd.number()
            else:
                crowd.unanswered_reused += self.served > 0
                crowd.unanswered_fresh += self.served == 0
                crowd.resent[self.number] += 1
        self.closed.set_result(None)


async def browse(crowd: Crowd) -> None:
    """Connection after connection, until told to stop."""
    loop = asyncio.get_running_loop()
    number = crowd.number()
    while not crowd.stopping:
        try:
            _, browser = await loop.create_connection(lambda: Browser(crowd, number), "127.0.0.1", crowd.port)  # noqa: B023 - used at once
        except OSError:
            crowd.refused += 1
            await asyncio.sleep(RECONNECT_SECONDS)
            continue
        await browser.closed
        number = browser.number


async def main(port: int, connections: int, links: int, out: Path, pause: float = 0.0) -> None:
    loop = asyncio.get_running_loop()
    crowd = Crowd(port, links, pause)
    told_to_stop = asyncio.Event()
    loop.add_reader(0, told_to_stop.set)
    browsing = [asyncio.create_task(browse(crowd)) for _ in range(connections)]
    before = -1
    while not told_to_stop.is_set():
        assert before < len(crowd.acks), f"no redirect in {SILENCE_SECONDS:g} s"
        before = len(crowd.acks)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(told_to_stop.wait(), SILENCE_SECONDS)
    loop.remove_reader(0)
    crowd.stopping = True
    _, stuck = await asyncio.wait(browsing, timeout=LAST_ANSWER_SECONDS)
    for task in stuck:
        task.cancel()
    out.write_bytes(b"".join(b"%b %d\n" % ack for ack in crowd.acks))
    history = {
        "sent": crowd.sent, "resent": dict(crowd.resent), "statuses": dict(crowd.statuses), "torn": crowd.torn,
        "refused": crowd.refused, "slowest": crowd.slowest,
        "unanswered_reused": crowd.unanswered_reused, "unanswered_fresh": crowd.unanswered_fresh, "mismatched": crowd.mismatched,
        "stuck": len(stuck), "requests": crowd.next_request, "odd": crowd.odd,
    }
    print(json.dumps(history), flush=True)


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), *map(float, sys.argv[5:])))
