"""The catalog against real PostgreSQL: news within a second, outages, resync, snapshot, look-ups."""

import asyncio
import logging
import stat
from collections.abc import AsyncIterator, Callable
from hashlib import blake2b
from pathlib import Path

import asyncpg
import pytest
from silent_proxy import Proxy

from tracker.storage.catalog import catalog as catalog_module
from tracker.storage.catalog import snapshot as catalog_snapshot
from tracker.storage.catalog import sql as catalog_sql
from tracker.storage.catalog.catalog import Catalog


async def until(true: Callable[[], object], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.005)


@pytest.fixture
async def db(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(dsn)
    await connection.execute(
        "INSERT INTO programs (program_id, slug, name, currency) VALUES (1, 'shop', 'Shop', 'EUR');"
        "INSERT INTO partners (partner_id, slug, name) VALUES (2, 'anna', 'Anna')"
    )
    yield connection
    await connection.close()


@pytest.fixture
async def catalog(db: asyncpg.Connection, dsn: str, tmp_path: Path) -> AsyncIterator[Catalog]:
    one = Catalog(dsn, tmp_path)
    yield one
    await one.stop()


async def add_links(db: asyncpg.Connection, first: int, last: int, destination: str = "https://shop.example/") -> None:
    await db.execute(
        "INSERT INTO links (link_id, slug, program_id, partner_id, destination) "
        f"SELECT n, 'link' || n, 1, 2, '{destination}' FROM generate_series($1::int, $2::int) AS n",
        first, last,
    )  # fmt: skip


async def test_a_new_and_a_changed_link_are_known_at_once(catalog: Catalog, db: asyncpg.Connection) -> None:
    await catalog.start()
    await add_links(db, 7, 7)
    await until(lambda: catalog.links.get(b"link7"), 1.0)
    await db.execute("UPDATE links SET version = 2, status = 'archived' WHERE link_id = 7")
    await until(lambda: catalog.links[b"link7"].version == 2, 1.0)
    assert catalog.links[b"link7"] is catalog.links.numbered(7)
    assert "archived" == catalog.links[b"link7"].status


async def test_a_bulk_change_is_known_at_once(catalog: Catalog, db: asyncpg.Connection) -> None:
    """More than 50 rows are told of as "resync", without ids."""
    await catalog.start()
    await add_links(db, 1, 500)
    await until(lambda: len(catalog.rows["links"]) == 500, 1.0)


async def test_a_resync_finds_a_row_whose_transaction_ended_after_a_newer_one(
    catalog: Catalog, db: asyncpg.Connection, dsn: str
) -> None:
    """The danger of "newer than the newest seen": the older transaction's row would never be read."""
    old, reader = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    await catalog._load(reader, everything=True)
    async with old.transaction():
        await add_links(old, 1, 1)
        await add_links(db, 2, 2)
        await catalog._load(reader, everything=False)
        assert {2} == set(catalog.rows["links"])
    await catalog._load(reader, everything=False)
    assert {1, 2} == set(catalog.rows["links"])
    await old.close()
    await reader.close()


async def test_a_database_that_went_back_in_time_is_loaded_anew(
    catalog: Catalog, db: asyncpg.Connection, dsn: str
) -> None:
    """After a restore, what the lost transactions brought must go."""
    await add_links(db, 1, 2)
    await catalog.start()
    other = await asyncpg.connect(dsn)
    await db.execute("DELETE FROM links WHERE link_id = 2")
    assert catalog._horizon is not None
    catalog._horizon += 1_000_000
    await catalog._load(other, everything=False)
    assert {1} == set(catalog.rows["links"])
    await other.close()


async def test_one_bad_row_leaves_the_others_alone(
    catalog: Catalog, db: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """A template saved by an older release, or by hand, that no longer compiles must not take the catalog down."""
    await add_links(db, 1, 3)
    await add_links(db, 4, 4, destination="https://{sub1}.example/")
    await catalog.start()
    assert [True, True, True, False] == [catalog.links.get(b"link%d" % number) is not None for number in (1, 2, 3, 4)]
    assert {("links", 4)} == catalog.bad_rows
    assert "row 4 of links is left out" in caplog.text
    await db.execute("UPDATE links SET destination = 'https://mended.example/' WHERE link_id = 4")
    await until(lambda: catalog.links.get(b"link4"), 1.0)
    assert set() == catalog.bad_rows


async def test_a_changed_row_that_is_bad_leaves_the_good_one_before_it_in_service(
    catalog: Catalog, db: asyncpg.Connection
) -> None:
    await add_links(db, 1, 1)
    await catalog.start()
    await db.execute("UPDATE links SET destination = 'gopher://no' WHERE link_id = 1")
    await until(lambda: catalog.bad_rows, 1.0)
    served = catalog.links.get(b"link1")
    assert served is not None
    assert 1 == served.version


async def test_tokens_hmac_secrets_and_coupons_follow(catalog: Catalog, db: asyncpg.Connection) -> None:
    await catalog.start()
    async with db.transaction():
        await db.execute(
            "INSERT INTO credentials (credential_id, kind, token_hash) VALUES (5, 'token', sha256('secret'));"
            "INSERT INTO credentials (credential_id, kind, hmac_secret) VALUES (6, 'hmac', repeat('k', 32)::bytea);"
            "INSERT INTO credential_programs VALUES (5, 1), (6, 1);"
            "INSERT INTO coupons (coupon_id, program_id, partner_id, code) VALUES (8, 1, 2, 'Summer20')"
        )
    await until(lambda: len(catalog.credentials) == 2 and catalog.coupons, 1.0)
    found = catalog.credential_of_token(b"secret")
    assert found is not None
    assert frozenset({1}) == found.program_ids
    assert catalog.credential_of_token(b"another") is None
    assert [6] == [one.credential_id for one in catalog.hmac_credentials(1)]
    coupon = catalog.coupon(1, " SUMMER20 ")
    assert coupon is not None
    assert 2 == coupon.partner_id
    await db.execute("UPDATE credentials SET revoked_at = now()")
    await until(lambda: not catalog.credentials, 1.0)
    assert catalog.credential_of_token(b"secret") is None
    assert () == catalog.hmac_credentials(1)


async def test_an_edge_that_starts_without_postgresql_serves_what_it_knew(
    catalog: Catalog, db: asyncpg.Connection, dsn: str, tmp_path: Path
) -> None:
    await add_links(db, 1, 100)
    await db.execute(
        "INSERT INTO credentials (credential_id, kind, token_hash) VALUES (5, 'token', sha256('secret'));"
        "INSERT INTO credential_programs VALUES (5, 1)"
    )
    await catalog.start()      # its first here: killed this instant, it must have left what it serves from now on
    assert 0o600 == stat.S_IMODE((tmp_path / catalog_snapshot.NAME).stat().st_mode)
    lonely = Catalog("postgresql://nobody@127.0.0.1:1/nothing", tmp_path)
    await lonely.start()
    await catalog.stop()
    assert lonely.ready
    assert lonely.from_snapshot
    assert lonely.database_away
    assert catalog.rows == lonely.rows
    assert lonely.credential_of_token(b"secret") == catalog.credential_of_token(b"secret") is not None
    assert catalog.programs == lonely.programs
    assert await lonely.look_up_slug(b"unknown") is None
    assert not lonely.may_look_up()
    assert 0 == lonely.look_ups.asked, "a visitor waited for a database that is known to be away"
    await lonely.stop()


@pytest.mark.parametrize("harm", ["cut", "flip", "empty", "version"])
async def test_a_damaged_snapshot_is_ignored(
    catalog: Catalog, db: asyncpg.Connection, tmp_path: Path, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Half a catalog would answer 404 to half the links, and a flipped bit would send visitors elsewhere."""
    await add_links(db, 1, 10)
    await catalog.start()
    await catalog.stop()
    place = tmp_path / catalog_snapshot.NAME
    content = place.read_bytes()
    middle = len(content) // 2
    place.write_bytes({
        "cut": content[:middle],
        "flip": content[:middle] + bytes((content[middle] ^ 1,)) + content[middle + 1 :],
        "empty": b"",
        "version": content.replace(b"catalog 1", b"catalog 0"),
    }[harm])  # fmt: skip
    lonely = Catalog("postgresql://nobody@127.0.0.1:1/nothing", tmp_path)
    with caplog.at_level(logging.WARNING):
        await lonely.start()
    assert not lonely.ready
    assert {} == lonely.rows["links"]
    assert "the snapshot is ignored" in caplog.text
    await lonely.stop()


@pytest.mark.parametrize(("line", "ready"), [(b"novelties [1,2]\n", True), (b"links {no row\n", False), (b"links 5\n", False)])
async def test_a_snapshot_of_another_program_ends_nothing(
    catalog: Catalog, db: asyncpg.Connection, dsn: str, tmp_path: Path, line: bytes, ready: bool
) -> None:
    """After a rollback a newer program's snapshot lies there: a start that waits for ever is worse than none."""
    await add_links(db, 1, 10)
    await catalog.start()
    await catalog.stop()
    place = tmp_path / catalog_snapshot.NAME
    body = place.read_bytes().rpartition(b"end ")[0] + line
    place.write_bytes(body + b"end " + blake2b(body, digest_size=32).hexdigest().encode() + b"\n")
    lonely = Catalog("postgresql://nobody@127.0.0.1:1/nothing", tmp_path)
    async with asyncio.timeout(10):
        await lonely.start()
    assert ready == lonely.ready
    assert not any(task.done() for task in lonely._tasks)
    if ready:
        assert catalog.rows == lonely.rows
    await lonely.stop()


async def test_a_full_disk_costs_the_snapshot_and_nothing_else(
    db: asyncpg.Connection, dsn: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Here the folder is missing: any error of the file system takes this way."""
    catalog = Catalog(dsn, tmp_path / "missing")
    await catalog.start()
    assert await catalog._save() is False
    await add_links(db, 1, 1)
    await until(lambda: catalog.links.get(b"link1"), 1.0)
    (tmp_path / "missing").mkdir()
    await catalog.stop()
    assert 1 == catalog.snapshots_written
    assert "could not be written" in caplog.text


async def test_an_unknown_slug_is_looked_up_once_for_all_who_ask(catalog: Catalog, db: asyncpg.Connection) -> None:
    """A link made this instant must not fail, and a thousand visitors of it must not ask a thousand times."""
    catalog.database_away = False   # not started: nobody tells it of anything
    await add_links(db, 8, 9)
    found = await asyncio.gather(*(catalog.look_up_slug(b"link9") for _ in range(200)))
    assert {9} == {link.link_id for link in found if link}
    assert 200 == len(found)
    assert (1, 199) == (catalog.look_ups.asked, catalog.look_ups.shared)
    assert "shop" == catalog.programs[1].slug
    assert "anna" == catalog.partners[2].slug
    by_number = await catalog.look_up_link(8)
    assert by_number is not None
    assert catalog.links.get(b"link8")
    assert await catalog.look_up_slug(b"absent") is None
    assert await catalog.look_up_slug(b"absent") is None
    assert 1 == catalog.look_ups.missed
    assert not catalog.may_look_up(b"absent")


async def test_a_look_up_that_takes_too_long_is_the_last_for_now(
    catalog: Catalog, db: asyncpg.Connection, dsn: str
) -> None:
    """A locked or overloaded PostgreSQL must not hold every visitor of an unknown slug for 300 ms."""
    catalog.database_away = False
    other = await asyncpg.connect(dsn)
    async with other.transaction():
        await other.execute("LOCK TABLE links")
        assert await catalog.look_up_slug(b"link9") is None
        assert catalog.database_away
        assert not catalog.may_look_up()
    await other.close()


async def test_a_flood_of_invented_slugs_is_not_passed_on(catalog: Catalog) -> None:
    await catalog.start()
    for start in range(0, 600, 10):
        await asyncio.gather(*(catalog.look_up_slug(b"no%d" % n) for n in range(start, start + 10)))
    assert catalog.look_ups.asked < 200
    assert catalog.look_ups.refused > 300


async def test_a_lost_connection_is_found_and_news_of_the_outage_are_read(
    catalog: Catalog, db: asyncpg.Connection
) -> None:
    await catalog.start()
    await db.fetch(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name LIKE 'tracker%' AND datname = current_database()"
    )
    await add_links(db, 1, 1)
    await until(lambda: catalog.loads == 2)
    assert catalog.links.get(b"link1")
    assert not catalog.database_away


async def test_news_in_the_moment_of_stopping_do_not_keep_it_running(db: asyncpg.Connection, dsn: str, tmp_path: Path) -> None:
    """Whatever turn of the event loop the end falls in: a cancellation that is lost would leave a worker that never ends."""
    for turns in range(5):
        one = Catalog(dsn, tmp_path)
        await one.start()
        await db.execute(f"NOTIFY {catalog_sql.CHANNEL}, 'links:1'")
        async with asyncio.timeout(10):
            while not one.notifications:
                await asyncio.sleep(0)
            for _ in range(turns):
                await asyncio.sleep(0)
            await one.stop()


async def test_a_listener_that_died_silently_is_noticed(
    db: asyncpg.Connection, dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pulled cable closes nothing: without a ping the catalog would stand still for hours and look-ups would wait."""
    monkeypatch.setattr(catalog_module, "PING_SECONDS", 0.1)
    monkeypatch.setattr(catalog_module, "PING_DEADLINE_SECONDS", 0.2)
    monkeypatch.setattr(catalog_module, "CONNECT_SECONDS", 0.3)
    database, folder = dsn.split("@/")[1].split("?host=")
    proxy = Proxy(f"{folder.split('&')[0]}/.s.PGSQL.5432")
    async with proxy as port:
        catalog = Catalog(f"postgresql://postgres@127.0.0.1:{port}/{database}", tmp_path)
        await catalog.start()
        assert not catalog.database_away
        proxy.silent = True
        await until(lambda: catalog.database_away)
        assert not catalog.may_look_up()
        await add_links(db, 1, 1)
        proxy.silent = False
        await until(lambda: catalog.links.get(b"link1"))
        await until(lambda: not catalog.database_away)
        await catalog.stop()


async def test_a_hundred_thousand_links_load_without_holding_up_the_event_loop(
    catalog: Catalog, db: asyncpg.Connection, tmp_path: Path
) -> None:
    await add_links(db, 1, 100_000, destination="https://shop.example/landing?cid={click_id}&p={partner}")
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    counting = asyncio.create_task(count_turns())
    await catalog.start()
    assert 100_000 == len(catalog.rows["links"])
    assert turns > 300   # half a second of work, 500 rows or 5 ms at a time
    turns = 0
    assert await catalog._save()
    assert turns > 100
    counting.cancel()
    await catalog.stop()
    again = Catalog("postgresql://nobody@127.0.0.1:1/nothing", tmp_path)
    await again.start()
    assert 100_000 == len(again.rows["links"])
    await again.stop()
