"""Before any test: an environment without settings of ours or of PostgreSQL, so that no machine's own leak in."""

import os
from collections.abc import Iterator

import pytest
from _pytest.nodeid import coerce_node_id
from demo_world import Database, own_database
from hypothesis import HealthCheck, settings
from postgres_fixtures import PostgresFactory, dsn, empty_dsn, postgres_factory, pytest_generate_tests, shared_servers

__all__ = ["dsn", "empty_dsn", "postgres_factory", "pytest_generate_tests", "shared_servers"]

os.environ.pop("PYTEST_ADDOPTS", None)      # it was for this run, not for those that tests start
for name in list(os.environ):
    if name.startswith(("TRACKER_", "PG")) and not name.startswith("TRACKER_TEST_"):
        del os.environ[name]

# Hypothesis would fail an example that takes 200 ms, and a test whose data is slow to draw: on a busy machine both say nothing
# about us. From what holds already, as a plugin or an environment variable CI has set it; and who fails says how to repeat it.
settings.register_profile("busy machine", settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True))
settings.load_profile("busy machine")


def pytest_itemcollected(item: pytest.Item) -> None:
    """schemathesis gives all tests of a function one id: of those, processes that share the tests (-n) would run one alone."""
    if "[" not in item.nodeid and "[" in item.name:
        item._id = coerce_node_id(f"{item.nodeid}{item.name[item.name.index('['):]}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if len(items) > len({item.nodeid for item in items}):
        raise pytest.UsageError("two tests have one id: side by side, one of them would be left out")


@pytest.fixture
def database(postgres_factory: PostgresFactory) -> Iterator[Database]:
    """A server of the test's own that can go away and come back, with the world in it."""
    with own_database(postgres_factory()) as started:
        yield started
