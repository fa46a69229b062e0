"""How far a log of a spool has come into PostgreSQL, and who may move that mark: one row of `spool_cursors`.

It stands alone because exactly-once rests on it and on nothing else: rows and mark move in one transaction, and only
the backend that the row names may move it. So a transaction whose connection broke can be judged afterwards by
reading the mark, and a backend that still runs it is ended, not waited for (no timeout of the server frees one stuck
inside COPY). What is shipped lives in clicks/store.py, when and how often in shipper.py.
"""

from collections.abc import Sequence
from datetime import datetime

from tracker.storage.postgres import Connection, PostgresError
from tracker.storage.spool.segments import Kind
from tracker.storage.together import Part, execute_if

LOCK_NOT_AVAILABLE = "55P03"
CLAIM_TRIES = 3
"""Each waits a second for the row, then ends its holder: dead in 2 ms, so the second try finds the row free."""

_LOCK = "SELECT next_seq FROM spool_cursors WHERE spool_id = $1 AND log = $2 FOR UPDATE"
_CREATE = "INSERT INTO spool_cursors (spool_id, log) VALUES ($1, $2) ON CONFLICT DO NOTHING"
_NAME_WRITER = """
    UPDATE spool_cursors SET writer_pid = a.pid, writer_start = a.backend_start, updated_at = now()
      FROM pg_stat_activity AS a
     WHERE spool_id = $1 AND log = $2 AND a.pid = pg_backend_pid()
    RETURNING writer_start
"""
_END_WRITER = """
    SELECT pg_terminate_backend(a.pid)
      FROM spool_cursors AS c JOIN pg_stat_activity AS a ON a.pid = c.writer_pid AND a.backend_start = c.writer_start
     WHERE c.spool_id = $1 AND c.log = $2 AND a.pid <> pg_backend_pid()
"""
_STILL_OURS = """
    SELECT 1 FROM spool_cursors
     WHERE spool_id = $1 AND log = $2 AND next_seq = $3 AND writer_pid = pg_backend_pid() AND writer_start = $4
       FOR UPDATE
"""
_ADVANCE = """
    UPDATE spool_cursors
       SET next_seq = next_seq + $5 + $6 + $7, rows_stored = rows_stored + $5, rows_stray = rows_stray + $6,
           rows_quarantined = rows_quarantined + $7, updated_at = now(), closed_at = NULL
     WHERE spool_id = $1 AND log = $2 AND next_seq = $3 AND writer_pid = pg_backend_pid() AND writer_start = $4
"""
_TOUCH = "UPDATE spool_cursors SET updated_at = now() WHERE spool_id = $1 AND log = $2"


class CursorMovedError(Exception):
    """The mark is not where this process left it, or names another writer: claim it again, go on from what it says."""


class SpoolCursor:
    """The mark of one log of one spool. Made without a connection; every call is given the one that claimed it last."""

    def __init__(self, spool_id: int, log: Kind) -> None:
        self.spool_id, self.log = spool_id, log
        self._writer_start: datetime | None = None
        self.in_doubt = False  # a commit was sent and nothing came back; only `claim` finds out

    async def claim(self, connection: Connection) -> int:
        """Make `connection` the writer and return the first sequence number that is not stored yet.

        Ends the backend named in the row when it still holds it after a second. PostgresError 55P03 when another does.
        """
        for _ in range(CLAIM_TRIES - 1):
            try:
                return await self._take(connection)
            except PostgresError as error:
                if error.sqlstate != LOCK_NOT_AVAILABLE:
                    raise
                await connection.execute("ROLLBACK")
                await connection.fetch(_END_WRITER, self.spool_id, self.log)
        return await self._take(connection)

    async def _take(self, connection: Connection) -> int:
        await connection.execute("BEGIN; SET LOCAL lock_timeout = '1s'")
        next_seq = await connection.fetchval(_LOCK, self.spool_id, self.log)
        if next_seq is None:
            await connection.execute(_CREATE, self.spool_id, self.log)
            next_seq = await connection.fetchval(_LOCK, self.spool_id, self.log)
        self._writer_start = await connection.fetchval(_NAME_WRITER, self.spool_id, self.log)
        await connection.execute("COMMIT")
        self.in_doubt = False
        return int(next_seq)

    async def hold(self, connection: Connection, at: int) -> None:
        """Lock the mark inside the caller's transaction. CursorMovedError when it is not at `at` or not ours."""
        if await connection.fetchval(_STILL_OURS, self.spool_id, self.log, at, self._writer_start) is None:
            raise CursorMovedError

    async def advance(
        self, connection: Connection, at: int, *, stored: int, stray: int = 0, quarantined: int = 0
    ) -> None:
        """Move the mark from `at` by so many rows, inside the caller's transaction. CursorMovedError as for `hold`."""
        marks = (self.spool_id, self.log, at, self._writer_start, stored, stray, quarantined)
        status = await connection.execute(_ADVANCE, *marks)
        if status != "UPDATE 1":
            raise CursorMovedError

    async def advance_with(
        self, connection: Connection, at: int, parts: Sequence[Part], *, stored: int, quarantined: int
    ) -> None:
        """Move the mark and carry out these statements (together.ALWAYS), all in one that is its own transaction: a round
        trip in place of three. CursorMovedError as for `hold`: then nothing was written."""
        marks = (self.spool_id, self.log, at, self._writer_start, stored, 0, quarantined)
        self.in_doubt = True
        try:
            moved = await execute_if(connection, (_ADVANCE + "RETURNING 1", marks), *parts)
        except PostgresError:
            self.in_doubt = connection.is_closed()      # else the server has said that nothing came of it
            raise
        self.in_doubt = False
        if not moved:
            raise CursorMovedError

    async def commit(self, connection: Connection) -> None:
        """End the caller's transaction. When this raises, whether it was committed is in doubt."""
        self.in_doubt = True
        await connection.execute("COMMIT")
        self.in_doubt = False

    async def flush(self, connection: Connection) -> None:
        """A synchronous commit: every earlier commit of the server is on its disk when this returns."""
        await connection.execute("BEGIN; SET LOCAL synchronous_commit = on")
        await connection.execute(_TOUCH, self.spool_id, self.log)
        await connection.execute("COMMIT")
