"""The machine a benchmark runs on: which core does what, and what to write beside a figure."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import aiohttp
import click

ROOT: Final = Path(__file__).parents[2]
RESULTS: Final = ROOT / "bench" / "results"

_CORES: Final = sorted(os.sched_getaffinity(0))
CORES: Final = len(_CORES)
SERVER_CORE: Final = _CORES[0]
LOAD_CORE: Final = _CORES[1 % len(_CORES)]     # with one core all share it, and only ratios mean something


def stay_off_the_servers_core() -> None:
    """This process, and what it starts unless told otherwise (PostgreSQL, wrk), leave the first core to the server under test."""
    os.sched_setaffinity(0, {LOAD_CORE})


def on_core(core: int, command: Sequence[str]) -> list[str]:
    """The command, bound to one core from its first instruction, its children included."""
    return ["taskset", "-c", str(core), *command]


def need_tools(*names: str) -> None:
    """Raises click.ClickException for programs that are not installed."""
    absent = [name for name in names if shutil.which(name) is None and not Path("/usr/sbin", name).exists()]
    if absent:
        raise click.ClickException(f"needs {', '.join(absent)} (Debian: apt-get install wrk nginx-light util-linux openssl)")


def describe() -> dict[str, Any]:
    """What a reader needs to judge or repeat a figure."""
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "--short", "HEAD") or "unknown",
        "uncommitted_changes": bool(_git("status", "--porcelain", "--", "tracker", "bench", "schema.sql", ":!bench/results")),
        "machine": {
            "cpu": model[0].partition(":")[2].strip() if model else platform.machine(),
            "cores": CORES,
            "server_core": SERVER_CORE,
            "load_core": LOAD_CORE,
            "load_average_before": os.getloadavg()[0],
            "kernel": platform.release(),
            "disk": _file_system(Path(tempfile.gettempdir())),
        },
        "versions": {
            "python": sys.version.split()[0],
            "aiohttp": aiohttp.__version__,
            "nginx": _version(["nginx", "-v"]),
            "wrk": _version(["wrk", "-v"]),
        },
    }


def _git(*arguments: str) -> str:
    if shutil.which("git") is None:
        return ""
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _version(command: list[str]) -> str:
    """The first line a program says about itself; wrk and nginx say it on stderr or with an exit code."""
    program = shutil.which(command[0]) or shutil.which(command[0], path="/usr/sbin")
    if program is None:
        return "absent"
    done = subprocess.run([program, *command[1:]], capture_output=True, text=True, check=False)
    said = (done.stdout + done.stderr).strip().splitlines()
    return said[0].partition("Copyright")[0].strip() if said else "unknown"


def _file_system(folder: Path) -> str:
    """Type of the file system that spool and database stand on: a tmpfs would flatter both."""
    found = subprocess.run(["stat", "-f", "-c", "%T", str(folder)], capture_output=True, text=True, check=False)
    return found.stdout.strip()
