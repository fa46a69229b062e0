"""A process that owns an embedded server, to be killed by tests: what `tracker dev` is, without the tracker."""

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

import asyncpg

ROOT = Path(__file__).parent.parent

OWN = """
import json, sys
from pathlib import Path
from tracker.storage.embedded import server as embedded
from tracker.storage.embedded import process as pg_process
options = json.loads(sys.argv[2])
if options.pop("without_death_signal", False):
    pg_process._die_with_owner = lambda death: None
for name in ("bin_dir", "cache_dir"):
    if name in options:
        options[name] = Path(options[name])
try:
    with embedded.EmbeddedPostgres(Path(sys.argv[1]), **options) as postgres:
        print(json.dumps({"pid": postgres.pid, "dsn": postgres.dsn}), flush=True)
        sys.stdin.read()
except embedded.EmbeddedPostgresError as error:
    print(json.dumps({"refused": str(error)}), flush=True)
"""

VISIT = """
import json, sys
from pathlib import Path
from tracker.storage.embedded.server import database_at
with database_at(Path(sys.argv[1]), create=True) as dsn:
    print(json.dumps({"dsn": dsn}), flush=True)
    sys.stdin.read()
"""


class OwnerProcess:
    """Runs OWN or VISIT until leave() or kill(); `answer` is the line it printed: the server's, or the refusal.

    python, path, user: another interpreter, PYTHONPATH and user id than ours.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        code: str = OWN,
        python: str = sys.executable,
        path: Path = ROOT,
        user: int | None = None,
        **options: Any,
    ) -> None:
        self._process = subprocess.Popen(
            [python, "-c", code, str(data_dir), json.dumps(options, default=str)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
            env={"PATH": os.defpath, "PYTHONPATH": str(path), "PYTHONDONTWRITEBYTECODE": "1"},
            user=user,
            group=user,
            extra_groups=None if user is None else [],
        )
        assert self._process.stdout is not None
        self.answer: dict[str, Any] = json.loads(self._process.stdout.readline() or "{}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.has_ended:
            self.ask_to_leave()
            self.exit_code()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def ask_to_leave(self) -> None:
        """End of its input: it stops its server and ends by itself."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def exit_code(self) -> int:
        return self._process.wait(30)

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(30)


def wait_for_end(pid: int) -> None:
    """Return when the process has ended; fails after 30 s."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([descriptor], [], [], 30)[0], f"process {pid} still runs"
    finally:
        os.close(descriptor)


async def query(dsn: str, statement: str) -> Any:
    """First value of the statement's first row."""
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()
