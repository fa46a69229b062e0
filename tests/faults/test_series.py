"""What is measured does not depend on what is sent: a series for each user agent would bring down whoever scrapes us."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
from demo_world import make_world
from raw_http import Client, click
from tracker_process import TrackerProcess, running, tracker_environ, until

ANSWER_BYTES = 256 * 1024      # of /metrics, at most
COUNTED = ("tracker_clicks_total", "click"), ("tracker_clicks_missed_total", "unknown"), ("tracker_postbacks_total", "refused")
BLOCK = 100                    # requests sent before their answers are read


def series(tracker: TrackerProcess) -> set[str]:
    """Every series that /metrics has: the name and the labels, without the number."""
    status, text = tracker.admin("GET", "/metrics")
    assert 200 == status
    assert len(text) < ANSWER_BYTES
    return {line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")}


def never_the_same() -> Iterator[tuple[bytes, int]]:
    """Requests no two of which share a path, a link, a user agent, a referrer or a reason; and the status of each."""
    number = 0
    while True:
        number += 1
        agent = b"User-Agent: Browser%d/%d (Device %d) Country-%d" % (number, number, number, number)
        referrer = b"Referer: https://site%d.example/%d" % (number, number)
        yield click(b"l1", b"sub1=s%d&utm_source=u%d&p%d=1" % (number, number, number), agent, referrer), 302
        yield click(b"nobody-%d" % number, b"", agent), 404
        yield b"GET /path/%d HTTP/1.1\r\nHost: host%d.example\r\n\r\n" % (number, number), 404
        yield b"PUT /c/l%d HTTP/1.1\r\nHost: host%d.example\r\n\r\n" % (number, number), 405
        yield b"GET /postback?click_id=%d&event=e%d&status=s%d&program=p%d&token=t%d HTTP/1.1\r\nHost: a\r\n\r\n" % (
            number, number, number, number, number), 400


@pytest.mark.fault(35)
@pytest.mark.parametrize("many", [5_000, pytest.param(100_000, marks=[pytest.mark.nightly, pytest.mark.timeout(900)])])
def test_the_number_of_series_does_not_depend_on_what_is_sent(dsn: str, tmp_path: Path, many: int) -> None:
    """Danger: a label taken from a request lives in Prometheus for as long as its blocks do."""
    make_world(dsn, links=1)
    with running("serve", tracker_environ(dsn, tmp_path / "spool", TRACKER_WORKERS="1")) as tracker:
        before = series(tracker)
        assert len(before) > 50
        requests = islice(never_the_same(), many)
        with Client(tracker.public_port) as client:
            while block := list(islice(requests, BLOCK)):
                client.send(b"".join(request for request, _ in block))
                for request, status in block:
                    answer = client.answer()
                    assert answer is not None
                    assert status == answer.status, request
        assert before == series(tracker)
        for name, label in COUNTED:
            until(lambda: tracker.metric(name, label) == many // 5, f"{name} has counted them all the same")  # noqa: B023 - used at once
