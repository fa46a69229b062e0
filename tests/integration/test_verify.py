"""`tracker verify` agrees with what is right, and notices each thing that can be wrong."""

import asyncio
import json
import secrets
import shutil
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from postgres_fixtures import SharedServer
from shipping import DAY_MS, click_id, click_row, database, live_spool, now_ms, nul_row
from tracker_process import run_tracker

from tracker.__main__ import cli
from tracker.domain.postback import Postback
from tracker.jobs.partitions import keep_partitions
from tracker.jobs.statistics import fold_statistics
from tracker.storage.conversions.journal import Journal
from tracker.storage.conversions.recorder import Recorder
from tracker.storage.spool.reader import LogReader
from tracker.storage.verify import verify


async def some_history(dsn: str, root: Path) -> int:
    """Clicks of every kind, strays moved in and waiting, quarantine, folded statistics, one approved sale; its spool's id."""
    async with live_spool(root) as spool, database(dsn) as db:
        await db.execute("INSERT INTO programs (program_id, slug, name, currency) VALUES (11, 'shop', 'Shop', 'EUR')")
        await db.execute("INSERT INTO program_terms (program_id, valid_from) VALUES (11, '2000-01-01')")
        await db.execute("INSERT INTO partners (partner_id, slug, name) VALUES (13, 'anna', 'Anna')")
        await db.execute("INSERT INTO partner_statuses VALUES (13, '2000-01-01', 'active')")
        await db.execute("INSERT INTO enrolments VALUES (11, 13, '2000-01-01', 'active')")
        await db.execute(
            "INSERT INTO links (link_id, slug, program_id, partner_id, destination) VALUES (7, 'x', 11, 13, 'https://x.example/')"
        )
        await db.execute(
            "INSERT INTO commission_terms (program_id, valid_from, kind, rate) VALUES (11, '2000-01-01', 'percent', 10)"
        )
        sold = click_id()
        strays = [click_id(now_ms() + days * DAY_MS) for days in (60, 90)]
        spool.append([click_row(sold), *map(click_row, strays), nul_row(), *(click_row(flags=n) for n in range(16))])
        assert await spool.shipper(dsn).drain(10)
        await db.execute("SELECT ensure_click_partitions((now() AT TIME ZONE 'UTC')::date + 60, 1)")
        await keep_partitions(db)
        await fold_statistics(db)
        spool.append([click_row()])
        assert await spool.shipper(dsn).drain(10)
        spool.append([click_row()])  # pending
        for txid in ("1", "2"):
            Journal(spool.spool.journal, spool.spool_id).append([
                Postback(message_id=bytes(16), received_ms=now_ms(), program_id=11, click_id=sold, link_id=7, txid=txid,
                         amount=Decimal(10), currency="EUR")
            ])  # fmt: skip
        reader = LogReader(spool.spool.path, "journal", spool_id=spool.spool_id, log=spool.spool.journal)
        assert await Recorder(dsn, spool.spool_id, reader).drain(10)
        return spool.spool_id


class History:
    """An engine's database with `some_history` and the spools it left: made once, copied for each test."""

    def __init__(self, server: SharedServer, root: Path) -> None:
        self.server, self.root = server, root
        self.name = server.create(with_schema=True)
        self.spool_id = asyncio.run(some_history(server.postgres.dsn_for(self.name), root))

    def copy(self, root: Path) -> str:
        """Name of a new database; the spools are copied into `root`."""
        shutil.copytree(self.root, root, dirs_exist_ok=True)
        name = f"{self.name}_{secrets.token_hex(4)}"

        async def create() -> None:
            async with database(self.server.postgres.dsn) as db:
                await db.execute(f"CREATE DATABASE {name} TEMPLATE {self.name} STRATEGY FILE_COPY")

        asyncio.run(create())
        return name


