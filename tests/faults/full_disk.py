"""A disk of PostgreSQL's that can be filled and emptied: a small tmpfs with the whole database in it, its log elsewhere.

Where mounting is refused, triggers that raise what a full disk raises (53100) stand in: the same error reaches the same
statements of ours, only its cause is not real.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from demo_world import Database, execute

DISK_BYTES = 2**30       # taken from memory as it is used: a long night's clicks
_REFUSE = """
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$;
    DO $$ DECLARE name text; BEGIN
        FOR name IN SELECT c.oid::regclass FROM pg_class AS c
                     WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition LOOP
            EXECUTE format('CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON %s EXECUTE FUNCTION refuse()', name);
        END LOOP; END $$
"""


class Disk(Protocol):
    def fill(self) -> None:
        """From now on no table grows."""

    def empty(self) -> None:
        """There is room again."""


class MountedDisk:
    def __init__(self, place: Path) -> None:
        self._place = place

    def fill(self) -> None:
        while not self._resize(self._used()):     # what was written since we looked does not fit
            pass

    def empty(self) -> None:
        assert self._resize(DISK_BYTES)

    def _used(self) -> int:
        disk = os.statvfs(self._place)
        return (disk.f_blocks - disk.f_bfree) * disk.f_frsize

    def _resize(self, size: int) -> bool:
        command = ["mount", "-o", f"remount,size={size}", str(self._place)]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0


class RefusingTriggers:
    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    def fill(self) -> None:
        execute(self._dsn, _REFUSE)

    def empty(self) -> None:
        execute(self._dsn, "DROP FUNCTION refuse CASCADE")


@contextmanager
def own_disk(database: Database) -> Iterator[Disk]:
    """Moves the database, which nobody may be using yet, to a disk of its own."""
    with tempfile.TemporaryDirectory(prefix="tracker-disk-", dir="/tmp") as folder:
        place = Path(folder)
        place.chmod(0o755)       # the server's account walks through it
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", folder]
        mounted = subprocess.run(command, check=False, capture_output=True)
        if mounted.returncode != 0:
            yield RefusingTriggers(database.dsn)
            return
        try:
            inside = place / "tables"
            inside.mkdir(mode=0o700)
            os.chown(inside, database.account, -1)
            beside = database.dsn.replace("/postgres?", "/template1?")
            execute(beside, f"CREATE TABLESPACE small LOCATION '{inside}'")
            execute(beside, "ALTER DATABASE postgres SET TABLESPACE small")
            yield MountedDisk(place)
        finally:
            database.close()     # before its disk goes
            subprocess.run(["umount", "--lazy", place], check=True)
