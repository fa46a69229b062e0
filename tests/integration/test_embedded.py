"""The embedded server as `tracker dev` and the tests use it: accounts, folders, locks, deaths and recoveries."""

import asyncpg


async def test_an_empty_database_answers(empty_dsn: str) -> None:
    """Everything else stands on this fixture."""
    connection = await asyncpg.connect(empty_dsn)
    try:
        assert await connection.fetchval("SELECT 1") == 1
    finally:
        await connection.close()


async def test_a_database_with_the_schema_is_fresh(dsn: str) -> None:
    """A template that somebody wrote to would leak rows from test to test."""
    connection = await asyncpg.connect(dsn)
    try:
        assert await connection.fetchval("SELECT count(*) FROM clicks") == 0
    finally:
        await connection.close()
