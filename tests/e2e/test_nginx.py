"""Behind nginx, which shares its kept connections among all visitors: clicks and postbacks follow each other on each."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from demo_world import TOKEN, make_world, value
from fronts import nginx
from judge import assert_verified
from tracker_process import KEYRING, running, tracker_environ, until
from visitor import click

REQUESTS = 6_000
VISITORS = 40              # at once; nginx takes whichever kept connection is free for each request
OTHERS = 0.2               # of the requests are not clicks: more than life has, to mix well


class Visitor:
    """One kept connection to nginx, one request at a time; each answer is held against its request."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sold: str) -> None:
        self.reader, self.writer, self.sold = reader, writer, sold

    async def ask(self, request: bytes) -> tuple[int, bytes, bytes]:
        self.writer.write(request)
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
        assert length, head
        return int(head[9:12]), head, await self.reader.readexactly(int(length[1]))

    async def click(self, number: int) -> str:
        """A click with a label of its own: the answer must name it, and carry an id."""
        status, head, body = await self.ask(b"GET /c/l%d?sub1=n%d HTTP/1.1\r\nHost: go.example\r\n\r\n" % (number % 3 + 1, number))
        location = re.search(rb"\r\nLocation: https://shop\.example/p\?cid=([0-9a-v]{32})&s=n%d\r\n" % number, head)
        assert (302, b"") == (status, body)
        assert location, (number, head)
        assert number % 3 + 1 == KEYRING.verify(location[1]).link
        return "click"

    async def unknown(self, number: int) -> str:
        status, _, body = await self.ask(b"GET /c/nobody-%d HTTP/1.1\r\nHost: go.example\r\n\r\n" % number)
        assert (404, "unknown_link") == (status, json.loads(body)["code"])
        return "unknown"

    async def sale(self, number: int) -> str:
        """A form with a sale of its own, or an amount that is refused: the status tells them apart."""
        amount = -1 if number % 5 == 0 else number
        form = f"token={TOKEN}&click_id={self.sold}&txid=order-{number}&amount={amount}".encode()
        status, _, body = await self.ask(
            b"POST /postback HTTP/1.1\r\nHost: go.example\r\nContent-Type: application/x-www-form-urlencoded\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(form), form)
        )
        said = json.loads(body)
        if amount < 0:
            assert (400, "bad_amount") == (status, said["code"])
            return "refused"
        assert (200, "recorded") == (status, said["status"])
        return "sale"

    async def head(self, number: int) -> str:
        self.writer.write(b"HEAD /c/l1?sub1=h%d HTTP/1.1\r\nHost: go.example\r\n\r\n" % number)
        answer = await self.reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 302 ")
        assert b"&s=h%d\r\n" % number in answer
        return "head"


async def visit(port: int, sold: str, numbers: Iterator[int], rng: random.Random, done: Counter[str]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    visitor = Visitor(reader, writer, sold)
    try:
        for number in numbers:
            others = [visitor.sale, visitor.sale, visitor.unknown, visitor.head]
            ask = rng.choice(others) if rng.random() < OTHERS else visitor.click
            done[await ask(number)] += 1
    finally:
        writer.close()
        await writer.wait_closed()


def test_every_answer_reaches_the_request_it_belongs_to(dsn: str, tmp_path: Path) -> None:
    """On a shared connection an answer that overtakes another sends a visitor to somebody else's page, or pays the wrong order."""
    make_world(dsn, links=3)
    environ = tracker_environ(dsn, tmp_path / "spool", TRACKER_TRUSTED_PROXIES="127.0.0.0/8")
    with running("serve", environ) as tracker, nginx(tmp_path, tracker.public_port, kept=VISITORS) as port:
        sold = click(tracker.public_port).token
        until(lambda: value(dsn, "SELECT count(*) FROM clicks") == 1, "the click has a row")
        numbers, done, rng = iter(range(1, REQUESTS + 1)), Counter[str](), random.Random(1)

        async def crowd() -> None:
            async with asyncio.timeout(60), asyncio.TaskGroup() as group:
                for _ in range(VISITORS):
                    group.create_task(visit(port, sold, numbers, rng, done))

        asyncio.run(crowd())
        assert REQUESTS == done.total()
        assert min(done[kind] for kind in ("unknown", "sale", "refused", "head")) > 50

        until(lambda: value(dsn, "SELECT count(*) FROM clicks") == done["click"] + done["head"] + 1, "every visit is one row")
        assert done["sale"] == value(dsn, "SELECT count(*) FROM conversions WHERE amount = substr(txid, 7)::numeric")
        assert done["sale"] == value(dsn, "SELECT count(*) FROM conversions")
        metrics = tracker.metrics()
        assert (done["click"] + 1, done["head"]) == tuple(metrics["tracker_clicks_total", kind] for kind in ("click", "head"))
        until(lambda: 0 < tracker.metric("tracker_connections") <= VISITORS, "nginx holds on to its connections")
        assert_verified(environ)
