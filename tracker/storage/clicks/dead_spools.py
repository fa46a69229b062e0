"""Ships what earlier starts of workers left, closes their books, and removes their directories when their time is
over.

It exists because a spool outlives the worker that wrote it: every worker looks for such spools when it starts and now
and then, and whoever gets a spool's lock ships it. A shipped spool is kept a day, its journal a week: a failover or a
restore that loses commits takes the marks back with it, and the spool is shipped again from there. How rows are
shipped lives in shipper.py and the recorder; what is on the disk in dead_spool.py.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from tracker.domain.click_id import uuid_time_ms
from tracker.storage.clicks.shipper import Shipper, ShipperCounts
from tracker.storage.clicks.statistics import click_id_at, leads_as_expected
from tracker.storage.postgres import PostgresError, Record, Unavailable, connect
from tracker.storage.spool.dead_spool import DeadSpool, find_spools
from tracker.storage.spool.log import SpoolError
from tracker.storage.spool.reader import Batch, LogReader
from tracker.storage.spool.spool import KEEP_CLICKS_SECONDS, KEEP_JOURNAL_SECONDS, spool_name
from tracker.storage.spool.worker_numbers import confirm, note_shipped

logger = logging.getLogger(__name__)

EVERY_SECONDS: Final = 30.0
"""A worker that died is replaced within a second and its successor looks at once; this is for what nobody replaced."""
RETRY_SECONDS: Final = 5.0  # while PostgreSQL is away
TRY_SECONDS: Final = 3600.0  # then the next spool gets a try, should one be held up by itself

ApplyJournal = Callable[[DeadSpool], Awaitable[bool]]
"""Records what is left in a dead spool's journal; False when it could not be finished."""

_MARKS = """
    SELECT spool_id, coalesce(max(next_seq) FILTER (WHERE log = 'clicks'), 0) AS clicks,
           coalesce(max(next_seq) FILTER (WHERE log = 'journal'), 0) AS journal,
           CASE WHEN bool_and(closed_at IS NOT NULL)
                THEN extract(epoch FROM now() - max(closed_at))::float END AS closed_for
      FROM spool_cursors WHERE spool_id = ANY ($1) GROUP BY spool_id
"""
_CLOSE = "UPDATE spool_cursors SET closed_at = now() WHERE spool_id = $1 AND closed_at IS NULL"
_BEHIND = """
    SELECT files.log FROM (VALUES ('clicks', $2::bigint), ('journal', $3)) AS files (log, end_seq)
      LEFT JOIN spool_cursors AS c ON c.spool_id = $1 AND c.log = files.log WHERE coalesce(c.next_seq, 0) < files.end_seq
"""


async def ship_dead_spool(
    dsn: str,
    spool: DeadSpool,
    apply_journal: ApplyJournal,
    *,
    counts: ShipperCounts | None = None,
    seconds: float = TRY_SECONDS,
) -> bool:
    """Ship a locked spool to its end, both logs, and close its books; False when `seconds` were over first, or a mark has gone
    back meanwhile (a failover to a replica that lags): to be called again.

    PostgresError and `Unavailable` when the books could not be closed: to be called again.
    """
    shipper = Shipper(dsn, spool.spool_id, spool.clicks, counts=counts)
    if not await shipper.drain(seconds) or not await apply_journal(spool):
        return False
    # In a thread: the end of a full segment is 0.2 s away, and clicks are answered on this loop.
    clicks_end, journal_end, last_id_ms = await asyncio.to_thread(_ends, spool)
    connection = await connect(dsn)
    try:
        await connection.execute("BEGIN; SET LOCAL synchronous_commit = on")
        if await connection.fetch(_BEHIND, spool.spool_id, clicks_end, journal_end):
            return False
        number = spool.about.get("worker")
        if isinstance(number, int):  # a start that never reached PostgreSQL has not confirmed it
            await confirm(connection, number, spool.spool_id)
        await note_shipped(connection, spool.spool_id, last_id_ms)
        await connection.execute(_CLOSE, spool.spool_id)
        await connection.execute("COMMIT")
    finally:
        connection.terminate()
    return True


