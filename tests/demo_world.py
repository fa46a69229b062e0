"""What the end-to-end tests sell: one shop, one partner with 10 %, a token, and as many links as asked for."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
from owner_process import wait_for_end

from tracker.storage.embedded.server import EmbeddedPostgres, EmbeddedPostgresError

SCHEMA = Path(__file__).parent.parent / "schema.sql"
TOKEN = "token-of-the-shop"
OTHER_TOKEN = "token-of-another-shop"
LINKS = 1000

_WORLD = f"""
INSERT INTO programs (program_id, slug, name, currency) VALUES (7, 'shop', 'Shop', 'EUR'), (8, 'other', 'Other', 'EUR');
INSERT INTO program_terms (program_id, valid_from) VALUES (7, '2000-01-01'), (8, '2000-01-01');
INSERT INTO partners (partner_id, slug, name) VALUES (13, 'anna', 'Anna');
INSERT INTO enrolments (program_id, partner_id, valid_from, status) VALUES (7, 13, '2000-01-01', 'active');
INSERT INTO commission_terms (program_id, valid_from, kind, rate) VALUES (7, '2000-01-01', 'percent', 10);
INSERT INTO credentials (credential_id, kind, token_hash)
    VALUES (5, 'token', sha256('{TOKEN}')), (6, 'token', sha256('{OTHER_TOKEN}'));
INSERT INTO credential_programs (credential_id, program_id) VALUES (5, 7), (6, 8);
"""
_LINKS = """
INSERT INTO links (link_id, slug, program_id, partner_id, destination)
SELECT i, 'l' || i, 7, 13, 'https://shop.example/p?cid={click_id}&s={sub1}' FROM generate_series(1, $1) AS i
"""


Result = TypeVar("Result")


def make_world(dsn: str, *, links: int = LINKS, schema: bool = False) -> None:
    """Fill a database that has schema.sql (or, with `schema`, nothing)."""

    async def fill() -> None:
        connection = await asyncpg.connect(dsn)
        try:
            if schema:
                await connection.execute(SCHEMA.read_text())
            await connection.execute(_WORLD)
            await connection.execute(_LINKS, links)
        finally:
            await connection.close()

    _run(fill())


def _run(work: Coroutine[Any, Any, Result]) -> Result:
    """In a thread of its own: Playwright keeps a loop running in the main one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


def fetch(dsn: str, statement: str, *arguments: Any) -> list[asyncpg.Record]:
    """The rows of one statement, on a connection of its own."""

    async def ask() -> list[asyncpg.Record]:
        connection = await asyncpg.connect(dsn)
        try:
            return await connection.fetch(statement, *arguments)
        finally:
            await connection.close()

    return _run(ask())


def value(dsn: str, statement: str, *arguments: Any) -> Any:
    """The first value of the first row."""
    return fetch(dsn, statement, *arguments)[0][0]


def execute(dsn: str, statements: str) -> None:
    """Any number of statements without arguments, on a connection of their own."""

    async def run() -> None:
        connection = await asyncpg.connect(dsn)
        try:
            await connection.execute(statements)
        finally:
            await connection.close()

    _run(run())


def run_dir(postgres: EmbeddedPostgres) -> Path:
    """The folder of a started server's socket."""
    return Path(postgres.dsn.partition("host=")[2].partition("&")[0])


class Database:
    """A server of the test's own that can go away and come back, while its address stays. Made by `own_database`."""

    def __init__(self, postgres: EmbeddedPostgres, place: Path) -> None:
        self._postgres = postgres
        self._place = place        # a link to the socket's folder, which is another one after each start
        self.dsn = f"postgresql://postgres@/postgres?host={place}&port=5432"

    @property
    def pid(self) -> int:
        return self._postgres.pid

    @property
    def run_dir(self) -> Path:
        """The folder of the server's socket."""
        return run_dir(self._postgres)

    @property
    def account(self) -> int:
        """The user id that the server runs as."""
        return Path(f"/proc/{self.pid}").stat().st_uid

    def statements(self) -> int:
        """How many statements the server has logged, where its setting log_statement says that it logs them."""
        return self.has_logged(" LOG:  execute ", " LOG:  statement: ")

    def has_logged(self, *texts: str) -> int:
        """How many lines of its log, since it was started, contain one of the texts."""
        lines = self._postgres.log_path.read_text().splitlines()
        return sum(any(text in line for text in texts) for line in lines)

    def start(self) -> None:
        self._postgres.start()
        self.lead_to(self._postgres)

    def lead_to(self, postgres: EmbeddedPostgres) -> None:
        """From now on the address is that of this server, which runs: a replica's after a failover, a restored one's."""
        self._postgres = postgres
        draft = self._place.with_suffix(".new")
        draft.symlink_to(run_dir(postgres))
        draft.replace(self._place)

    def stop_immediately(self) -> None:
        """As `pg_ctl stop -m immediate`: no goodbye, no checkpoint; the next start recovers from the log."""
        os.kill(self._postgres.pid, signal.SIGQUIT)
        wait_for_end(self._postgres.pid)
        with contextlib.suppress(EmbeddedPostgresError):     # that it has died
            self._postgres.stop()

    def close(self) -> None:
        if self._postgres.alive:
            os.kill(self._postgres.pid, signal.SIGCONT)
            self._postgres.stop()


@contextlib.contextmanager
def own_database(postgres: EmbeddedPostgres, *, links: int = LINKS) -> Iterator[Database]:
    """Start a server that nobody else uses, with the world in it."""
    folder = Path(tempfile.mkdtemp(prefix="tracker-e2e-", dir="/tmp"))     # short: a socket's path has 107 bytes
    folder.chmod(0o755)
    database = Database(postgres, folder / "pg")
    try:
        database.start()
        make_world(database.dsn, links=links, schema=True)
        yield database
    finally:
        database.close()
        shutil.rmtree(folder)
