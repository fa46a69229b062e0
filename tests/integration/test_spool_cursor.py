"""The mark of a log: who may move it, from where, by how much, and who is ended when he does not let go."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from shipping import database, eventually

from tracker.storage.postgres import PostgresError, Unavailable
from tracker.storage.spool.cursor import CursorMovedError, SpoolCursor
from tracker.storage.together import ALWAYS, Part

NEIGHBOURS = ((7, "journal"), (8, "clicks"), (8, "journal"))      # marks that ours may be taken for
MARKS = "SELECT next_seq, rows_stored, rows_stray, rows_quarantined FROM spool_cursors WHERE (spool_id, log) = ($1, $2)"


@pytest.fixture
async def one(dsn: str) -> AsyncIterator[Any]:
    async with database(dsn) as connection:
        yield connection


@pytest.fixture
async def other(dsn: str) -> AsyncIterator[Any]:
    async with database(dsn) as connection:
        yield connection


@pytest.fixture
async def neighbour(dsn: str) -> AsyncIterator[Any]:
    """The writer of all marks but ours."""
    async with database(dsn) as connection:
        for spool_id, log in NEIGHBOURS:
            assert 0 == await SpoolCursor(spool_id, log).claim(connection)  # type: ignore[arg-type]
        yield connection


async def marks(connection: Any, spool_id: int = 7, log: str = "clicks") -> tuple[int, ...]:
    return tuple(await connection.fetchrow(MARKS, spool_id, log))


async def lives(connection: Any) -> bool:
    return not connection.is_closed() and bool(await connection.fetchval("SELECT true"))


async def test_a_mark_moves_by_all_rows_wherever_they_went_and_no_other_moves_with_it(one: Any, neighbour: Any) -> None:
    cursor = SpoolCursor(7, "clicks")
    assert 0 == await cursor.claim(one)
    for at, rows in ((0, (3, 2, 1)), (6, (10, 0, 0)), (16, (0, 4, 5))):
        await one.execute("BEGIN")
        await cursor.hold(one, at)
        await cursor.advance(one, at, stored=rows[0], stray=rows[1], quarantined=rows[2])
        await cursor.commit(one)
    await one.execute("BEGIN")
    await cursor.advance(one, 25, stored=5)
    await cursor.commit(one)
    assert not cursor.in_doubt
    assert (30, 18, 6, 6) == await marks(one)
    assert [(0, 0, 0, 0)] * 3 == [await marks(one, *neighbour_) for neighbour_ in NEIGHBOURS]
    assert (30, False) == (await cursor.claim(one), cursor.in_doubt)


async def test_a_mark_that_moves_again_is_not_closed(one: Any) -> None:
    """A spool that was shipped and closed, and comes back from a backup, must not look closed while rows come."""
    cursor = SpoolCursor(7, "clicks")
    await cursor.claim(one)
    await one.execute("UPDATE spool_cursors SET closed_at = now()")
    await one.execute("BEGIN")
    await cursor.advance(one, 0, stored=1)
    await cursor.commit(one)
    assert await one.fetchval("SELECT closed_at IS NULL FROM spool_cursors")


CHANGES = {
    "another place": "UPDATE spool_cursors SET next_seq = 1, rows_stored = 1 WHERE spool_id = 7 AND log = 'clicks'",
    "another backend": "UPDATE spool_cursors SET writer_pid = writer_pid + 1 WHERE spool_id = 7 AND log = 'clicks'",
    "another backend of the same number":
        "UPDATE spool_cursors SET writer_start = writer_start - interval '1 second' WHERE spool_id = 7 AND log = 'clicks'",
    "no mark at all": "DELETE FROM spool_cursors WHERE spool_id = 7 AND log = 'clicks'",
    "none of this log": "UPDATE spool_cursors SET spool_id = 9 WHERE spool_id = 7 AND log = 'clicks'",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_a_mark_that_is_not_as_its_writer_left_it_is_not_moved(one: Any, change: str) -> None:
    cursor = SpoolCursor(7, "clicks")
    for spool_id, log in NEIGHBOURS:       # by the same backend: nothing but spool and log tells them apart
        await SpoolCursor(spool_id, log).claim(one)  # type: ignore[arg-type]
    await cursor.claim(one)
    await one.execute("BEGIN")
    await cursor.hold(one, 0)
    await one.execute("COMMIT")
    await one.execute(change)
    with pytest.raises(CursorMovedError):
        await cursor.hold(one, 0)
    with pytest.raises(CursorMovedError):
        await cursor.advance(one, 0, stored=1)
    assert [(0, 0, 0, 0)] * 3 == [await marks(one, *neighbour) for neighbour in NEIGHBOURS]


QUARANTINED = "SELECT seq::int FROM quarantine ORDER BY seq"


def quarantined(seq: int, log: str = "clicks") -> Part:
    """Any statement that writes: a row of its own."""
    return f"INSERT INTO quarantine (spool_id, log, seq, reason) SELECT 7, '{log}', $1::bigint, $2::text {ALWAYS}", (seq, "no row")


async def test_a_mark_moves_in_the_statement_that_writes(one: Any, other: Any, neighbour: Any) -> None:
    """One statement is one transaction: when it returns, all of it is there for everybody."""
    cursor = SpoolCursor(7, "clicks")
    await cursor.claim(one)
    await cursor.advance_with(one, 0, [quarantined(5), quarantined(6)], stored=3, quarantined=2)
    await cursor.advance_with(one, 5, [], stored=1, quarantined=0)
    assert (6, 4, 0, 2) == await marks(other)
    assert [5, 6] == [row["seq"] for row in await other.fetch(QUARANTINED)]
    assert [(0, 0, 0, 0)] * 3 == [await marks(other, *neighbour_) for neighbour_ in NEIGHBOURS]
    assert not cursor.in_doubt


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_nothing_is_written_beside_a_mark_that_does_not_move(one: Any, other: Any, change: str) -> None:
    cursor = SpoolCursor(7, "clicks")
    await cursor.claim(one)
    await other.execute(change)
    before = await other.fetch("SELECT * FROM spool_cursors")
    with pytest.raises(CursorMovedError):
        await cursor.advance_with(one, 0, [quarantined(5)], stored=1, quarantined=0)
    assert [] == await other.fetch(QUARANTINED)
    assert before == await other.fetch("SELECT * FROM spool_cursors")
    assert not cursor.in_doubt


async def test_a_mark_stays_where_it_is_when_what_is_written_beside_it_is_refused(one: Any, other: Any) -> None:
    """And the server having said so, there is no doubt about it."""
    cursor = SpoolCursor(7, "clicks")
    await cursor.claim(one)
    with pytest.raises(PostgresError, match="duplicate key"):
        await cursor.advance_with(one, 0, [quarantined(5), quarantined(5)], stored=1, quarantined=0)
    assert ((0, 0, 0, 0), []) == (await marks(other), await other.fetch(QUARANTINED))
    assert not cursor.in_doubt


async def test_a_connection_that_breaks_in_the_statement_that_writes_leaves_a_doubt(one: Any, other: Any) -> None:
    cursor = SpoolCursor(7, "clicks")
    await cursor.claim(one)
    pid = await one.fetchval("SELECT pg_backend_pid()")
    async with other.transaction():
        await other.execute("SELECT FROM spool_cursors WHERE spool_id = 7 AND log = 'clicks' FOR UPDATE")
        writing = asyncio.ensure_future(cursor.advance_with(one, 0, [quarantined(5)], stored=1, quarantined=0))
        await eventually(lambda: other.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"))
        assert cursor.in_doubt
        await other.execute("SELECT pg_terminate_backend($1)", pid)
        with pytest.raises((PostgresError, *Unavailable)):
            await writing
    assert cursor.in_doubt
    assert 0 == await cursor.claim(other)
    assert not cursor.in_doubt


async def test_whoever_claimed_last_is_the_writer(one: Any, other: Any) -> None:
    first, second = SpoolCursor(7, "clicks"), SpoolCursor(7, "clicks")
    await first.claim(one)
    await second.claim(other)
    with pytest.raises(CursorMovedError):
        await first.advance(one, 0, stored=1)
    await second.advance(other, 0, stored=1)
    assert (1, 1, 0, 0) == await marks(one)


async def test_a_mark_that_is_held_is_locked(one: Any, other: Any) -> None:
    cursor = SpoolCursor(7, "clicks")
    await cursor.claim(one)
    async with one.transaction():
        await cursor.hold(one, 0)
        with pytest.raises(PostgresError, match="could not obtain lock"):
            await other.execute("SELECT FROM spool_cursors FOR UPDATE NOWAIT")
    await other.execute("SELECT FROM spool_cursors FOR UPDATE NOWAIT")


async def test_a_writer_that_does_not_let_go_is_ended_and_nobody_else(one: Any, other: Any, neighbour: Any) -> None:
    """No timeout of the server frees a backend stuck inside COPY."""
    hanging = SpoolCursor(7, "clicks")
    await hanging.claim(one)
    await one.execute("BEGIN")
    await hanging.advance(one, 0, stored=5)
    assert 0 == await SpoolCursor(7, "clicks").claim(other)
    with pytest.raises((PostgresError, *Unavailable)):
        await hanging.commit(one)
    assert hanging.in_doubt
    assert (True, True) == (await lives(other), await lives(neighbour))
    assert (0, 0, 0, 0) == await marks(other)


async def test_who_holds_a_mark_without_being_its_writer_is_not_ended(one: Any, other: Any, neighbour: Any) -> None:
    """A person's session, or a backup: the claim gives up after its tries, and ends neither him nor itself."""
    cursor = SpoolCursor(7, "clicks")
    await cursor.claim(one)
    async with other.transaction():
        await other.execute("SELECT FROM spool_cursors WHERE spool_id = 7 AND log = 'clicks' FOR UPDATE")
        with pytest.raises(PostgresError) as refused:
            await cursor.claim(one)
        assert "55P03" == refused.value.sqlstate
        await one.execute("ROLLBACK")
    assert [True] * 3 == [await lives(connection) for connection in (one, other, neighbour)]


