"""Brings schema.sql into a database, and says how a database differs from it.

schema.sql is the truth and applying it again changes nothing, so there is no second description of it to compare
with: the check applies it to an empty schema inside a transaction, compares the two in PostgreSQL's own words, and
rolls back.
"""

from importlib import resources
from pathlib import Path

from tracker.storage.postgres import Connection

VERSION = 1
"""What schema.sql writes into schema_version; a database with a newer one belongs to a newer program."""

_SCRATCH = "tracker_schema_check"
_LOCK = "SELECT pg_advisory_xact_lock(hashtext('tracker schema'))"  # two starts at once: the second finds it done
_HAS_VERSION = "SELECT to_regclass('schema_version') IS NOT NULL"
_NEWEST = "SELECT max(version) FROM schema_version"

# One line per thing, in words that are equal in every schema. Partitions of clicks are the job's, so not compared.
_DESCRIBE = """
    WITH relations AS (
        SELECT c.oid, c.relname, c.relkind FROM pg_class AS c
         WHERE c.relnamespace = current_schema()::regnamespace AND NOT c.relispartition AND c.relkind IN ('r', 'p', 'v')
    )
    SELECT relname AS relation, 'column ' || attname || ' ' || format_type(atttypid, atttypmod)
           || CASE WHEN attnotnull THEN ' NOT NULL' ELSE '' END
           || coalesce(' DEFAULT ' || pg_get_expr(d.adbin, d.adrelid), '') AS what
      FROM relations JOIN pg_attribute AS a ON a.attrelid = relations.oid AND a.attnum > 0 AND NOT a.attisdropped
      LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    UNION ALL
    SELECT relname, 'constraint ' || pg_get_constraintdef(k.oid, true)
      FROM relations JOIN pg_constraint AS k ON k.conrelid = relations.oid AND k.contype <> 'n'
    UNION ALL
    SELECT relname, 'index ' || replace(pg_get_indexdef(i.indexrelid), current_schema() || '.', '')
      FROM relations JOIN pg_index AS i ON i.indrelid = relations.oid
    UNION ALL
    SELECT relname, 'trigger ' || replace(pg_get_triggerdef(t.oid, true), current_schema() || '.', '')
      FROM relations JOIN pg_trigger AS t ON t.tgrelid = relations.oid AND NOT t.tgisinternal
    UNION ALL
    SELECT relname, 'view as ' || md5(pg_get_viewdef(oid, true)) FROM relations WHERE relkind = 'v'
    UNION ALL
    SELECT '', 'function ' || proname || '(' || pg_get_function_identity_arguments(oid) || ') ' || md5(prosrc)
           || CASE WHEN prosecdef THEN ' SECURITY DEFINER' ELSE '' END
      FROM pg_proc WHERE pronamespace = current_schema()::regnamespace
"""


class NewerSchemaError(Exception):
    """The database was brought up to date by a newer program."""


def schema_sql() -> str:
    """schema.sql: of the installed package, else of the repository this file stands in. FileNotFoundError when lost."""
    packaged = resources.files("tracker") / "schema.sql"
    if packaged.is_file():
        return packaged.read_text()
    return (Path(__file__).parents[2] / "schema.sql").read_text()


async def apply_schema(connection: Connection) -> bool:
    """Apply schema.sql, all or nothing; whether the database had no schema of ours before.

    NewerSchemaError; PostgresError, also when tables are in the way that are not ours.
    """
    async with connection.transaction():
        await connection.execute(_LOCK)
        version = await _version(connection)
        if version is not None and version > VERSION:
            raise NewerSchemaError(f"the database is of schema version {version}, this program knows {VERSION}")
        await connection.execute(schema_sql())
    await connection.execute("RESET client_min_messages")
    return version is None


async def check_schema(connection: Connection) -> list[str]:
    """Every difference from schema.sql, one line each; empty when there is none. Tables of others are not looked at.

    Needs the right to make a schema, which is rolled back. PostgresError.
    """
    there = await _describe(connection)
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(f"CREATE SCHEMA {_SCRATCH}; SET LOCAL search_path = {_SCRATCH}; {schema_sql()}")
        wanted = await _describe(connection)
    finally:
        await transaction.rollback()
    ours = {relation for relation, _ in wanted}
    missing = [f"missing: {relation} {what}".replace("  ", " ") for relation, what in wanted - there]
    extra = [f"not in schema.sql: {relation} {what}" for relation, what in there - wanted if relation in ours - {""}]
    version = await _version(connection)
    ahead = [f"schema version {version}, this program knows {VERSION}"] if version and version > VERSION else []
    return ahead + sorted(missing) + sorted(extra)


async def _version(connection: Connection) -> int | None:
    if not await connection.fetchval(_HAS_VERSION):
        return None
    newest: int | None = await connection.fetchval(_NEWEST)
    return newest


async def _describe(connection: Connection) -> set[tuple[str, str]]:
    return {(record["relation"], record["what"]) for record in await connection.fetch(_DESCRIBE)}