@pytest.fixture(scope="module")
def histories(
    shared_servers: Callable[[str], SharedServer], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], History]]:
    made: dict[str, History] = {}

    def history_of(engine: str) -> History:
        if engine not in made:
            made[engine] = History(shared_servers(engine), tmp_path_factory.mktemp(f"history{engine}"))
        return made[engine]

    yield history_of
    for history in made.values():
        history.server.drop(history.name)


@pytest.fixture
def history(engine: str, histories: Callable[[str], History]) -> History:
    return histories(engine)


@pytest.fixture
def lived(history: History, tmp_path: Path) -> Iterator[str]:
    """A database with `some_history`; what it left on the disk is in `tmp_path`."""
    name = history.copy(tmp_path)
    yield history.server.postgres.dsn_for(name)
    history.server.drop(name)


async def differing(dsn: str, root: Path) -> list[str]:
    async with database(dsn) as db:
        return [one.name for one in await verify(db, root) if not one.agrees]


async def test_nothing_agrees_with_nothing(dsn: str, tmp_path: Path) -> None:
    """The first thing anyone does with a new database."""
    assert [] == await differing(dsn, tmp_path)


async def test_what_is_right_agrees(lived: str, tmp_path: Path) -> None:
    """A check that cries wolf is switched off."""
    async with database(lived) as db:
        sums = {one.name: one for one in await verify(db, tmp_path)}
        assert [] == [one for one in sums.values() if not one.agrees]
        assert 22 == sums["rows in spools, clicks"].expected
        assert "1 pending" in sums["rows in spools, clicks"].found_of
        assert 20 == sums["clicks stored"].found
        assert 2 == sums["postbacks of 1 spools"].found
        assert 2 == sums["commission owed, EUR"].expected
        assert [] == [one for one in await verify(db, None) if not one.agrees]


@pytest.mark.parametrize(
    ("damage", "noticed"),
    [
        ("DELETE FROM clicks WHERE flags = 3", "clicks stored"),
        ("DELETE FROM clicks_stray", "clicks stored"),
        ("DELETE FROM quarantine", "clicks quarantined"),
        ("DELETE FROM click_stats_new WHERE link_id IS NOT NULL", "clicks of "),
        ("DELETE FROM click_stats_new WHERE link_id IS NULL", "clicks of "),
        ("UPDATE click_stats_by_link SET clicks = clicks + 1 WHERE kind = 'bot'", "clicks of "),
        ("UPDATE click_stats_by_source SET clicks = clicks + 1 WHERE kind = 'bot'", "clicks of "),
        ("UPDATE click_stats_by_link SET bucket = bucket - interval '1 day' WHERE kind = 'bot'", "clicks of "),
        ("UPDATE click_stats_by_source SET bucket = bucket - interval '400 days' WHERE kind = 'bot'", "clicks of days dropped"),
        ("DELETE FROM postback_log WHERE message_id = (SELECT max(message_id::text)::uuid FROM postback_log)", "postbacks of "),
        ("UPDATE spool_cursors SET closed_at = now()", "rows left in spools whose books are closed"),
        ("UPDATE conversion_state SET commission_owed = 7", "conversions whose ledger is not what their state owes"),
        ("UPDATE conversion_state SET status = 'pending'", "conversions that owe without being approved and credited"),
        ("UPDATE conversion_state SET last_entry = last_entry + 1", "conversions whose entries in history and ledger have gaps"),
        ("DELETE FROM conversion_state", "conversions without a state"),
        ("UPDATE conversion_state SET status = NULL", "states without a conversion or a status"),
        ("ALTER TABLE ledger DISABLE TRIGGER ALL; DELETE FROM ledger", "commission owed, EUR"),
        ("ALTER TABLE ledger DISABLE TRIGGER ALL; UPDATE ledger SET currency = 'USD'",
         "conversions whose ledger is not what their state owes"),
    ],
)  # fmt: skip
async def test_what_is_wrong_is_noticed(lived: str, tmp_path: Path, damage: str, noticed: str) -> None:
    """Each of these is a click or money gone, or counted twice."""
    async with database(lived) as db:
        await db.execute(damage)
    assert any(name.startswith(noticed) for name in await differing(lived, tmp_path))


