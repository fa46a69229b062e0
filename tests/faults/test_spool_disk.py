"""The disk under a real tracker's spool: full, broken, read-only, or dropping what it promised to write.

Rows 14 and 15 of the fault matrix. The redirect is the last thing to fail: a click that cannot be kept goes out all the same,
says so in its id, is counted, and its sale is credited from the id.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from demo_world import fetch, make_world
from judge import all_is_shipped, assert_kept, assert_verified, clients, stored_clicks
from sick_machine import SickMachine
from tracker_process import KEYRING, TrackerProcess, running, tracker_environ, until
from visitor import Connection, one_connection_per_worker, postback

FULL = (errno.ENOSPC, "fallocate", "pwrite")
BROKEN = (errno.EIO, "pwrite", "fdatasync")
READ_ONLY = (errno.EROFS, "pwrite", "fallocate")


@dataclass
class Visits:
    """What visitors got: each click's token, and whether its id says that no row will come."""

    tokens: list[str] = field(default_factory=list)

    def click(self, connection: Connection, query: str = "") -> bool:
        answer = connection.click("l1", query)
        assert 302 == answer.status
        self.tokens.append(answer.token)
        return KEYRING.verify(answer.token).not_spooled

    @property
    def flagged(self) -> list[str]:
        return [token for token in self.tokens if KEYRING.verify(token).not_spooled]

    def assert_counted(self, tracker: TrackerProcess, dsn: str, spool_dir: Path, *, most_at_fault: int) -> None:
        """At rest: every click has a row or is counted, to the last one; and but for the batches at fault its id says which."""
        until(lambda: all_is_shipped(dsn, spool_dir), "every click is shipped")
        stored = {row.click_id for row in stored_clicks(dsn) if row.link_id == 1}
        lost = {token for token in self.tokens if KEYRING.verify(token).uuid not in stored}
        assert len(lost) == tracker.metric("tracker_clicks_unlogged_total")
        assert len(self.tokens) == len(lost) + len(stored)
        assert set(self.flagged) <= lost, "flagged, and there is a row"
        assert len(lost) - len(self.flagged) <= most_at_fault, "no row, and the id does not say so"


def is_ready(tracker: TrackerProcess) -> bool:
    return bool(tracker.admin("GET", "/readyz")[0] == 200)


@pytest.mark.fault(14)
@pytest.mark.parametrize("fault", [FULL, BROKEN, READ_ONLY], ids=["full", "broken", "read-only"])
def test_a_disk_that_takes_nothing_stops_no_visitor_and_loses_no_sale(
    dsn: str, tmp_path: Path, fault: tuple[int, str, str]
) -> None:
    """Redirects go on, are flagged and counted exactly; unready meanwhile; well again by itself when the disk is."""
    make_world(dsn, links=3)
    machine = SickMachine(tmp_path / "machine")
    environ = machine.environ(tracker_environ(dsn, tmp_path / "spool"))
    visits = Visits()
    with running("edge", environ) as tracker, ExitStack() as stack:
        workers = one_connection_per_worker(tracker.public_port, 2)     # with clicks on another link
        for connection in workers.values():
            stack.enter_context(connection)
            assert not any(visits.click(connection) for _ in range(50))
        error, *calls = fault
        with machine.failing(error, *calls):
            for connection in workers.values():
                flags = [visits.click(connection) for _ in range(50)]
                assert all(flags[1:]), "only the first may be the one at fault"
            until(lambda: not is_ready(tracker), "it says that it is not ready")
            sold = postback(tracker.public_port, click_id=visits.flagged[-1], txid="sold", amount="20")
            assert (200, "recorded") == (sold.status, sold.said["status"])
            [credited] = fetch(dsn, "SELECT credit, partner_id FROM conversion_state WHERE txid = 'sold'")
            assert ("id", 13) == tuple(credited)
        until(lambda: is_ready(tracker), "it is ready again by itself")
        for connection in workers.values():
            assert not any(visits.click(connection) for _ in range(50))
        visits.assert_counted(tracker, dsn, tmp_path / "spool", most_at_fault=2)
        assert_verified(environ)


