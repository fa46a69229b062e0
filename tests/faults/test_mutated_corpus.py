"""The corpus with its bytes changed at random: nobody foresaw these requests. Directly, and behind nginx and HAProxy.

What each should be answered nobody can say; that it is answered once, counted once, and harms nobody who comes after, all can.
"""

from __future__ import annotations

import contextlib
import random
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from corpus import CASES, OURS, assert_own_answer, last_word, raw_of, tracker_with_corpus_links, visits
from fronts import Witness, haproxy, nginx
from judge import all_is_shipped, assert_verified
from raw_http import Answer, Client
from tracker_process import until

SILENCE_SECONDS = 0.1      # of a proxy that waits for more: then we stop sending
SEED = 38
ROUNDS = [250, pytest.param(10_000, marks=[pytest.mark.nightly, pytest.mark.timeout(3_600)])]

WHOLE = [raw_of(case) for case in CASES if len(raw_of(case)) < 2_000 and "head" not in case]      # an answer to HEAD has no end
PIECES = [
    b"\r\n", b"\n", b"\r", b" ", b"\t", b"\0", b":", b"\xff", b"\r\n\r\n", b"Content-Length: 5\r\n", b"Content-Length: 42\r\n",
    b"Transfer-Encoding: chunked\r\n", b"0\r\n\r\n", b"Connection: close\r\n", b"Upgrade: h2c\r\nConnection: upgrade\r\n",
    b"Expect: 100-continue\r\n", b"Host: a\r\n", b"HTTP/1.0", b"GET /c/open HTTP/1.1\r\nHost: a\r\n\r\n", b"%0d%0a", b"#", b"?",
]
# HTTP/0.9, which nginx still answers with a body without a head; and HEAD, as above.
UNTOLD = re.compile(rb"^[A-Za-z]+ +[^ \r\n]*[ \t]*\r?$|HEAD", re.MULTILINE)


def mutated(rng: random.Random) -> bytes:
    """One case, or the ends of two, changed in up to four places."""
    raw = bytearray(rng.choice(WHOLE))
    if rng.random() < 0.3:
        other = rng.choice(WHOLE)
        raw = raw[:rng.randrange(len(raw) + 1)] + other[rng.randrange(len(other) + 1):]
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(raw) + 1)
        kind = rng.randrange(4)
        if kind == 0:
            raw[at:at] = rng.choice(PIECES)
        elif kind == 1:
            del raw[at:at + rng.randint(1, 8)]
        elif kind == 2:
            raw[at:at + 1] = bytes([rng.randrange(256)])
        else:
            raw[at:at] = raw[at:at + rng.randint(1, 40)]
    return bytes(raw)


def mutations(many: int) -> Iterator[tuple[int, bytes]]:
    """So many mutations, numbered; the same ones each time."""
    rng = random.Random(SEED)
    number = 0
    while number < many:
        raw = mutated(rng)
        if not UNTOLD.search(raw):
            yield number, raw
            number += 1


def answers_to(port: int, raw: bytes, number: int) -> list[Answer]:
    """Every answer until the connection ends. A last word follows, which may be swallowed by what came before it."""
    answers: list[Answer] = []
    with Client(port) as client:
        client.send(raw + last_word(2 * number))
        client.socket.settimeout(SILENCE_SECONDS)
        for seconds in (SILENCE_SECONDS, 20.0):
            client.socket.settimeout(seconds)
            with contextlib.suppress(TimeoutError):
                while (answer := client.answer()) is not None:
                    answers.append(answer)
                break
            with contextlib.suppress(OSError):
                client.socket.shutdown(socket.SHUT_WR)
    return answers


@pytest.mark.fault(33)
@pytest.mark.parametrize("many", ROUNDS)
def test_mutations_directly(dsn: str, tmp_path: Path, many: int) -> None:
    """Every redirect is a visit and every visit a redirect, whatever was sent; no error of ours, no line in the log."""
    with tracker_with_corpus_links(dsn, tmp_path) as (tracker, environ):
        before = visits(tracker)
        for number, raw in mutations(many):
            answers = answers_to(tracker.public_port, raw, number)
            assert not [answer for answer in answers if answer.status in OURS], (number, raw)
            redirects = sum(answer.status == 302 for answer in answers)
            assert redirects == visits(tracker) - before, (number, raw, answers)
            assert_own_answer(tracker.public_port, 2 * number + 1)
            before += redirects + 1
        assert "Traceback" not in tracker.output
        until(lambda: all_is_shipped(dsn, tmp_path / "spool"), "every visit is a row")
        assert_verified(environ)


@pytest.mark.fault(33)
@pytest.mark.parametrize("many", ROUNDS)
@pytest.mark.parametrize("front", [nginx, haproxy], ids=["nginx", "haproxy"])
def test_mutations_behind_a_proxy(dsn: str, tmp_path: Path, front: Any, many: int) -> None:
    """We count the visits that the proxy sent; of those that it gave up while we answered it does not know how they ended."""
    with tracker_with_corpus_links(dsn, tmp_path) as (tracker, environ), contextlib.closing(Witness()) as witness, \
            front(tmp_path, tracker.public_port, kept=1, witness=witness) as port:
        before = visits(tracker)
        for number, raw in mutations(many):
            answers = answers_to(port, raw, number)
            assert_own_answer(port, 2 * number + 1)
            seen = witness.until_seen(f"sub1=last-{2 * number + 1} ", at_least=len(answers) + 1)
            assert len(answers) < len(seen), (number, raw, answers, seen)
            assert not [answer for answer in answers if answer.status in OURS], (number, raw, answers)
            assert not [one for one in seen if OURS & {one.answered, one.forwarded}], (number, raw, seen)
            redirects = sum(one.forwarded == 302 for one in seen)
            given_up = sum(one.forwarded is None and one.answered in (-1, 408, 499) for one in seen)
            counted = visits(tracker) - before
            assert redirects <= counted <= redirects + given_up, (number, raw, seen)
            before += counted
        assert "Traceback" not in tracker.output
        until(lambda: all_is_shipped(dsn, tmp_path / "spool"), "every visit is a row")
        assert_verified(environ)
