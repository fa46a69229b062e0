"""Before any test: an environment without settings of ours or of PostgreSQL, so that no machine's own leak in."""

import os

from postgres_fixtures import dsn, empty_dsn, postgres_factory, pytest_generate_tests, shared_servers

__all__ = ["dsn", "empty_dsn", "postgres_factory", "pytest_generate_tests", "shared_servers"]

for name in list(os.environ):
    if name.startswith(("TRACKER_", "PG")) and not name.startswith("TRACKER_TEST_"):
        del os.environ[name]
