"""A server of the tests' own on which the service runs as the least-privilege roles, as in production."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from demo_world import fetch, make_world
from postgres_fixtures import engine_bin_dir
from tracker_process import run_tracker

from tracker.storage.embedded.server import EmbeddedPostgres

ROLES = ("tracker_migrator", "tracker_edge", "tracker_control", "tracker_reporter", "tracker_retention")


@dataclass(frozen=True, slots=True)
class Roled:
    """`dsn` is the superuser's; `of(role)` the same database as that role."""

    dsn: str
    engine: str

    def of(self, role: str) -> str:
        return self.dsn.replace("://postgres@", f"://{role}@")

    def apply(self, *, dsn: str = "") -> None:
        """What the README says: `tracker db roles | psql`."""
        printed = run_tracker(["db", "roles"], {})
        assert 0 == printed.returncode, printed.stderr
        psql = [str(engine_bin_dir(self.engine) / "psql"), "-X", "-q", "--set", "ON_ERROR_STOP=1", dsn or self.dsn]
        applied = subprocess.run(psql, input=printed.stdout, capture_output=True, text=True, check=False)
        assert (0, "") == (applied.returncode, applied.stderr)


@contextmanager
def roled(engine: str, folder: Path) -> Iterator[Roled]:
    """Started, with the demo world in it, and the roles applied to it once."""
    with EmbeddedPostgres(folder / "data", bin_dir=engine_bin_dir(engine), durable=False) as postgres:
        made = Roled(postgres.dsn, engine)
        fetch(made.dsn, "GRANT CREATE ON SCHEMA public TO PUBLIC")      # as databases have it that began before PostgreSQL 15
        fetch(made.dsn, "REVOKE ALL ON DATABASE postgres FROM PUBLIC")  # as careful people have it
        make_world(made.dsn, links=3, schema=True)
        made.apply()
        yield made
