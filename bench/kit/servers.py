"""The servers under test, each bound to the server core: a tracker edge, and what it is measured against."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import socket
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from bench.kit import cpu
from bench.kit.countries import write_countries
from bench.kit.cpu import Cpu
from bench.kit.process import environment_without_settings, started, wait_for
from tracker.domain.click_id import Keyring

SECRET: Final = os.urandom(32)
KEYRING: Final = Keyring(((1, SECRET),))     # the edges' own: a benchmark can make tokens of clicks of last week

CLICKS: Final = 'tracker_clicks_total{kind="click"}'


@dataclass(frozen=True, slots=True)
class Server:
    """Something that answers on 127.0.0.1:port; `pid` is its first process."""

    name: str
    port: int
    pid: int

    def cpu(self) -> dict[str, Cpu]:
        """What it used so far, by part, all its processes. What does the work is `server`, whatever it is called there."""
        return {"server": cpu.of_tree(self.pid)}

    def settle(self) -> Mapping[str, float]:
        """Wait until it has done what it put off."""
        return {}


@dataclass(frozen=True, slots=True)
class Edge(Server):
    """A tracker edge; `workers` are the pids of its workers, `start_seconds` how long it took to be ready."""

    admin_port: int
    workers: tuple[int, ...]
    start_seconds: float

    def cpu(self) -> dict[str, Cpu]:
        return {
            "server": sum((cpu.of_tree(worker) for worker in self.workers), Cpu()),
            "parent": cpu.of_process(self.pid),
        }

    def metrics(self) -> dict[str, float]:
        """Every sample of /metrics by its name with labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line and line[0] != "#")}

    def settle(self, seconds: float = 600.0) -> Mapping[str, float]:
        """Wait until PostgreSQL has every click, so that the next contender has the machine to itself. Returns the metrics."""
        deadline = time.monotonic() + seconds
        while True:
            found = self.metrics()
            waiting = backlog(found)
            if waiting == 0:
                return found
            if time.monotonic() > deadline:
                raise click.ClickException(f"{waiting:.0f} clicks are still in the spool")
            time.sleep(0.1)


def backlog(metrics: Mapping[str, float]) -> float:
    """Clicks that are in the spool and not yet in PostgreSQL."""
    shipped = sum(value for name, value in metrics.items() if name.startswith("tracker_clicks_shipped_total"))
    return metrics["tracker_clicks_appended_total"] - shipped


@contextlib.contextmanager
def edge(folder: Path, dsn: str, *, name: str = "tracker", workers: int = 1, **settings: str) -> Iterator[Edge]:
    """`tracker edge` with default settings: sync every 50 ms, shipping on, countries from a file."""
    home = folder / re.sub(r"[^a-z0-9]+", "-", name)
    home.mkdir(exist_ok=True)
    environment = environment_without_settings() | {
        "TRACKER_DATABASE_URL": dsn, "TRACKER_SECRET_KEYS": f"1:{base64.b64encode(SECRET).decode()}",
        "TRACKER_SPOOL_DIR": str(home / "spool"), "TRACKER_HOST": "127.0.0.1", "TRACKER_PORT": "0", "TRACKER_ADMIN_PORT": "0",
        "TRACKER_WORKERS": str(workers),
    }
    countries = write_countries(home / "countries.mmdb")
    if countries is not None:
        environment["TRACKER_GEOIP_DB"] = str(countries)
    log = home / "edge.log"
    began = time.monotonic()
    with started([sys.executable, "-m", "tracker", "edge"], log, environment | settings) as process:
        ready = wait_for(process, log, r"ready: public port (\d+), admin port (\d+)")
        took = time.monotonic() - began
        yield Edge(name, int(ready[1]), process.pid, int(ready[2]), tuple(cpu.children(process.pid)), took)


@contextlib.contextmanager
def bare_aiohttp(folder: Path) -> Iterator[Server]:
    """The yardstick: an aiohttp Application that answers a constant 302."""
    with _python_server(folder, "bare aiohttp", "bench.references.bare_aiohttp") as server:
        yield server


@contextlib.contextmanager
def usual_design(folder: Path, dsn: str) -> Iterator[Server]:
    """aiohttp, one INSERT a click, one transaction a postback."""
    with _python_server(folder, "usual design", "bench.references.usual_aiohttp", dsn) as server:
        yield server


@contextlib.contextmanager
def fastapi(folder: Path, dsn: str) -> Iterator[Server]:
    """The usual design once more, with FastAPI on uvicorn."""
    with _python_server(folder, "FastAPI", "bench.references.usual_fastapi", dsn) as server:
        yield server


@contextlib.contextmanager
def _python_server(folder: Path, name: str, module: str, *arguments: str) -> Iterator[Server]:
    log = folder / f"{module}.log"
    with started([sys.executable, "-m", module, *arguments], log, environment_without_settings()) as process:
        ready = wait_for(process, log, r"ready: port (\d+)")
        yield Server(name, int(ready[1]), process.pid)


def click_tokens(server: Server, count: int) -> list[str]:
    """Tokens of new clicks, by clicking `count` links one after the other."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection, connection.makefile("rb") as answers:
        tokens = []
        for number in range(count):
            connection.sendall(b"GET /c/l%d HTTP/1.1\r\nHost: go.example\r\nUser-Agent: Mozilla/5.0\r\n\r\n" % (number % 1000 + 1))
            token = re.search(rb"cid=([0-9a-v]{32})", b"".join(iter(answers.readline, b"\r\n")))
            assert token is not None
            tokens.append(token[1].decode())
    return tokens
