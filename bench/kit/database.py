"""The PostgreSQL beneath the servers: embedded, durable (fsync and synchronous_commit on), on the load's core."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from bench.kit import cpu
from bench.kit.cpu import Cpu
from bench.kit.machine import ROOT, stay_off_the_servers_core
from tracker.storage.embedded.server import EmbeddedPostgres
from tracker.storage.postgres import Record, connect

LONG_SECONDS: Final = 3600.0     # building 50 million rows

# One program with a token, one partner, links; every fourth link also hands on sub1 and the campaign.
_WORLD: Final = """
    INSERT INTO programs (program_id, slug, name, currency) VALUES (7, 'shop', 'Shop', 'EUR');
    INSERT INTO program_terms (program_id, valid_from) VALUES (7, '2000-01-01');
    INSERT INTO partners (partner_id, slug, name) VALUES (13, 'anna', 'Anna');
    INSERT INTO enrolments (program_id, partner_id, valid_from, status) VALUES (7, 13, '2000-01-01', 'active');
    INSERT INTO commission_terms (program_id, valid_from, kind, rate) VALUES (7, '2000-01-01', 'percent', 10);
    INSERT INTO credentials (credential_id, kind, token_hash) VALUES (5, 'token', sha256('token'));
    INSERT INTO credential_programs (credential_id, program_id) VALUES (5, 7);
"""
_LINKS: Final = """
    INSERT INTO links (link_id, slug, program_id, partner_id, destination)
        SELECT n, 'l' || n, 7, 13, 'https://shop.example/p/' || n || '?cid={click_id}' ||
               CASE WHEN n % 4 = 0 THEN '&s={sub1}&c={query.utm_campaign}' ELSE '' END
        FROM generate_series(1, $1::int) n
"""


class Database:
    """One database of a server that can go away and come back while its address stays."""

    def __init__(self, postgres: EmbeddedPostgres, place: Path, name: str = "postgres") -> None:
        self._postgres = postgres
        self._place = place        # a link to the socket's folder, which is another one after each start
        self._name = name
        self.dsn = f"postgresql://postgres@/{name}?host={place}&port=5432"

    def start(self) -> None:
        """The server, with what it had."""
        self._postgres.start()
        folder = self._postgres.dsn.partition("host=")[2].partition("&")[0]
        draft = self._place.with_suffix(".new")
        draft.symlink_to(folder)
        draft.replace(self._place)

    def stop(self) -> None:
        """The server, in order: connections are cut."""
        self._postgres.stop()

    def cpu(self) -> Cpu:
        """What the server has used since its start, all its processes."""
        return cpu.of_tree(self._postgres.pid)

    def another(self, name: str, *, links: int = 1000) -> Database:
        """A further database on the same server, with schema and links."""
        self.execute(f"CREATE DATABASE {name}")
        made = Database(self._postgres, self._place, name)
        made.fill(links)
        return made

    def fill(self, links: int) -> None:
        """Schema and the world that the loads know."""
        self.execute((ROOT / "schema.sql").read_text())
        self.execute(_WORLD)
        self.fetch(_LINKS, links)
        self.execute("VACUUM ANALYZE")

    def execute(self, statements: str) -> None:
        """Any number of statements, on a connection of their own."""
        asyncio.run(_execute(self.dsn, statements))

    def fetch(self, query: str, *arguments: Any) -> list[Record]:
        """The rows of one statement, on a connection of its own."""
        return asyncio.run(_fetch(self.dsn, query, arguments))

    def number(self, query: str, *arguments: Any) -> int:
        """The one number that a query gives."""
        return int(self.fetch(query, *arguments)[0][0])


@contextlib.contextmanager
def work_folder() -> Iterator[Path]:
    """A folder for spools and database, under TMPDIR: point that at the disk to be measured."""
    with TemporaryDirectory(prefix="tracker-bench-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextlib.contextmanager
def database(folder: Path, *, links: int = 1000) -> Iterator[Database]:
    """An embedded PostgreSQL with its usual settings, schema and links."""
    stay_off_the_servers_core()
    postgres = EmbeddedPostgres(folder / "postgres")
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as short:     # a socket's path has 107 bytes
        Path(short).chmod(0o755)
        made = Database(postgres, Path(short, "pg"))
        try:
            made.start()
            made.fill(links)
            yield made
        finally:
            if postgres.alive:
                postgres.stop()


async def _execute(dsn: str, statements: str) -> None:
    connection = await connect(dsn, command_timeout=LONG_SECONDS, statement_timeout="0")
    try:
        await connection.execute(statements)
    finally:
        await connection.close()


async def _fetch(dsn: str, query: str, arguments: tuple[Any, ...]) -> list[Record]:
    connection = await connect(dsn, command_timeout=LONG_SECONDS, statement_timeout="0")
    try:
        return await connection.fetch(query, *arguments)
    finally:
        await connection.close()
