"""Before any test: an environment without settings of ours or of PostgreSQL, so that no machine's own leak in."""

import os
from collections.abc import Iterator

import pytest
from demo_world import Database, own_database
from hypothesis import HealthCheck, settings
from postgres_fixtures import PostgresFactory, dsn, empty_dsn, postgres_factory, pytest_generate_tests, shared_servers

__all__ = ["dsn", "empty_dsn", "postgres_factory", "pytest_generate_tests", "shared_servers"]

for name in list(os.environ):
    if name.startswith(("TRACKER_", "PG")) and not name.startswith("TRACKER_TEST_"):
        del os.environ[name]

# Hypothesis would fail an example that takes 200 ms, and a test whose data is slow to draw: on a busy machine both say nothing
# about us. From what holds already, as a plugin or an environment variable CI has set it; and who fails says how to repeat it.
settings.register_profile("busy machine", settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True))
settings.load_profile("busy machine")


@pytest.fixture
def database(postgres_factory: PostgresFactory) -> Iterator[Database]:
    """A server of the test's own that can go away and come back, with the world in it."""
    with own_database(postgres_factory()) as started:
        yield started