async def test_days_dropped_by_retention_are_no_loss(lived: str, tmp_path: Path) -> None:
    """Their rows are gone on purpose; the statistics remember them."""
    async with database(lived) as db:
        today = await db.fetchval("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD')")
        await db.execute(f"DROP TABLE clicks_{today}")
    assert [] == await differing(lived, tmp_path)


def run(dsn: str, root: Path, *arguments: str) -> tuple[int, str]:
    environ = {"TRACKER_DATABASE_URL": dsn, "TRACKER_SPOOL_DIR": str(root)}
    result = CliRunner().invoke(cli, arguments, env=environ)
    return result.exit_code, result.output


def test_the_commands_tell_people_and_machines(lived: str, history: History, tmp_path: Path) -> None:
    """What is tried when something seems to be missing: look, check, ship, add up."""
    dsn, name = lived, f"{history.spool_id:016x}"
    code, shown = run(dsn, tmp_path, "spool", "status", "--json")
    (spool,) = json.loads(shown)
    assert (0, name, "dead", 22, 2) == (code, spool["spool"], spool["state"], spool["clicks"], spool["journal"])
    assert 0 == run(dsn, tmp_path, "spool", "verify", str(tmp_path / name))[0]
    assert (0, f"{name}  shipped\n") == run(dsn, tmp_path, "spool", "ship")
    code, shown = run(dsn, tmp_path, "verify", "--json")
    sums = {one["sum"]: one for one in json.loads(shown)}
    assert (0, 21, 0) == (code, sums["clicks stored"]["found"], sums["clicks stored"]["difference"])
    asyncio.run(damage(dsn))
    code, shown = run(dsn, tmp_path, "verify")
    assert 1 == code
    assert "DIFFERS" in shown
    code, shown = run(dsn, tmp_path, "spool", "status", str(tmp_path / secrets.token_hex(4)))
    assert 2 == code


def test_a_damaged_spool_is_told(lived: str, history: History, tmp_path: Path) -> None:
    """A disk that lies must be found out before the spool is shipped and gone."""
    segment = next((tmp_path / f"{history.spool_id:016x}").glob("clicks-*.seg"))
    data = bytearray(segment.read_bytes())
    data[8192 + 200] ^= 1
    segment.write_bytes(data)
    code, shown = run(lived, tmp_path, "spool", "verify", "--json")
    assert 1 == code
    assert json.loads(shown)[0]["lost"]


def test_a_disk_that_cannot_be_read_is_told_in_a_sentence(lived: str, history: History, tmp_path: Path) -> None:
    segment = next((tmp_path / f"{history.spool_id:016x}").glob("clicks-*.seg"))
    segment.unlink()
    segment.mkdir()
    done = run_tracker(["spool", "verify", str(tmp_path)], {})
    assert (1, 1) == (done.returncode, len(done.stderr.splitlines()))
    assert done.stderr.startswith("Error: ")


def test_the_tables_are_made_and_checked(empty_dsn: str, tmp_path: Path) -> None:
    """The first command anyone runs against his own database."""
    assert 1 == run(empty_dsn, tmp_path, "verify")[0]
    assert 1 == run(empty_dsn, tmp_path, "db", "check")[0]
    assert (0, "the tables are made\n") == run(empty_dsn, tmp_path, "db", "init")
    assert (0, "the tables were there; nothing changed\n") == run(empty_dsn, tmp_path, "db", "init")
    assert 0 == run(empty_dsn, tmp_path, "db", "check")[0]


async def damage(dsn: str) -> Any:
    async with database(dsn) as db:
        return await db.execute("DELETE FROM clicks WHERE flags = 3")
