"""The corpus of raw requests against the real program, directly and through the proxies that people put before it.

A proxy and we read the same bytes. Where the two disagree on where a request ends, one request gets two answers, somebody
gets another's, or a click is stored that the proxy never saw. So nginx and HAProxy share one kept connection to us among all
cases, and each case is followed by a visitor who must get his own answer on it.
"""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path
from typing import Any

import pytest
from corpus import (
    CASES,
    OURS,
    Case,
    assert_own_answer,
    everything_answered,
    is_last,
    last_word,
    raw_of,
    tracker_with_corpus_links,
    visits,
)
from fronts import Seen, Witness, haproxy, nginx
from judge import all_is_shipped, assert_verified
from raw_http import Answer, Client
from tracker_process import TrackerProcess, until

NO_HEADS = "HTTP/0.9"      # nginx still answers it, and as it was: a body, no head
ELSEWHERE = {200: 404}      # the corpus knows pages of the tests' server, which the program has not


def assert_played_directly(tracker: TrackerProcess, case: Case, number: int) -> int:
    """Every answer as the corpus says, and as many visits counted as redirects given; returns these."""
    with Client(tracker.public_port) as client:
        client.send(raw_of(case) + (last_word(number) if case["after"] == "open" else b""))
        if case["after"] in ("waits", "silent", "any"):
            answers = [client.answer(head=at in case.get("head", ())) for at in range(len(case["answers"]))]
        else:
            answers = [*everything_answered(client, case)]
    expected = [ELSEWHERE.get(status, status) for status in case["answers"]] + [302] * (case["after"] == "open")
    assert expected == [answer and answer.status for answer in answers]
    if case["after"] == "open":
        assert answers[-1] is not None
        assert is_last(answers[-1], number)
    return expected.count(302)


def assert_played_behind(port: int, case: Case, number: int, witness: Witness) -> list[Seen]:
    """No more answers than the proxy saw requests, and the last one to the last. Returns what it saw."""
    with Client(port) as client:
        unfinished = case["after"] in ("waits", "silent")
        client.send(raw_of(case) + (b"" if unfinished else last_word(2 * number)))
        answers: list[Answer] = []
        if unfinished:
            answers = [answer for _ in case["answers"] if (answer := client.answer()) is not None]
            with contextlib.suppress(OSError):      # to nginx whoever stops sending has gone, his unanswered requests with him
                client.socket.shutdown(socket.SHUT_WR)
        if case["name"] == NO_HEADS:
            client.rest()
        answers += everything_answered(client, case)
    assert not [answer for answer in answers[:-1] if is_last(answer, 2 * number)], "an answer behind the last"
    assert not [answer for answer in answers if answer.status in OURS], answers
    assert_own_answer(port, 2 * number + 1)
    seen = witness.until_seen(f"sub1=last-{2 * number + 1} ", at_least=len(answers) + 1)
    assert len(answers) < len(seen), "more answers than requests"
    return seen


@pytest.mark.fault(27, 28, 30, 33, 34)
def test_the_corpus_directly(dsn: str, tmp_path: Path) -> None:
    """The whole program, not only its lanes: limits, links and handlers as they are deployed."""
    found: list[str] = []
    with tracker_with_corpus_links(dsn, tmp_path) as (tracker, environ):
        before = visits(tracker)
        for number, case in enumerate(CASES):
            try:
                given = assert_played_directly(tracker, case, number)
                assert given == visits(tracker) - before, "visits were counted that were not answered, or the other way round"
            except (AssertionError, TimeoutError) as wrong:
                found.append(f"{case['name']}: {wrong}")
            before = visits(tracker)
        assert [] == found, "\n".join(found)
        assert "Traceback" not in tracker.output
        until(lambda: all_is_shipped(dsn, tmp_path / "spool"), "every visit is a row")
        assert_verified(environ)


@pytest.mark.fault(33)
@pytest.mark.parametrize("front", [nginx, haproxy], ids=["nginx", "haproxy"])
def test_the_corpus_behind_a_proxy(dsn: str, tmp_path: Path, front: Any) -> None:
    """One request gets one answer, and we count the clicks that the proxy sent: not one that it did not see."""
    found: list[str] = []
    forwarded = 0
    with tracker_with_corpus_links(dsn, tmp_path) as (tracker, environ), contextlib.closing(Witness()) as witness, \
            front(tmp_path, tracker.public_port, kept=1, witness=witness) as port:
        before = visits(tracker)
        for number, case in enumerate(CASES):
            seen: list[Seen] = []
            try:
                seen = assert_played_behind(port, case, number, witness)
                redirects = sum(request.forwarded == 302 for request in seen)
                assert redirects == visits(tracker) - before, "we counted other visits than the proxy forwarded"
                assert not [request for request in seen if OURS & {request.answered, request.forwarded}]
            except (AssertionError, TimeoutError) as wrong:
                found.append(f"{case['name']}: {wrong}\n{seen}")
            before = visits(tracker)
            forwarded += sum(request.forwarded is not None for request in seen)
        assert [] == found, "\n".join(found)
        assert forwarded > 1.5 * len(CASES), "the proxy kept the corpus to itself: nothing is proved"
        assert "Traceback" not in tracker.output
        until(lambda: all_is_shipped(dsn, tmp_path / "spool"), "every visit is a row")
        assert_verified(environ)
