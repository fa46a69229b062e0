"""`tracker db roles`: what each role may not do, that nothing was forgotten, and that anybody's administrator can apply it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from demo_world import fetch, make_world, value
from postgres_fixtures import PostgresFactory
from roled import ROLES, Roled, roled
from shipping import database

README = Path(__file__).parents[2] / "README.md"
MONEY = ("conversions", "conversion_history", "ledger")
DENIED = ("permission denied", "must be owner of", "must be a")


@pytest.fixture(scope="module")
def world(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Roled]:
    with roled(engine, tmp_path_factory.mktemp(f"roles{engine}")) as made:
        yield made


async def refusal(dsn: str, statement: str) -> str:
    """What PostgreSQL says to a statement it refuses; empty: it was carried out (and is rolled back)."""
    async with database(dsn) as db:
        transaction = db.transaction()
        await transaction.start()
        try:
            await db.execute("SET LOCAL transaction_read_only = off; " + statement)
        except asyncpg.PostgresError as error:
            return str(error)
        finally:
            await transaction.rollback()
    return ""


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("table", MONEY)
async def test_nobody_changes_or_deletes_money(world: Roled, role: str, table: str) -> None:
    """A stolen password, or a mistake of ours, must not be able to rewrite what partners are owed. Not even the owner's."""
    owner = role == "tracker_migrator"      # he has the right; a trigger stands in his way
    for statement in (f"UPDATE {table} SET conversion_id = conversion_id", f"DELETE FROM {table}", f"TRUNCATE {table}"):
        said = await refusal(world.of(role), statement)
        assert f"{table} is append-only" == said if owner else said.startswith(DENIED), (statement, said)


@pytest.mark.parametrize(("role", "statements"), [
    ("tracker_edge", (
        "UPDATE clicks SET flags = 0", "DELETE FROM clicks", "DELETE FROM pending", "DELETE FROM postback_log",
        "UPDATE postback_log SET message = '{}'", "UPDATE links SET destination = 'https://evil.example/'",
        "INSERT INTO partners (partner_id, slug, name) VALUES (1, 'x', 'x')", "UPDATE credentials SET revoked_at = NULL",
        "UPDATE commission_terms SET rate = 100", "SELECT * FROM job_leases", "DELETE FROM spool_cursors",
        "SELECT ensure_click_partitions('2027-01-01', 1)", "SELECT drop_click_partitions('2020-01-01')",
        "CREATE TABLE mine (x integer)", "DROP TABLE clicks", "ALTER TABLE ledger DISABLE TRIGGER ALL",
        "SELECT secret FROM outbox_endpoints", "SELECT url FROM outbox_endpoints", "SELECT said FROM outbox", "DELETE FROM outbox",
        "UPDATE outbox SET state = 'sent'", "UPDATE outbox_endpoints SET url = 'https://evil.example/'",
    )),
    ("tracker_control", (
        "UPDATE outbox_endpoints SET secret = sha256('mine')", "UPDATE outbox SET said = '{}'", "DELETE FROM outbox_endpoints",
        "UPDATE clicks SET flags = 0", "DELETE FROM clicks", "DELETE FROM postback_log", "DELETE FROM links",
        "UPDATE credentials SET token_hash = sha256('mine')", "UPDATE commission_terms SET rate = 100",
        "UPDATE link_versions SET destination = ''", "SELECT drop_click_partitions('2020-01-01')",
        "CREATE TABLE mine (x integer)", "DROP TABLE clicks", "ALTER TABLE ledger DISABLE TRIGGER ALL",
    )),
    ("tracker_reporter", (
        "SELECT ip FROM clicks", "SELECT 1 FROM clicks_stray", "SELECT customer FROM conversions", "SELECT 1 FROM postback_log",
        "SELECT secret FROM outbox_endpoints", "SELECT said FROM outbox",
        "SELECT hmac_secret FROM credentials", "SELECT record FROM quarantine", "SELECT 1 FROM spool_cursors",
        "SELECT message FROM pending", "UPDATE report_conversions SET status = 'approved'", "CREATE TABLE mine (x integer)",
    )),
    ("tracker_retention", (
        "SELECT 1 FROM clicks", "SELECT 1 FROM report_clicks", "DELETE FROM clicks", "DROP TABLE clicks",
        "SELECT ensure_click_partitions('2027-01-01', 1)", "CREATE TABLE mine (x integer)",
    )),
])  # fmt: skip
async def test_what_a_role_is_not_for_is_denied(world: Roled, role: str, statements: tuple[str, ...]) -> None:
    for statement in statements:
        assert (await refusal(world.of(role), statement)).startswith(DENIED), statement


async def test_a_role_ends_its_own_backends_and_nobody_elses(world: Roled) -> None:
    """An edge frees its spool from a backend that hangs; with the same right over others, one could stop them all."""
    async with database(world.dsn) as superuser, database(world.of("tracker_control")) as control, \
            database(world.of("tracker_edge")) as edge:
        for other in (superuser, control):
            end = f"SELECT pg_terminate_backend({other.get_server_pid()})"
            assert (await refusal(world.of("tracker_edge"), end)).startswith(DENIED)
        assert "" == await refusal(world.of("tracker_edge"), f"SELECT pg_terminate_backend({edge.get_server_pid()})")


