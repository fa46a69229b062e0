"""Before any test: an environment without settings of ours or of PostgreSQL, so that no machine's own leak in."""

import os
from collections.abc import Iterator

import pytest
from demo_world import Database, own_database
from postgres_fixtures import PostgresFactory, dsn, empty_dsn, postgres_factory, pytest_generate_tests, shared_servers

__all__ = ["dsn", "empty_dsn", "postgres_factory", "pytest_generate_tests", "shared_servers"]

for name in list(os.environ):
    if name.startswith(("TRACKER_", "PG")) and not name.startswith("TRACKER_TEST_"):
        del os.environ[name]


@pytest.fixture
def database(postgres_factory: PostgresFactory) -> Iterator[Database]:
    """A server of the test's own that can go away and come back, with the world in it."""
    with own_database(postgres_factory()) as started:
        yield started
