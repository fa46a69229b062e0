"""Adds everything up and compares: spools with marks, marks with clicks, clicks with statistics, conversions with the
ledger.

It exists so that "nothing is lost and nothing counted twice" is something anyone can check at any time, in production,
with one command. Reads only: one snapshot of the database, and the files as they are. Repairs nothing.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from uuid import UUID

from tracker.storage.clicks.partitions import partition_bounds
from tracker.storage.postgres import Connection, Record
from tracker.storage.spool.dead_spool import find_spools, read_about
from tracker.storage.spool.reader import LogReader
from tracker.storage.spool.segments import Kind
from tracker.storage.spool.spool import spool_name

Amount = int | Decimal
_KINDS: tuple[Kind, ...] = ("clicks", "journal")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Sum:
    """One comparison: two figures that must be equal, and what each of them counts."""

    name: str
    expected: Amount
    expected_of: str
    found: Amount
    found_of: str

    @property
    def agrees(self) -> bool:
        return self.expected == self.found


_CURSORS = "SELECT * FROM spool_cursors ORDER BY spool_id, log"
_QUARANTINED = "SELECT coalesce(sum(count), 0)::bigint FROM quarantine WHERE log = 'clicks'"
_SPOILED = "SELECT coalesce(sum(count), 0)::bigint FROM quarantine WHERE log = 'journal' AND spool_id = $1"
_CLICKS = "SELECT count(*) FROM clicks"
_CLICKS_BETWEEN = "SELECT count(*) FROM clicks WHERE click_id >= $1 AND click_id < $2"
_STRAYS = """
    SELECT count(*) FROM clicks_stray AS s WHERE NOT EXISTS (SELECT 1 FROM clicks AS c WHERE c.click_id = s.click_id)
"""
_COUNTED = """
    SELECT (bucket AT TIME ZONE 'UTC')::date AS day,
           coalesce(sum(clicks) FILTER (WHERE per_link), 0)::bigint AS link,
           coalesce(sum(clicks) FILTER (WHERE NOT per_link), 0)::bigint AS source
      FROM (SELECT bucket, true AS per_link, clicks FROM click_stats_by_link
            UNION ALL SELECT bucket, false, clicks FROM click_stats_by_source
            UNION ALL SELECT bucket, link_id IS NOT NULL, clicks FROM click_stats_new) AS s GROUP BY 1
"""
_LOGGED = "SELECT count(*) FROM postback_log WHERE message_id >= $1 AND message_id < $2"
_LEDGER = """
    SELECT currency, coalesce(sum(owed), 0) AS owed, coalesce(sum(entered), 0) AS entered
      FROM (SELECT commission_currency AS currency, commission_owed AS owed, NULL::numeric AS entered
              FROM conversion_state WHERE commission_owed <> 0
            UNION ALL SELECT currency, NULL, amount FROM ledger) AS both_sides
     GROUP BY 1 ORDER BY 1
