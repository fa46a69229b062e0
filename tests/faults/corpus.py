"""The corpus of raw requests before the real program: its links, its visits counted, and a visitor who comes after each case."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from demo_world import fetch, make_world
from lane_server import LINK_ROWS
from raw_http import Answer, Client, click
from tracker_process import TrackerProcess, running, tracker_environ

Case = dict[str, Any]
CASES: list[Case] = [
    case for case in json.loads((Path(__file__).parent.parent / "corpus" / "requests.json").read_text())
    if case["name"] != "a bug in a handler"      # the program has none to offer
]

OURS = {500, 502, 504}      # what no input may cause: an error of ours, an answer the proxy cannot read, or none

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
