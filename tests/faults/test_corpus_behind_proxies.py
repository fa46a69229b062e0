"""The corpus of raw requests against the real program, directly and through the proxies that people put before it.

A proxy and we read the same bytes. Where the two disagree on where a request ends, one request gets two answers, somebody
gets another's, or a click is stored that the proxy never saw. So nginx and HAProxy share one kept connection to us among all
cases, and each case is followed by a visitor who must get his own answer on it.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from demo_world import fetch, make_world
from fronts import Seen, Witness, haproxy, nginx
from judge import all_is_shipped, assert_verified
from lane_server import LINK_ROWS
from raw_http import Answer, Client, click
from tracker_process import TrackerProcess, running, tracker_environ, until

Case = dict[str, Any]
CASES: list[Case] = [
    case for case in json.loads((Path(__file__).parent.parent / "corpus" / "requests.json").read_text())
    if case["name"] != "a bug in a handler"      # the program has none to offer
]
NO_HEADS = "HTTP/0.9"      # nginx still answers it, and as it was: a body, no head

OURS = {500, 502, 504}      # what no input may cause: an error of ours, an answer the proxy cannot read, or none
ELSEWHERE = {200: 404}      # the corpus knows pages of the tests' server, which the program has not

_LINKS = """
INSERT INTO links (link_id, slug, program_id, partner_id, version, destination, fallback, channel, pass_query, referrer_policy,
                   allow_test, status, expires_at)
SELECT link_id, slug, 7, 13, version, destination, fallback, channel, pass_query, referrer_policy, allow_test, status,
       to_timestamp(expires_at_ms / 1000.0)
  FROM jsonb_to_recordset($1::text::jsonb) AS link (
       link_id int, slug text, version int, destination text, fallback text, channel text, pass_query bool, referrer_policy text,
       allow_test bool, status text, expires_at_ms bigint)
"""


@contextlib.contextmanager
def tracker_with_corpus_links(dsn: str, folder: Path) -> Iterator[tuple[TrackerProcess, dict[str, str]]]:
    """The real program, one worker, with the links that the corpus asks for."""
    make_world(dsn, links=1)
    fetch(dsn, _LINKS, json.dumps(LINK_ROWS))
    environ = tracker_environ(dsn, folder / "spool", TRACKER_WORKERS="1", TRACKER_TRUSTED_PROXIES="127.0.0.0/8")
    with running("serve", environ) as tracker:
        yield tracker, environ


def visits(tracker: TrackerProcess) -> int:
    """Every visit that was answered with a redirect, of whatever kind."""
    metrics = tracker.metrics()
    assert 0 == metrics["tracker_clicks_unlogged_total", ""]
    return int(sum(metrics["tracker_clicks_total", kind] for kind in ("click", "prefetch", "head")))


def raw_of(case: Case) -> bytes:
    return b"".join((part if isinstance(part, str) else part[0] * part[1]).encode("latin-1") for part in case["raw"])


def everything_answered(client: Client, case: Case) -> list[Answer]:
    """All answers until the connection ends. Fails at bytes that are no answer."""
    answers: list[Answer] = []
    while (answer := client.answer(head=len(answers) in case.get("head", ()))) is not None:
        answers.append(answer)
    return answers


def last_word(number: int) -> bytes:
    """A click with a name of its own: whoever gets the answer to it knows whose it is."""
    return click(b"open", b"sub1=last-%d" % number, b"Connection: close")


def is_last(answer: Answer, number: int) -> bool:
    return answer.status == 302 and answer.headers[b"location"].endswith(b"&s=last-%d" % number)


def assert_own_answer(port: int, number: int) -> None:
    """A visitor who comes after the case gets his own redirect, and one."""
    with Client(port) as client:
        client.send(last_word(number))
        [answer] = everything_answered(client, {})
        assert is_last(answer, number), answer


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
    seen = witness.until_seen(f"sub1=last-{2 * number + 1} ")
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