"""

# Each counts conversions that break a rule: none may.
_RULES = {
    "conversions whose ledger is not what their state owes": """
        SELECT count(*) FROM conversion_state AS s
          FULL JOIN (SELECT conversion_id, sum(amount) AS owed, count(DISTINCT currency) AS currencies,
                            min(currency) AS currency FROM ledger GROUP BY 1) AS l USING (conversion_id)
         WHERE s.conversion_id IS NULL OR coalesce(l.owed, 0) <> s.commission_owed OR l.currencies > 1
            OR (s.commission_owed <> 0 AND s.commission_currency IS DISTINCT FROM l.currency)
    """,
    "conversions that owe without being approved and credited": """
        SELECT count(*) FROM conversion_state
         WHERE commission_owed <> 0 AND (status <> 'approved' OR test OR partner_id IS NULL)
    """,
    "conversions without a state": """
        SELECT count(*) FROM conversions AS c WHERE NOT EXISTS
               (SELECT 1 FROM conversion_state AS s WHERE s.conversion_id = c.conversion_id)
    """,
    "states without a conversion or a status": """
        SELECT count(*) FROM conversion_state AS s WHERE s.status IS NULL OR NOT EXISTS
               (SELECT 1 FROM conversions AS c WHERE c.conversion_id = s.conversion_id)
    """,
    "outgoing postbacks of steps that are not in the history": """
        SELECT count(*) FROM outbox AS o WHERE NOT EXISTS
               (SELECT 1 FROM conversion_history AS h WHERE (h.conversion_id, h.entry) = (o.conversion_id, o.entry))
    """,
    "conversions whose entries in history and ledger have gaps": """
        SELECT count(*) FROM conversion_state AS s
          LEFT JOIN (SELECT conversion_id, count(DISTINCT entry) AS entries, min(entry) AS first, max(entry) AS last
                       FROM (SELECT conversion_id, entry FROM conversion_history
                             UNION ALL SELECT conversion_id, entry FROM ledger) AS e GROUP BY 1) AS e USING (conversion_id)
         WHERE coalesce(e.entries, 0) <> s.last_entry OR coalesce(e.last, 0) <> s.last_entry OR coalesce(e.first, 1) <> 1
    """,
}


async def verify(connection: Connection, spool_dir: Path | None) -> list[Sum]:
    """All comparisons, in the order of a click's way and then of a sale's. `spool_dir` None: no files to look at.

    PostgresError; OSError when the spools cannot be read.
    """
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        await connection.execute("SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0")
        cursors = await connection.fetch(_CURSORS)
        spools = read_spools(spool_dir) if spool_dir else []  # after the snapshot: a live spool has more, never less
        sums = [_appended(cursors, spools, kind) for kind in _KINDS] + [_left_behind(cursors, spools)]
        sums += await _clicks(connection, [cursor for cursor in cursors if cursor["log"] == "clicks"])
        sums += await _journals(connection, [cursor for cursor in cursors if cursor["log"] == "journal"])
        for record in await connection.fetch(_LEDGER):
            name = f"commission owed, {record['currency']}"
            sums.append(Sum(name, record["owed"], "conversions' states", record["entered"], "ledger entries"))
        for rule, query in _RULES.items():
            sums.append(Sum(rule, 0, "allowed", await connection.fetchval(query), "found"))
    return sums


@dataclass(frozen=True, slots=True)
class SpoolOnDisk:
    """What a spool's files say: the number after the last row of each log."""

    spool_id: int
    end_seq: dict[Kind, int]


def read_spools(spool_dir: Path) -> list[SpoolOnDisk]:
    """The spools under TRACKER_SPOOL_DIR. Takes no locks. Copies are left out: what one of them lacks is no loss."""
    found = []
    for path in find_spools(spool_dir):
        try:
            spool_id = int(read_about(path)["spool_id"], 16)
        except (KeyError, TypeError, ValueError):
            continue
        if path.name == spool_name(spool_id):
            readers = [LogReader(path, kind, spool_id=spool_id) for kind in _KINDS]
            found.append(SpoolOnDisk(spool_id, {reader.kind: reader.end_seq() for reader in readers}))
            for reader in readers:
                reader.close()
    return found


def _appended(cursors: list[Record], spools: list[SpoolOnDisk], kind: Kind) -> Sum:
    """Rows that spools took: a dead spool's mark may be ahead of its files, when a power cut took their end."""
    marks = {cursor["spool_id"]: cursor for cursor in cursors if cursor["log"] == kind}
    ends = {spool.spool_id: spool.end_seq[kind] for spool in spools}
    appended = sum(max(ends.get(one, 0), marks[one]["next_seq"] if one in marks else 0) for one in marks.keys() | ends)
    arrived = sum(mark["rows_stored"] + mark["rows_stray"] + mark["rows_quarantined"] for mark in marks.values())
    pending = sum(max(0, end - (marks[one]["next_seq"] if one in marks else 0)) for one, end in ends.items())
    found_of = f"stored, stray or quarantined, and {pending} pending"
    return Sum(f"rows in spools, {kind}", appended, "appended", arrived + pending, found_of)


