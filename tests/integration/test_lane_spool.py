"""The ack rule seen from outside: what the disk does, and what visitors get and rows say then."""

from __future__ import annotations

import contextlib
import socket
import struct
from pathlib import Path

import pytest
from lane_server import KEYRING, HttpOnlyLanes, LaneServer, lane_server
from raw_http import Answer, Client, click, post

from tracker.web.fastlane import Lanes

both_lanes = pytest.mark.parametrize("lanes", [Lanes, HttpOnlyLanes], ids=["fast lane", "aiohttp"])


def seen(server: LaneServer) -> None:
    with Client(server.port) as other:
        other.assert_in_step()


def flagged(answer: Answer) -> bool:
    """Whether the click's id says that no row will come."""
    [token] = answer.tokens
    return KEYRING.verify(token).not_spooled


@pytest.mark.fault(14)
@both_lanes
def test_an_unwritable_spool_stops_no_visitor(tmp_path: Path, lanes: type[Lanes]) -> None:
    """The batch that fails goes out unflagged and is counted; from then on ids say that no row will come."""
    with lane_server(tmp_path, lanes=lanes) as server, Client(server.port) as client:
        assert not flagged(client.ask(click(query=b"sub1=before")))
        server.log.fails = True
        assert not flagged(client.ask(click(query=b"sub1=at fault".replace(b" ", b"+"))))
        assert flagged(client.ask(click(query=b"sub1=lost")))
        assert flagged(client.ask(click(b"plain", method=b"HEAD"), head=True))
        server.log.fails, server.log.available = False, True
        assert not flagged(client.ask(click(query=b"sub1=after")))
        assert ["before", "after"] == [row["sub1"] for row in server.rows()]
        assert (4, 1, 2, 3) == (server.counts.clicks, server.counts.heads, server.counts.appended, server.counts.unlogged)


@both_lanes
def test_each_kind_of_visit_is_counted_once(tmp_path: Path, lanes: type[Lanes]) -> None:
    with lane_server(tmp_path, lanes=lanes) as server, Client(server.port) as client:
        client.ask(click())
        client.ask(click(b"open", b"", b"Purpose: prefetch"))
        client.ask(click(b"open", b"", b"Purpose: prefetch", method=b"HEAD"), head=True)
        client.ask(click(method=b"HEAD"), head=True)
        client.ask(post(b"beacon", b"/c/open"))
        client.ask(click(b"nobody"))
        client.ask(click(b"paused"))
        found = server.counts
        assert (2, 1, 2, 5, 0) == (found.clicks, found.prefetches, found.heads, found.appended, found.unlogged)
        assert [1, 3, 7, 5, 65] == [row["flags"] for row in server.rows()]
        assert [(b"nobody", 404), (b"paused", 410)] == server.missed


def test_the_clicks_of_one_read_are_written_at_once(tmp_path: Path) -> None:
    with lane_server(tmp_path) as server, Client(server.port) as client:
        client.send(click() * 50)
        for _ in range(50):
            client.answer()
        assert 50 == sum(server.log.frames)
        assert len(server.log.frames) < 10


@both_lanes
def test_in_mode_always_no_answer_leaves_before_its_sync(tmp_path: Path, lanes: type[Lanes]) -> None:
    """A sync that was begun before a row was written says nothing about that row: it waits for the next."""
    with lane_server(tmp_path, lanes=lanes, waits_for_sync=True) as server, Client(server.port) as first, \
            Client(server.port) as second:
        first.send(click(query=b"sub1=1"))
        seen(server)
        second.send(click(query=b"sub1=2"))
        seen(server)
        assert ([1], 2) == (server.syncs, server.appended)
        first.assert_silent()
        server.disk_syncs()
        assert first.answer() is not None
        second.assert_silent()
        assert [1, 2] == server.syncs
        server.disk_syncs()
        assert second.answer() is not None


@both_lanes
def test_in_mode_always_answers_keep_their_order(tmp_path: Path, lanes: type[Lanes]) -> None:
    with lane_server(tmp_path, lanes=lanes, waits_for_sync=True) as server, Client(server.port) as client:
        client.send(click(query=b"sub1=1") + click(b"nobody") + post(b"x") + click(query=b"sub1=2"))
        seen(server)
        client.assert_silent()
        server.do(server.synced.set)
        answers = [client.answer() for _ in range(4)]
        assert [302, 404, 200, 302] == [answer and answer.status for answer in answers]


def test_in_mode_always_a_disk_that_does_not_sync_stops_no_visitor(tmp_path: Path) -> None:
    with lane_server(tmp_path, waits_for_sync=True) as server, Client(server.port) as client:
        client.send(click())
        seen(server)
        server.log.fails = True
        server.do(server.synced.set)
        assert client.answer() is not None
        server.log.fails = False
        assert 302 == client.ask(click()).status


def test_what_was_asked_before_draining_is_answered_and_its_connection_left_in_peace(tmp_path: Path) -> None:
    """An answer that did not say close invites the next request: closing then would fail it."""
    with lane_server(tmp_path, waits_for_sync=True) as server, Client(server.port) as client:
        client.send(click() * 3)
        seen(server)
        server.do(server.lanes.drain)
        server.do(server.synced.set)
        for _ in range(3):
            answer = client.answer()
            assert answer is not None
            assert b"connection" not in answer.headers
        assert b"close" == client.ask(click()).headers[b"connection"]
        assert b"" == client.rest()
        assert 4 == server.appended


def test_draining_does_not_forget_the_post_behind_a_click(tmp_path: Path) -> None:
    with lane_server(tmp_path, waits_for_sync=True) as server, Client(server.port) as client:
        client.send(click() + post(b"x"))
        seen(server)
        server.do(server.lanes.drain)
        server.do(server.synced.set)
        assert [302, 200] == [answer and answer.status for answer in (client.answer(), client.answer())]
        assert b"" == client.rest()


@both_lanes
def test_visitors_who_hang_up_cost_the_others_nothing(tmp_path: Path, lanes: type[Lanes]) -> None:
    """Their answers have nowhere to go; the answers of the same batch behind them do."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(lane_server(tmp_path, lanes=lanes, waits_for_sync=True))
        patient = stack.enter_context(Client(server.port))
        for reset in (False, True, False, True):
            hasty = stack.enter_context(Client(server.port))
            hasty.send(click() * 2)
            seen(server)
            if reset:
                hasty.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            hasty.socket.close()
        patient.send(click(b"plain"))
        seen(server)
        server.do(server.synced.set)
        assert patient.answer() is not None
        patient.assert_in_step()
        server.do(server.counts.assert_law)
