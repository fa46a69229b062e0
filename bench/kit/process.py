"""Starting a program on its core, knowing when it is ready, ending it in order."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import click

from bench.kit.machine import ROOT, SERVER_CORE, on_core

READY_SECONDS: Final = 120.0   # a million links have to be read
STOP_SECONDS: Final = 60.0     # longer than a drain: two seconds of serving on, then what PostgreSQL still has to take


@contextlib.contextmanager
def started(
    command: Sequence[str], log: Path, environment: Mapping[str, str], *, core: int = SERVER_CORE
) -> Iterator[subprocess.Popen[bytes]]:
    """The process on its core, ended by SIGTERM and, should it not listen, by SIGKILL. What it says goes to `log`."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            on_core(core, command), stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=dict(environment), cwd=ROOT
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(process: subprocess.Popen[bytes], log: Path, sign: str) -> re.Match[str]:
    """Until the log says `sign`, a regular expression. Raises click.ClickException with its last words when it never does."""
    deadline = time.monotonic() + READY_SECONDS
    while (found := re.search(sign, log.read_text())) is None:
        if process.poll() is not None or time.monotonic() > deadline:
            raise click.ClickException(f"{log.stem} did not start: {log.read_text()[-2000:]}")
        time.sleep(0.02)
    return found


def environment_without_settings() -> dict[str, str]:
    """This shell's, less what is meant for a real service."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRACKER_")}
    return environment | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))}


def free_port() -> int:
    """A port nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