def _left_behind(cursors: list[Record], spools: list[SpoolOnDisk]) -> Sum:
    """Closed books say that everything is stored: nothing may be left in the files."""
    closed = {(one["spool_id"], one["log"]): one["next_seq"] for one in cursors if one["closed_at"] is not None}
    ends = {(spool.spool_id, kind): end for spool in spools for kind, end in spool.end_seq.items()}
    left = sum(max(0, end - closed[place]) for place, end in ends.items() if place in closed)
    return Sum("rows left in spools whose books are closed", 0, "allowed", left, "found")


async def _clicks(connection: Connection, cursors: list[Record]) -> list[Sum]:
    counted = {record["day"]: record for record in await connection.fetch(_COUNTED)}
    days: dict[str, list[Sum]] = {grain: [] for grain in ("link", "source")}
    for lower, upper in zip(*await partition_bounds(connection), strict=True):
        first, last = _day_of(lower), _day_of(upper)
        rows = await connection.fetchval(_CLICKS_BETWEEN, UUID(int=lower), UUID(int=min(upper, (1 << 128) - 1)))
        found = [counted.pop(day) for day in list(counted) if first <= day < last]
        for grain, sums in days.items():
            sums.append(Sum(f"clicks of {first}", rows, "rows", sum(one[grain] for one in found), f"statistics per {grain}"))
    rows = await connection.fetchval(_CLICKS)
    gone = {grain: sum(one[grain] for one in counted.values()) for grain in days}
    strays = await connection.fetchval(_STRAYS)
    stored = sum(cursor["rows_stored"] + cursor["rows_stray"] for cursor in cursors)
    found_of = f"in clicks, {strays} strays, {gone['link']} of days dropped since"
    return [
        Sum("clicks stored", stored, "by the spools' marks", rows + strays + gone["link"], found_of),
        Sum(
            "clicks quarantined",
            sum(cursor["rows_quarantined"] for cursor in cursors), "by the spools' marks",
            await connection.fetchval(_QUARANTINED), "in quarantine",
        ),
        *(
            Sum(f"clicks of {len(sums)} days, per {grain}", rows, "rows", sum(day.found for day in sums), f"statistics per {grain}")
            for grain, sums in days.items()
        ),
        Sum("clicks of days dropped since", gone["link"], "statistics per link", gone["source"], "statistics per source"),
        *(day for sums in days.values() for day in sums if not day.agrees),
    ]  # fmt: skip


async def _journals(connection: Connection, cursors: list[Record]) -> list[Sum]:
    """Every message below a mark is in the postback log, but for numbers that damage took."""
    spools: list[Sum] = []
    for cursor in cursors:
        spool_id, next_seq = cursor["spool_id"], cursor["next_seq"]
        logged = await connection.fetchval(_LOGGED, UUID(int=spool_id << 64), UUID(int=spool_id << 64 | next_seq))
        readable = next_seq - await connection.fetchval(_SPOILED, spool_id)
        spools.append(Sum(f"postbacks of spool {spool_name(spool_id)}", readable, "journalled", logged, "in the log"))
    expected, found = (sum(getattr(one, side) for one in spools) for side in ("expected", "found"))
    total = Sum(f"postbacks of {len(spools)} spools", expected, "journalled", found, "in the postback log")
    return [total, *(one for one in spools if not one.agrees)]


def _day_of(click_id: int) -> date:
    """The UTC day in which a click id, as a number, was made; the last possible one for ids beyond."""
    ms = min(click_id >> 83, 253_402_214_400_000)
    return (_EPOCH + timedelta(milliseconds=ms)).date()
