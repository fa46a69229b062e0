"""A flood on one link is kept and flagged, and nobody else waits for it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from pathlib import Path

from demo_world import own_database, value
from judge import clients
from postgres_fixtures import PostgresFactory
from tracker_process import running, tracker_environ, until, within
from visitor import click

from tracker.storage.clicks.rows import FLOOD
from tracker.web.redirect import FLOOD_CLICKS, FLOOD_MS

HERE = f"SELECT max(flags & {FLOOD}) FROM clicks WHERE click_id = $1"
FLAGGED = "SELECT count(*) FROM clicks WHERE link_id = 1 AND flags & $1 > 0"
OF_THE_FLOOD = "SELECT count(*) FROM clicks WHERE link_id = 1"


def test_a_flood_on_one_link_is_flagged_and_delays_no_other(postgres_factory: PostgresFactory, tmp_path: Path) -> None:
    with own_database(postgres_factory()) as database, \
            running("serve", tracker_environ(database.dsn, tmp_path / "spool")) as tracker, \
            clients(tracker.public_port, tmp_path / "acks", links=1) as flood:
        dsn, begun = database.dsn, time.monotonic()
        flood.wait_for_acks(3_000)

        def one_click(_: int) -> Callable[[], bool]:
            clicked = uuid.UUID(bytes=click(tracker.public_port, "l2").uuid)
            return lambda: value(dsn, HERE, clicked) == 0

        within(1.0, one_click, "the row of a click on another link, unflagged")
        flood.wait_for_acks(1_000)
        sent = len(flood.stop().acks)
        until(lambda: value(dsn, OF_THE_FLOOD) >= sent, "every click of the flood is a row")
        beginnings = 2 * (2 + int((time.monotonic() - begun) * 1000 / FLOOD_MS))      # of workers, each forgetting every FLOOD_MS
        assert value(dsn, OF_THE_FLOOD) - beginnings * FLOOD_CLICKS <= value(dsn, FLAGGED, FLOOD) < value(dsn, OF_THE_FLOOD)
