"""schema.sql goes into an empty database, changes nothing when applied again, and differences are told."""

import asyncio

import pytest
from shipping import database

from tracker.storage.schema import NewerSchemaError, apply_schema, check_schema


async def test_the_schema_is_applied_once_and_matches_itself(empty_dsn: str) -> None:
    """Several starts apply it at the same moment; a check that complains of a fresh database is never read again."""
    async with database(empty_dsn) as one, database(empty_dsn) as other:
        assert "missing: clicks column click_id uuid NOT NULL" in await check_schema(one)
        assert [False, True] == sorted(await asyncio.gather(apply_schema(one), apply_schema(other)))
        assert [] == await check_schema(one)
        await other.execute("CREATE TABLE somebody_elses (x integer)")
        assert not await apply_schema(one)
        assert [] == await check_schema(one)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("ALTER TABLE ledger DROP CONSTRAINT ledger_pkey", "missing: ledger constraint PRIMARY KEY (conversion_id"),
        ("ALTER TABLE clicks ADD COLUMN extra integer", "not in schema.sql: clicks column extra integer"),
        ("ALTER TABLE ledger DROP amount CASCADE; ALTER TABLE ledger ADD amount double precision", "double precision"),
        ("DROP TRIGGER append_only ON ledger", "missing: ledger trigger CREATE TRIGGER append_only"),
        ("DROP INDEX coupons_code", "missing: coupons index CREATE UNIQUE INDEX coupons_code"),
        ("DROP VIEW click_statistics", "missing: click_statistics view as"),
        ("ALTER FUNCTION ensure_click_partitions SECURITY INVOKER", "SECURITY DEFINER"),
        ("CREATE OR REPLACE FUNCTION append_only() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
         "missing: function append_only()"),
    ],
)  # fmt: skip
async def test_every_kind_of_difference_is_told(dsn: str, change: str, told: str) -> None:
    """A guard that is gone, money in a float: the check is where it would be noticed."""
    async with database(dsn) as db:
        await db.execute(change)
        assert any(told in line for line in await check_schema(db))


async def test_a_newer_database_is_left_alone(dsn: str) -> None:
    """After a rollback the older program must not undo what the newer one made."""
    async with database(dsn) as db:
        await db.execute("INSERT INTO schema_version (version) VALUES (1000)")
        with pytest.raises(NewerSchemaError):
            await apply_schema(db)
        assert "schema version 1000" in (await check_schema(db))[0]
