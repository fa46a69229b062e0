"""Whether rows of a segment can go into the table as it is: by column names and types, decided before any row is
sent.

It stands alone because the answer must come before a COPY: a table that changed refuses every row, and halving such a
batch would quarantine all of them. Columns a segment does not have stay null; anything else holds
the segment.
"""

from tracker.storage.postgres import Connection
from tracker.storage.spool.segments import Column

_COLUMNS = """
    SELECT attname, atttypid::bigint AS oid, attnotnull AND NOT atthasdef AS needed
      FROM pg_attribute WHERE attrelid = 'clicks'::regclass AND attnum > 0 AND NOT attisdropped
"""


class TableColumns:
    """The columns of `clicks` as they were when `read` looked."""

    def __init__(self, oids: dict[str, int], needed: frozenset[str]) -> None:
        self._oids, self._needed = oids, needed

    @classmethod
    async def read(cls, connection: Connection) -> "TableColumns":
        """Ask PostgreSQL. PostgresError 42P01 when there is no such table."""
        records = await connection.fetch(_COLUMNS)
        return cls(
            {record["attname"]: record["oid"] for record in records},
            frozenset(record["attname"] for record in records if record["needed"]),
        )

    def refusal(self, columns: tuple[Column, ...]) -> str | None:
        """Why rows of these columns cannot be stored, in words for the log; None when they can."""
        for column in columns:
            oid = self._oids.get(column.name)
            if oid != column.oid:
                return f"column {column.name}: spooled as type {column.oid}, the table has {oid or 'no such column'}"
        missing = self._needed.difference(column.name for column in columns)
        return f"the table needs {', '.join(sorted(missing))}, which was not spooled" if missing else None