BIG = "&".join(f"sub{n}={'x' * 700}" for n in range(1, 11))     # 7 kB a row: a segment of 16 MiB is full in 2,300 clicks
SMALL_VOLUME = 40 * 2**20


@contextmanager
def small_volume(place: Path) -> Iterator[bool]:
    """A volume of 40 MiB at `place`, where the kernel lets us mount one; False: an ordinary directory."""
    place.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_VOLUME}", "tracker-test", str(place)]
    mounted = shutil.which("mount") is not None and subprocess.run(mounting, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(place)], check=True)


@contextmanager
def without_room(place: Path, machine: SickMachine, *, mounted: bool) -> Iterator[None]:
    """Meanwhile the volume takes what is allocated already, and no further segment."""
    if not mounted:
        with machine.failing(errno.ENOSPC, "fallocate"):
            yield
        return
    ballast = place / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(place).free - (8 << 20))
    yield
    ballast.unlink()


@pytest.mark.fault(14)
def test_a_volume_that_fills_up_under_clicks_is_counted_to_the_last_one(dsn: str, tmp_path: Path) -> None:
    """A real file system without room for the next segment: rows go on into the current one, then none can be kept."""
    make_world(dsn, links=3)
    machine, volume, visits = SickMachine(tmp_path / "machine"), tmp_path / "volume", Visits()
    with small_volume(volume) as mounted:
        environ = machine.environ(tracker_environ(dsn, volume, TRACKER_WORKERS="1"))
        with running("edge", environ) as tracker, Connection(tracker.public_port) as connection:
            assert not visits.click(connection)     # in a segment of 16 MiB
            with without_room(volume, machine, mounted=mounted):
                for _ in range(6000):
                    if visits.click(connection, BIG):
                        break
                assert 1 == len(visits.flagged), "the volume never filled up"
                assert len(visits.tokens) > 1000, "what is allocated is not used"
                until(lambda: not is_ready(tracker), "it says that it is not ready")
                for _ in range(50):
                    visits.click(connection)
            until(lambda: is_ready(tracker), "space coming back is enough")
            assert not any(visits.click(connection) for _ in range(50))
            visits.assert_counted(tracker, dsn, volume, most_at_fault=1)
            assert_verified(environ)


@pytest.mark.fault(15)
@pytest.mark.parametrize("sync", ["50ms", "always"])
def test_a_sync_that_fails_once_and_drops_its_pages_loses_no_acknowledged_click(dsn: str, tmp_path: Path, sync: str) -> None:
    """What the kernel could not write it may forget, and call clean: a second sync of that file would say that all is well."""
    make_world(dsn)
    machine = SickMachine(tmp_path / "machine")
    environ = machine.environ(tracker_environ(dsn, tmp_path / "spool", TRACKER_SYNC=sync))
    with ExitStack() as stack:
        tracker = stack.enter_context(running("edge", environ))
        crowd = stack.enter_context(clients(tracker.public_port, tmp_path / "acks"))
        crowd.wait_for_acks(500)
        for failures in (1, 2, 3):
            machine.fail_once("fdatasync")
            until(lambda: tracker.metric("tracker_spool_errors_total", "fsync") == failures, "a sync has failed")  # noqa: B023
            until(lambda: is_ready(tracker), "the rows are in a new file")
            crowd.wait_for_acks(300)
        assert machine.has_failed
        tracker.kill_everything()
        history = crowd.stop()
        # Until the rows have their new file, ids say that no row will come; every other acknowledged click has its row.
        kept = [(token, number) for token, number in history.acks if not KEYRING.verify(token).not_spooled]
        assert len(kept) > 0.9 * len(history.acks)
        history = replace(history, acks=kept)
        stack.enter_context(running("edge", environ))
        until(lambda: all_is_shipped(dsn, tmp_path / "spool"), "every click is shipped")
        assert_kept(dsn, tmp_path / "spool", history, environ)
