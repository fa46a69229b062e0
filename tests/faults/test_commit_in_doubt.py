"""The connection breaks around COMMIT: whether it was done nobody knows, and neither sending again nor leaving it is right."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Literal

import pytest
from demo_world import Database
from proxy import Fault, proxied_aside
from recording import A_GROUP_IS_WRITTEN
from tracker_process import running, tracker_environ, until
from trade import PART_SECONDS, trading

# What is in the message that commits, and what only this connection sends before.
OF_CLICKS = b"COMMIT", b"PGCOPY"
OF_POSTBACKS = A_GROUP_IS_WRITTEN, b""
ACTIONS: tuple[Literal["cut", "swallow", "late"], ...] = ("cut", "swallow", "late")
HELD_SECONDS = 2.0


@pytest.mark.fault(9)
def test_connections_that_break_around_commit(database: Database, tmp_path: Path) -> None:
    """COMMIT never arrives; or its reply is lost; or it arrives two seconds later, on a connection everybody believes dead."""
    beside = tracker_environ(database.dsn, tmp_path / "spool")      # its jobs commit groups as well, whose doubts nobody counts
    with (
        running("control", beside), proxied_aside(database.dsn) as proxy, trading(proxy.dsn, tmp_path, role="edge") as trade,
    ):
        trade.goes_on()
        for action in ACTIONS:
            for committing, before in (OF_CLICKS, OF_POSTBACKS):
                fault = proxy.fault = Fault("up", action, on=committing, after=before)
                until(fault.struck.is_set, "a COMMIT was sent")
                trade.goes_on(HELD_SECONDS if action == "late" else PART_SECONDS)
                proxy.deliver(fault)
        for counter in ("tracker_ship_batches_total", "tracker_postback_groups_total"):
            until(partial(trade.counts, counter, "ambiguous", len(ACTIONS)), f"{counter} tells each doubt")
        trade.goes_on()
        trade.assert_all_kept(database.dsn)
