"""The wall clock under a real tracker: an hour ahead, an hour back, a second twice, slewed (row 18 of the fault matrix).

Ids carry the time, so a clock is money: an id made twice pays one partner for another's click.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from demo_world import make_world
from judge import all_is_shipped, assert_kept, clients, stored_clicks
from sick_machine import SickMachine
from tracker_process import KEYRING, running, tracker_environ, until
from visitor import one_connection_per_worker

from tracker.domain.refusal import Reason
from tracker.storage.catalog.look_ups import LookUps
from tracker.storage.conversions.refusals import Refusals

HOUR = 3600.0
# Each a clock's offset, one after the other: an hour ahead and back, an hour behind, a leap second told twice, a slew of
# 500 parts in a million over a minute, in steps.
STEPS = (0.0, HOUR, 0.0, -HOUR, 0.0, -1.0, 0.0, *(0.0005 * n for n in range(0, 60, 10)))


@pytest.mark.fault(18)
def test_clock_steps_under_load_make_no_id_twice_and_lose_nothing(dsn: str, tmp_path: Path) -> None:
    """Time inside a start never goes back, whatever the clock says; deadlines and rates do not ask it at all."""
    make_world(dsn)
    machine = SickMachine(tmp_path / "machine")
    environ = machine.environ(tracker_environ(dsn, tmp_path / "spool"))
    seen: dict[int, list[bytes]] = {}
    with running("edge", environ) as tracker, clients(tracker.public_port, tmp_path / "acks", connections=8) as crowd:
        watchers = one_connection_per_worker(tracker.public_port, 2)
        for offset in STEPS:
            machine.set_clock(offset)
            crowd.wait_for_acks(200)
            for worker, connection in watchers.items():
                seen.setdefault(worker, []).extend(connection.click("l2").uuid for _ in range(20))
        assert 200 == tracker.admin("GET", "/readyz")[0]
        history = crowd.stop()
        assert history.flawless, history
        for connection in watchers.values():
            connection.close()
        until(lambda: all_is_shipped(dsn, tmp_path / "spool"), "every click is shipped")
        ours = {uuid for ids in seen.values() for uuid in ids}
        for ids in seen.values():
            times = [int.from_bytes(uuid[:6], "big") >> 3 for uuid in ids]
            assert sorted(times) == times, "time went back inside a start"
            assert max(times) - min(times) > HOUR * 1000, "the clock was never ahead"
        assert len(ours) == sum(map(len, seen.values())), "an id twice"
        known = ours | {KEYRING.verify(token).uuid for token, _ in history.acks}
        finding = {row.click_id for row in stored_clicks(dsn) if row.link_id == 2 and row.sub1 is None} - known
        assert len(finding) < 100, "made to find the workers"
        assert_kept(dsn, tmp_path / "spool", history, environ, besides=ours | finding)


@pytest.mark.fault(18)
@pytest.mark.parametrize("hours", [1, -1])
def test_a_clock_that_jumps_gives_no_rate_away_and_takes_none(monkeypatch: pytest.MonkeyPatch, hours: int) -> None:
    """Forward, an hour's worth of rows and queries at once; backward, none for an hour: a rate is of the steady clock."""
    steady = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: steady[0])
    refusals, look_ups = Refusals("", clock=time.monotonic), LookUps("")

    def taken() -> tuple[int, bool]:
        return sum(refusals.count(Reason.BAD_TOKEN) for _ in range(1000)), look_ups.may_ask(b"slug")

    assert (100, True) == taken()
    look_ups._allowance = 0.0     # as after so many questions
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + hours * HOUR)
    monkeypatch.setattr(time, "time_ns", lambda: int((real() + hours * HOUR) * 1e9))
    assert (0, False) == taken()
    steady[0] += 0.5
    assert (50, True) == taken()