async def test_retention_drops_old_days_and_only_those(world: Roled) -> None:
    """The one role that can lose clicks: whoever holds it must not be able to lose those of this week."""
    days = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'clicks'::regclass"
    before = value(world.dsn, days)
    fetch(world.dsn, "SELECT ensure_click_partitions((now() AT TIME ZONE 'UTC')::date - 40, 3)")
    drop = "SELECT drop_click_partitions((now() AT TIME ZONE 'UTC')::date - {})"
    assert 2 == value(world.of("tracker_retention"), drop.format(38))
    assert 1 == value(world.of("tracker_retention"), drop.format(37))
    assert before == value(world.dsn, days)
    assert "the last 7 days of clicks are kept" == await refusal(world.of("tracker_retention"), drop.format(6))
    assert "" == await refusal(world.of("tracker_retention"), drop.format(7))


def test_reports_can_be_read_and_hold_nothing_that_names_a_person(world: Roled) -> None:
    """Reports are given to people and tools; an address or a customer's number must not be a query away."""
    readable = fetch(world.dsn, """
        SELECT c.relname, a.attname, a.atttypid::regtype::text AS type
          FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
         WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v') AND a.attnum > 0 AND NOT a.attisdropped
           AND has_column_privilege('tracker_reporter', c.oid, a.attnum, 'SELECT')
    """)
    views = {
        "report_clicks", "report_conversions", "report_ledger", "report_names", "click_statistics", "click_source_statistics",
    }
    assert views == {row["relname"] for row in readable}
    assert not {"ip", "visitor", "user_agent", "query", "customer", "message"} & {row["attname"] for row in readable}
    assert not {"inet", "cidr", "jsonb", "bytea"} & {row["type"] for row in readable}
    for view in views:
        fetch(world.of("tracker_reporter"), f"SELECT * FROM {view} LIMIT 1")


async def test_sessions_have_limits_and_public_makes_nothing(world: Roled) -> None:
    """A report that runs for an hour holds back vacuum; a pool that grows takes the connections of those who record sales."""
    timeouts = {"edge": ("30s", "5s"), "control": ("30s", "5s"), "reporter": ("1min", "5s"), "retention": ("1min", "1s")}
    for role, expected in timeouts.items():
        async with database(world.of(f"tracker_{role}")) as db:
            assert expected == (await db.fetchval("SHOW statement_timeout"), await db.fetchval("SHOW lock_timeout"))
    retention = world.of("tracker_retention")
    async with database(retention), database(retention):
        with pytest.raises(asyncpg.TooManyConnectionsError):
            await asyncpg.connect(retention)
    fetch(world.dsn, "DO $$ BEGIN IF to_regrole('stranger') IS NULL THEN CREATE ROLE stranger LOGIN; END IF; END $$")
    fetch(world.dsn, "GRANT CONNECT ON DATABASE postgres TO stranger")
    assert (await refusal(world.of("stranger"), "CREATE TABLE mine (x integer)")).startswith(DENIED)


async def test_what_the_runbooks_ask_control_may_ask(world: Roled) -> None:
    """They are read when something is wrong already."""
    statements = re.findall(r"```sql\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(statements) == 2
    for statement in statements:
        assert "" == await refusal(world.of("tracker_control"), statement)


def test_every_table_view_and_function_has_its_owner(world: Roled) -> None:
    """What schema.sql gains and roles.sql forgets would be nobody's: the next migration could not change it."""
    forgotten = """
        SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v')
           AND relowner <> 'tracker_migrator'::regrole
        UNION ALL
        SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND proowner <> 'tracker_migrator'::regrole
    """
    assert [] == fetch(world.dsn, forgotten)


_GRANTS = """
    SELECT oid::regclass::text AS what, relacl::text AS acl FROM pg_class WHERE relnamespace = 'public'::regnamespace
    UNION ALL SELECT attrelid::regclass || '.' || attname, attacl::text FROM pg_attribute
     WHERE attacl IS NOT NULL AND attrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace)
    UNION ALL SELECT oid::regprocedure::text, proacl::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    UNION ALL SELECT rolname, rolconnlimit || array_to_string(rolconfig, ',') FROM pg_roles WHERE rolname LIKE 'tracker%'
    UNION ALL SELECT 'schema', nspacl::text FROM pg_namespace WHERE nspname = 'public'
     ORDER BY 1, 2
"""


def test_applied_again_it_changes_nothing_and_takes_back_what_was_granted_beside_it(world: Roled) -> None:
    """After each migration it is run again, on a database in use; a grant someone made in a hurry must not stay."""
    first = fetch(world.dsn, _GRANTS)
    fetch(world.dsn, "GRANT DELETE ON ledger TO tracker_edge")
    fetch(world.dsn, "GRANT SELECT (ip) ON clicks TO tracker_reporter")
    assert first != fetch(world.dsn, _GRANTS)
    world.apply()
    assert first == fetch(world.dsn, _GRANTS)


def test_an_administrator_who_is_no_superuser_can_apply_it(postgres_factory: PostgresFactory, engine: str) -> None:
    """Managed PostgreSQL gives nobody a superuser: the owner of the database, who may make roles, is all there is."""
    with postgres_factory(durable=False) as postgres:
        world = Roled(postgres.dsn, engine)
        fetch(world.dsn, "CREATE ROLE admin LOGIN CREATEROLE")
        fetch(world.dsn, "CREATE DATABASE managed OWNER admin")
        managed = world.of("admin").replace("/postgres?", "/managed?")
        make_world(managed, links=3, schema=True)
        for _ in range(2):
            world.apply(dsn=managed)
        as_edge = managed.replace("://admin@", "://tracker_edge@")
        assert 3 == value(as_edge, "SELECT count(*) FROM links")
        assert "tracker_migrator" == value(managed, "SELECT relowner::regrole::text FROM pg_class WHERE oid = 'clicks'::regclass")