async def test_who_has_the_number_of_a_writer_that_is_gone_is_not_ended(one: Any, other: Any, neighbour: Any) -> None:
    """Process numbers come again: that of a writer may be a report's by now. Only number and start together are the writer."""
    await SpoolCursor(7, "clicks").claim(one)
    number = await other.fetchval("SELECT pg_backend_pid()")
    await one.execute("UPDATE spool_cursors SET writer_pid = $1 WHERE spool_id = 7 AND log = 'clicks'", number)
    async with other.transaction():
        await other.execute("SELECT FROM spool_cursors WHERE spool_id = 7 AND log = 'clicks' FOR UPDATE")
        with pytest.raises(PostgresError, match="lock timeout"):
            await SpoolCursor(7, "clicks").claim(neighbour)
    assert [True] * 2 == [await lives(one), await lives(other)]


async def test_what_waiting_does_not_mend_is_told_at_once(one: Any) -> None:
    """A schema that is not there, a right that is missing: the claim says it, instead of ending a writer for it."""
    await one.execute("ALTER TABLE spool_cursors RENAME TO renamed")
    with pytest.raises(PostgresError, match="does not exist"):
        await SpoolCursor(7, "clicks").claim(one)
    assert one.is_in_transaction()      # it ended with the first try, which nobody rolled back
    await one.execute("ROLLBACK")


