"""What is refused costs nothing: heads beyond their limits, from as many strangers as like to."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from demo_world import make_world
from raw_http import Client, click
from tracker_process import forget_peak, memory_peak, running, tracker_environ

STRANGERS = 50             # at once
STRANGER_BYTES = 1 << 20   # what one may cost while he is refused: what is read of him at once is 256 KiB

OVERSIZED = {
    "a line": (b"X-Big: " + b"a" * 8_191,),
    "129 headers": tuple(b"X-%d: a" % number for number in range(128)),
    "a cookie of 1 MB": (b"Cookie: " + b"a" * 1_000_000,),
    "a cookie of 8 MB": (b"Cookie: " + b"a" * 8_000_000,),
    "a name of 1 MB": (b"X" * 1_000_000,),
}


@pytest.mark.fault(30)
def test_heads_beyond_their_limits_cost_an_answer_and_no_memory(dsn: str, tmp_path: Path) -> None:
    """Anybody can send them, on as many connections as he likes: what he sends must not be gathered to be measured."""
    make_world(dsn, links=1)
    with running("serve", tracker_environ(dsn, tmp_path / "spool", TRACKER_WORKERS="1")) as tracker:
        [worker] = tracker.workers()
        with Client(tracker.public_port) as client:
            assert 302 == client.ask(click(b"l1", b"", b"X-Big: " + b"a" * 8_190)).status
            assert 302 == client.ask(click(b"l1", b"", *(b"X-%d: a" % number for number in range(127)))).status
        before = forget_peak(worker)
        for headers in OVERSIZED.values():
            request = click(b"l1", b"", *headers)
            with contextlib.ExitStack() as stack:
                crowd = [stack.enter_context(Client(tracker.public_port)) for _ in range(STRANGERS)]
                for client in crowd:
                    client.send(request[:-2])      # all of them at once have a head that is not whole yet
                for client in crowd:
                    client.send(request[-2:])
                    # A reset may overtake the answer where more was sent than was read: then there is none.
                    assert {400} >= {answer.status for answer in [client.answer()] if answer is not None}
                    assert b"" == client.rest()
        assert memory_peak(worker) - before < STRANGERS * STRANGER_BYTES
        assert 2 == tracker.metric("tracker_clicks_total", "click")