class DeadSpools:
    """Looks after the dead spools under one TRACKER_SPOOL_DIR. One in each worker: the locks divide the work."""

    def __init__(
        self,
        dsn: str,
        root: Path,
        apply_journal: ApplyJournal,
        *,
        counts: ShipperCounts | None = None,
        scarce: Callable[[], bool] = lambda: False,
        keep_clicks_seconds: float = KEEP_CLICKS_SECONDS,
        keep_journal_seconds: float = KEEP_JOURNAL_SECONDS,
    ) -> None:
        """`scarce`: whether space is so short that shipped clicks must go before their time."""
        self._dsn, self._root, self._apply_journal = dsn, root, apply_journal
        self.counts = counts or ShipperCounts()
        self._scarce, self._keep_clicks, self._keep_journal = scarce, keep_clicks_seconds, keep_journal_seconds
        self._warned: set[Path] = set()
        self.waiting = 0
        """Dead spools seen at the last look that are not wholly shipped."""
        self.pending_rows = 0
        """Clicks of dead spools that are not stored, as the last look that reached PostgreSQL found them, less the
        spools shipped since. Every worker sees the same spools: take one worker's figure, not the sum."""

    async def run(self) -> None:
        """Look now and every EVERY_SECONDS, until cancelled."""
        while True:
            looked = await self.look()
            await asyncio.sleep(EVERY_SECONDS if looked else RETRY_SECONDS)

    async def look(self) -> bool:
        """Ship every spool that nobody writes or ships, remove what is old. False: PostgreSQL could not be asked, or
        the disk. Whatever is wrong with one spool, the others go on."""
        try:
            paths = find_spools(self._root)
            marks = await self._read_marks(paths)
        except (PostgresError, *Unavailable) as error:
            logger.warning("dead spools wait: %s: %s", type(error).__name__, error)
            return False
        waiting = 0
        # In a thread: the end of a full segment is 0.2 s away, and clicks are answered on this loop.
        pending = {path: await asyncio.to_thread(self._rows_left, path, marks.get(path.name)) for path in paths}
        self.pending_rows = sum(pending.values())
        for path in paths:
            mark = marks.get(path.name)
            closed_for = mark["closed_for"] if mark else None
            try:
                if mark is None or closed_for is None:
                    shipped = await self._ship(path)
                    waiting += not shipped
                    self.pending_rows -= pending[path] if shipped else 0
                elif closed_for >= self._keep_clicks or self._scarce():
                    keep = self._keep_journal if mark["journal"] else self._keep_clicks
                    self._clear(path, mark, whole=closed_for >= keep)
            except (PostgresError, SpoolError, *Unavailable) as error:
                waiting += 1
                logger.warning("spool %s is left for later: %s: %s", path.name, type(error).__name__, error)
            except Exception:  # a mistake of ours, met by this spool: a look that ends would leave all others unshipped
                waiting += 1
                logger.exception("spool %s is left for later", path.name)
        self.waiting = waiting
        return True

    async def _read_marks(self, paths: list[Path]) -> dict[str, Record]:
        """The marks of the spools PostgreSQL knows, by directory name."""
        ids = [spool_id for path in paths if (spool_id := _id_in(path.name)) is not None]
        if not ids:
            return {}
        connection = await connect(self._dsn)
        try:
            records = await connection.fetch(_MARKS, ids)
        finally:
            connection.terminate()
        return {spool_name(record["spool_id"]): record for record in records}

    def _rows_left(self, path: Path, mark: Record | None) -> int:
        """Clicks that only this spool's files have; 0 when its writer lives, somebody ships it, or it cannot be read."""
        if mark is not None and mark["closed_for"] is not None:
            return 0
        try:
            spool = DeadSpool.open(path)
        except OSError:  # told when it is to be shipped
            return 0
        if spool is None:
            return 0
        try:
            if spool.copied:
                return 0
            return max(0, spool.clicks.end_seq() - (mark["clicks"] if mark else 0))
        except OSError:
            return 0
        finally:
            spool.close()

    async def _ship(self, path: Path) -> bool:
        """False when a spool without an owner is not wholly shipped."""
        spool = DeadSpool.open(path)
        if spool is None:
            return True
        try:
            if spool.copied:
                if path not in self._warned:
                    self._warned.add(path)
                    logger.warning("%s is a copy of a spool: if it is all there is left, ship it by hand", path)
                return True
            if not await ship_dead_spool(self._dsn, spool, self._apply_journal, counts=self.counts):
                return False
            logger.info("spool %s of an earlier start is shipped", path.name)
            return True
        finally:
            spool.close()

    def _clear(self, path: Path, mark: Record, *, whole: bool) -> None:
        """Remove a shipped spool, or the shipped clicks of one whose journal is kept longer."""
        spool = DeadSpool.open(path)
        if spool is None:
            return
        removed = False
        try:
            if whole:
                spool.remove(clicks=mark["clicks"], journal=mark["journal"])
                removed = True  # and let go of
            else:
                spool.drop_segments("clicks", mark["clicks"])
        finally:
            if not removed:
                spool.close()


def _ends(spool: DeadSpool) -> tuple[int, int, int | None]:
    """How far its clicks and its journal go, and the time inside the last click id."""
    end_seq = spool.clicks.end_seq()
    return end_seq, spool.journal.end_seq(), _id_ms(spool.clicks, max(0, end_seq - 1))


def _id_ms(clicks: LogReader, seq: int) -> int | None:
    """The time inside the id of this click; None when damage took its row, or there is none."""
    found = clicks.read(seq, max_rows=1, max_bytes=1)
    if not isinstance(found, Batch) or not leads_as_expected(found.columns):
        return None
    return uuid_time_ms(click_id_at(found.rows, 0))


def _id_in(name: str) -> int | None:
    """The spool id a directory is called by; None for any other name."""
    try:
        spool_id = int(name, 16)
    except ValueError:
        return None
    return spool_id if name == spool_name(spool_id) and spool_id < 2**63 else None
