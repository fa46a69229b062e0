"""Endpoints that mean harm, against the real service, while visitors click and shops sell: row 37 of the fault matrix.

The URLs stand in the database already, as if they had been saved before anybody thought of it; that they cannot be saved is
tested here too. 127.0.0.2 stands for the world (it is the network that is allowed), 127.0.0.1 for what is ours. Names that
change their minds: tests/integration/test_outbox_client.py.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Mapping
from pathlib import Path

import pytest
from demo_world import execute, fetch, make_world, value
from receiver import OK, Answer, Heard, receiver, says
from tracker_process import forget_peak, memory_peak, until
from trade import trading

SECRET = "what-a-partner-keeps-secret"
ENDPOINT = """
    INSERT INTO outbox_endpoints (endpoint_id, partner_id, url, host, method, statuses, secret)
    VALUES ({number}, 13, '{url}', '{host}', 'GET', '{{approved}}', sha256('{host}'));
"""
REASONS = """
    SELECT host, coalesce(array_agg(DISTINCT last_reason) FILTER (WHERE last_reason IS NOT NULL), '{}') AS reasons,
           bool_and(state = 'waiting') AS waiting, bool_and(due_at > tried_at) FILTER (WHERE attempts > 0) AS later
      FROM outbox JOIN outbox_endpoints USING (endpoint_id) GROUP BY 1
"""
MEMORY_BYTES = 64 * 2**20     # more than the service may take for them: 10 GB would show


def harmful(inside: str) -> Answer:
    """/flood: as much as is taken; /drip: a byte now and then; /away: a redirect to `inside`; all else is fine."""

    def tell(heard: Heard, connection: socket.socket) -> None:
        place = heard.target.partition("?")[0]
        if place == "/away":
            connection.sendall(f"HTTP/1.1 302 Found\r\nLocation: {inside}\r\nContent-Length: 0\r\n\r\n".encode())
        elif place == "/flood":
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            while True:      # until it is cut: OSError
                connection.sendall(b"x" * 65_536)
        elif place == "/drip":
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            while not select.select([connection], [], [], 0.1)[0]:
                connection.sendall(b"x")
        else:
            connection.sendall(OK)

    return tell


@pytest.mark.fault(37)
def test_endpoints_that_mean_harm_reach_nothing_and_slow_nobody(dsn: str, tmp_path: Path) -> None:
    """Danger: a partner's URL that reads our metadata service, or an endless answer that takes the memory of us all."""
    make_world(dsn)
    with receiver("127.0.0.1") as ours, receiver("127.0.0.2", ours.port) as theirs:
        theirs.answer = harmful(ours.url("/inside"))
        harm: Mapping[str, tuple[str, str]] = {
            "loopback": (f"http://127.0.0.1:{ours.port}/?{SECRET}", "refused"),
            "metadata": ("http://169.254.169.254/latest/meta-data", "refused"),
            "mapped": ("http://[::ffff:10.0.0.1]/", "refused"),
            "mapped loopback": (f"http://[::ffff:127.0.0.1]:{ours.port}/", "refused"),
            "hexadecimal": (f"http://0x7f.1:{ours.port}/", "refused"),
            "one number": (f"http://2130706433:{ours.port}/", "refused"),
            "a name of ours": (f"http://localhost:{ours.port}/", "refused"),
            "redirect": (theirs.url("/away"), "status"),
            "flood": (theirs.url(f"/flood?{SECRET}"), "too_long"),
            "drip": (theirs.url("/drip"), "timeout"),
        }
        for number, (host, (url, _)) in enumerate(harm.items(), start=1):
            execute(dsn, ENDPOINT.format(number=number, host=host, url=url))
        execute(dsn, ENDPOINT.format(number=99, host="honest", url=theirs.url("/honest?t={txid}")))
        with trading(dsn, tmp_path, TRACKER_OUTBOX_NETWORKS="127.0.0.2/32") as trade:
            before = forget_peak(trade.tracker.pid)
            expected = {host: reason for host, (_, reason) in harm.items()} | {"honest": "sent"}

            def ended() -> bool:
                found = {row["host"]: row["reasons"] for row in fetch(dsn, REASONS)}
                return all(reason in found.get(host, ()) for host, reason in expected.items())

            until(ended, "each has ended as it must")
            trade.goes_on()
            assert memory_peak(trade.tracker.pid) - before < MEMORY_BYTES
            assert 201 == trade.tracker.admin("POST", "/v1/partners", {"slug": "eve"})[0]
            for host, (url, reason) in harm.items():
                status, _ = trade.tracker.admin("POST", "/v1/partners/eve/postbacks", {"url": url})
                assert (400 if reason == "refused" and host != "a name of ours" else 201) == status, host
            trade.assert_all_kept(dsn)
            sold = len(trade.shops.sales)
            until(lambda: sum(one.target.startswith("/honest") for one in theirs.heard) == sold, "the honest one hears of all")
            assert 0 == ours.connections
            for row in fetch(dsn, REASONS):
                assert row["host"] == "honest" or (row["waiting"] and row["later"]), dict(row)
                assert expected[row["host"]] not in ("sent", "refused") or [expected[row["host"]]] == row["reasons"], dict(row)
            assert SECRET not in trade.tracker.output
    assert sold == value(dsn, "SELECT count(*) FROM outbox WHERE state = 'sent'")


@pytest.mark.fault(37)
def test_what_waits_is_sent_when_the_tracker_is_back(dsn: str, tmp_path: Path) -> None:
    """A partner's tracker that is down is no harm: it hears of every sale, once it is up, and of each once."""
    make_world(dsn)
    with receiver("127.0.0.2") as theirs:
        theirs.answer = says(b"HTTP/1.1 503 Later\r\nContent-Length: 0\r\n\r\n")
        execute(dsn, ENDPOINT.format(number=1, host="down", url=theirs.url("/?t={txid}")))
        with trading(dsn, tmp_path, TRACKER_OUTBOX_NETWORKS="127.0.0.2/32") as trade:
            trade.goes_on()
            until(lambda: value(dsn, "SELECT failures >= 5 FROM outbox_endpoints"), "it fails")
            failed = len(theirs.heard)
            theirs.answer = says(OK)
            execute(dsn, "UPDATE outbox_endpoints SET retry_at = NULL; UPDATE outbox SET due_at = now() WHERE state = 'waiting'")
            trade.shops.stop()
            trade.crowd.stop()
            sold = {sale.txid for sale in trade.shops.sales}
            until(lambda: value(dsn, "SELECT count(*) FROM outbox WHERE state = 'sent'") == len(sold), "all is sent", seconds=60.0)
            assert sold == {heard.query["t"] for heard in theirs.heard[failed:]}
            until(lambda: trade.tracker.metric("tracker_outbox_waiting") == 0, "the metrics agree")
            assert len(sold) == trade.tracker.metric("tracker_outbox_attempts_total", "sent")
