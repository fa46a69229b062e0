"""A second PostgreSQL made from the first by pg_basebackup: a replica that follows it, or a backup to go back to."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from demo_world import Database, execute, value
from postgres_fixtures import PostgresFactory, engine_bin_dir
from tracker_process import until

from tracker.storage.embedded.folder import cluster
from tracker.storage.embedded.server import EmbeddedPostgres

COPY_SECONDS = 60.0


def base_backup(database: Database, data_dir: Path, *options: str) -> None:
    """Copy the running server into the data folder of another: what is committed by the end of the copy is in it."""
    copy = cluster(data_dir)
    copy.parent.mkdir(parents=True)
    server = ["-h", str(database.run_dir), "-U", "postgres", "-X", "stream", "-c", "fast"]
    command = [str(engine_bin_dir("18") / "pg_basebackup"), *server, "-D", str(copy), *options]
    subprocess.run(command, check=True, timeout=COPY_SECONDS)
    owner = Path(f"/proc/{database.pid}").stat()
    for path in (copy, *copy.rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid)


def streaming_replica(database: Database, postgres_factory: PostgresFactory, data_dir: Path) -> EmbeddedPostgres:
    """A started standby that has all that the database had a moment ago."""
    base_backup(database, data_dir, "-R")
    replica: EmbeddedPostgres = postgres_factory(data_dir)
    replica.start()
    until(lambda: value(replica.dsn, "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'"), "the replica follows")
    return replica


def cut_off(replica: EmbeddedPostgres) -> None:
    """From now on it hears nothing of what the first server commits."""
    execute(replica.dsn, "ALTER SYSTEM SET primary_conninfo = ''")
    execute(replica.dsn, "SELECT pg_reload_conf()")
    until(lambda: value(replica.dsn, "SELECT count(*) FROM pg_stat_wal_receiver") == 0, "the replica is cut off")
