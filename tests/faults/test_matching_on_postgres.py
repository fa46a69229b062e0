"""Matching as a state machine, on edges over real PostgreSQL: claims, commits, journals, crashes and control in between.

The same machine and the same oracle as tests/property/test_matching_machine.py, with fewer steps.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from matching import EDGES, Matching, Row, System
from oracle import Verdict
from recording import SEED, Edge, answer_to, assert_money_adds_up, edge, land
from shipping import database, eventually, now_ms

from tracker.domain.postback import Postback
from tracker.jobs.pending import PendingJob
from tracker.storage.conversions.journal import read_journal
from tracker.storage.conversions.recorder import Recorder
from tracker.storage.conversions.replay import replay
from tracker.storage.spool.reader import LogReader

# As a fresh database: past the triggers that keep people from changing what was written about money.
_EMPTY = """
    SET session_replication_role = replica;
    TRUNCATE clicks, conversion_state, conversions, conversion_history, ledger, postback_log, pending, spool_cursors, quarantine;
    SET session_replication_role = origin;
"""
_ROWS = """
    SELECT s.txid, s.status, s.amount, s.partner_id, s.commission_owed,
           (SELECT coalesce(sum(amount), 0) FROM ledger AS l WHERE l.conversion_id = s.conversion_id) AS paid,
           (SELECT count(*) FROM conversions AS c WHERE c.txid = s.txid) AS facts
      FROM conversion_state AS s
"""


class EdgesOverPostgres:
    """Two edges, each with a journal and a recorder, and a control that resolves what waits. Runs a loop of its own, which
    moves only inside these calls."""

    def __init__(self, dsn: str, folder: Path) -> None:
        self._dsn, self._folder = dsn, folder
        self._runner = asyncio.Runner()
        self._sent: list[bytes] = []
        self._landed: set[bytes] = set()
        self._stack = AsyncExitStack()
        self._runner.run(self._begin())

    async def _begin(self) -> None:
        self._db = await self._stack.enter_async_context(database(self._dsn))
        self._control = await self._stack.enter_async_context(database(self._dsn))
        await self._db.execute(_EMPTY)
        self._edges: list[Edge] = [await self._stack.enter_async_context(edge(self._dsn, self._folder)) for _ in range(EDGES)]
        self._successors: list[asyncio.Task[None]] = []

    def send(self, told: Sequence[tuple[int, Postback]]) -> list[str]:
        async def send() -> list[str]:
            return [answer.status for answer in await asyncio.gather(*(self._submit(number, draft) for number, draft in told))]

        return self._runner.run(send())

    def _submit(self, number: int, draft: Postback) -> asyncio.Future[Any]:
        [message] = self._edges[number].journal.append([draft])
        self._sent.append(message.message_id)
        return answer_to(self._edges[number].recorder, message)

    def crash(self, edge: int, drafts: Sequence[Postback], choose: Callable[[int], int]) -> list[bytes] | None:
        """It dies with a group under way, or before; its successor reads the journal. Or the cursors are lost as well; or
        every journal is played again over everything that is there."""
        self._runner.run(self._crash(self._edges[edge], drafts, turns=choose(6), then=choose(3)))
        return None      # at one edge, in order

    async def _crash(self, dying: Edge, drafts: Sequence[Postback], *, turns: int, then: int) -> None:
        for message in dying.journal.append(drafts):
            self._sent.append(message.message_id)
            answer_to(dying.recorder, message)
        for _ in range(turns):
            await asyncio.sleep(0)
        await dying.recorder.stop(0.0)
        if then == 1:
            await self._db.execute("DELETE FROM spool_cursors WHERE log = 'journal' AND spool_id = $1", dying.spool_id)
        reader = LogReader(dying.path, "journal", spool_id=dying.spool_id, log=dying.journal._log)
        dying.recorder = Recorder(self._dsn, dying.spool_id, reader)
        self._successors.append(asyncio.create_task(dying.recorder.run()))
        end_seq = dying.journal._log.next_seq
        await eventually(lambda: dying.recorder.next_seq == end_seq)
        if then == 2:
            for one in self._edges:
                await replay(self._db, [message for message in read_journal(one.path) if isinstance(message, Postback)])

    def land(self, click: bytes) -> None:
        async def arrive() -> None:
            if click not in self._landed:
                self._landed.add(click)
                await land(self._db, click)
            await self._resolve(wait_seconds=900.0)      # also attaches

        self._runner.run(arrive())

    def expire(self) -> None:
        self._runner.run(self._resolve(wait_seconds=0.0))

    async def _resolve(self, *, wait_seconds: float) -> None:
        """What control does in one poll."""
        job = PendingJob(self._dsn, "control", wait_seconds=wait_seconds)
        assert await job._lease.acquire(self._control)
        while await job.poll(self._control):
            pass

    def waiting(self) -> set[str]:
        rows = self._fetch("SELECT DISTINCT message ->> 'txid' AS txid FROM pending")
        return {row["txid"] for row in rows}

    def rows(self) -> dict[str, Row]:
        def in_cents(amount: Decimal) -> int:
            return int(amount * 100)

        return {
            row["txid"]: Row(
                Verdict(row["status"], None if row["amount"] is None else in_cents(row["amount"]), row["partner_id"],
                        in_cents(row["commission_owed"])),
                in_cents(row["paid"]), row["facts"],
            )
            for row in self._fetch(_ROWS)
        }

    def _fetch(self, statement: str) -> list[Any]:
        return list(self._runner.run(self._db.fetch(statement)))

    def message_ids(self) -> list[bytes]:
        return self._sent

    def close(self) -> None:
        async def end() -> None:
            for one in self._edges:
                await one.recorder.stop()
            await asyncio.gather(*self._successors)
            assert len(self._sent) == await self._db.fetchval("SELECT count(*) FROM postback_log")
            assert 0 == await self._db.fetchval("SELECT count(*) FROM postback_log WHERE outcome = 'quarantined'")
            await assert_money_adds_up(self._db)

        try:
            self._runner.run(end())
        finally:
            self._runner.run(self._stack.aclose())
            self._runner.close()
            shutil.rmtree(self._folder, ignore_errors=True)


def machine_of(make: Callable[[], System]) -> type[Matching]:
    class Machine(Matching):
        begin = staticmethod(make)
        now_ms = now_ms()

    return Machine


@pytest.mark.fault(19, 20, 21)
@pytest.mark.parametrize(("examples", "steps"), [(30, 12), pytest.param(150, 30, marks=pytest.mark.nightly)])
def test_whatever_happens_to_edges_and_journals_the_books_are_the_oracles(
    dsn: str, tmp_path: Path, examples: int, steps: int
) -> None:
    async def seed() -> None:
        async with database(dsn) as connection:
            await connection.execute(SEED)

    asyncio.run(seed())
    checks: Any = list(HealthCheck)
    run_state_machine_as_test(
        machine_of(lambda: EdgesOverPostgres(dsn, tmp_path / "spools")),
        settings=settings(max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=checks,
                          phases=[Phase.generate], print_blob=True),
    )