async def test_a_claim_after_a_doubtful_commit_says_what_became_of_it(one: Any, other: Any) -> None:
    cursor = SpoolCursor(7, "clicks")
    await cursor.claim(one)
    await one.execute("BEGIN")
    await cursor.advance(one, 0, stored=5)
    pid = await one.fetchval("SELECT pg_backend_pid()")
    doubts = [cursor.in_doubt]
    await other.execute("SELECT pg_terminate_backend($1)", pid)
    with pytest.raises((PostgresError, *Unavailable)):
        await cursor.commit(one)
    doubts.append(cursor.in_doubt)
    assert 0 == await cursor.claim(other)
    assert [False, True, False] == [*doubts, cursor.in_doubt]


async def test_a_flush_brings_earlier_commits_to_the_disk_and_touches_its_own_mark_only(one: Any, neighbour: Any) -> None:
    cursor = SpoolCursor(7, "clicks")
    await cursor.claim(one)
    await one.execute("SET synchronous_commit = off")
    await one.execute("UPDATE spool_cursors SET updated_at = 'epoch'")
    written = await one.fetchval("SELECT pg_current_wal_insert_lsn()")
    await cursor.flush(one)
    assert await one.fetchval("SELECT pg_current_wal_flush_lsn() >= $1", written)
    touched = await neighbour.fetch("SELECT spool_id, log FROM spool_cursors WHERE updated_at > 'epoch'")
    assert [(7, "clicks")] == [tuple(row) for row in touched]
    assert not one.is_in_transaction()
