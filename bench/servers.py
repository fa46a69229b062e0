"""The servers under test, each bound to the server core: a tracker edge with its database, a bare aiohttp, nginx."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import click

from bench.countries import write_countries
from bench.machine import LOAD_CORE, ROOT, SERVER_CORE, children, cpu_seconds, on_core, stay_off_the_servers_core
from tracker.storage.embedded.server import EmbeddedPostgres
from tracker.storage.postgres import Connection, connect

READY_SECONDS: Final = 30.0
STOP_SECONDS: Final = 30.0     # longer than a drain: two seconds of serving on, then what PostgreSQL still has to take

# One program with a token, one partner, 1,000 links; every fourth link also hands on sub1 and the campaign.
_SEED: Final = """
    INSERT INTO programs (program_id, slug, name, currency) VALUES (7, 'shop', 'Shop', 'EUR');
    INSERT INTO program_terms (program_id, valid_from) VALUES (7, '2000-01-01');
    INSERT INTO partners (partner_id, slug, name) VALUES (13, 'anna', 'Anna');
    INSERT INTO enrolments (program_id, partner_id, valid_from, status) VALUES (7, 13, '2000-01-01', 'active');
    INSERT INTO commission_terms (program_id, valid_from, kind, rate) VALUES (7, '2000-01-01', 'percent', 10);
    INSERT INTO links (link_id, slug, program_id, partner_id, destination)
        SELECT n, 'l' || n, 7, 13, 'https://shop.example/p/' || n || '?cid={click_id}' ||
               CASE WHEN n % 4 = 0 THEN '&s={sub1}&c={query.utm_campaign}' ELSE '' END
        FROM generate_series(1, 1000) n;
    INSERT INTO credentials (credential_id, kind, token_hash) VALUES (5, 'token', sha256('token'));
    INSERT INTO credential_programs (credential_id, program_id) VALUES (5, 7);
"""


@dataclass(frozen=True, slots=True)
class Server:
    """Something that answers on 127.0.0.1:port; `pid` is the one process that does the work."""

    name: str
    port: int
    pid: int

    def cpu_seconds(self) -> float:
        return cpu_seconds(self.pid)


@dataclass(frozen=True, slots=True)
class Edge(Server):
    """A tracker edge with one worker."""

    admin_port: int
    dsn: str

    def metrics(self) -> dict[str, float]:
        """Every sample of /metrics by its name with labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line and line[0] != "#")}

    def settle(self, seconds: float = 60.0) -> dict[str, float]:
        """Wait until PostgreSQL has every click, so that the next contender has the machine to itself. Returns the metrics."""
        deadline = time.monotonic() + seconds
        while True:
            found = self.metrics()
            shipped = sum(value for name, value in found.items() if name.startswith("tracker_clicks_shipped_total"))
            if shipped == found["tracker_clicks_appended_total"]:
                return found
            if time.monotonic() > deadline:
                raise click.ClickException(f"{found['tracker_clicks_appended_total'] - shipped:.0f} clicks are still in the spool")
            time.sleep(0.1)

    def fetch(self, query: str) -> int:
        """One number from the database."""
        return asyncio.run(_fetch(self.dsn, query))


@contextlib.contextmanager
def work_folder() -> Iterator[Path]:
    """A folder for spool and database, under TMPDIR: point that at the disk to be measured."""
    with TemporaryDirectory(prefix="tracker-bench-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextlib.contextmanager
def database(folder: Path) -> Iterator[str]:
    """An embedded PostgreSQL with its usual settings (fsync and synchronous_commit on), schema and links; yields the DSN."""
    stay_off_the_servers_core()
    postgres = EmbeddedPostgres(folder / "postgres")
    postgres.start()
    try:
        asyncio.run(_prepare(postgres.dsn))
        yield postgres.dsn
    finally:
        postgres.stop()


@contextlib.contextmanager
def edge(folder: Path, dsn: str, **settings: str) -> Iterator[Edge]:
    """`tracker edge` with one worker and default settings: sync every 50 ms, shipping on, countries from a file."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRACKER_")}
    environment |= {
        "TRACKER_DATABASE_URL": dsn, "TRACKER_SECRET_KEYS": f"1:{base64.b64encode(os.urandom(32)).decode()}",
        "TRACKER_SPOOL_DIR": str(folder / "spool"), "TRACKER_HOST": "127.0.0.1", "TRACKER_PORT": "0", "TRACKER_ADMIN_PORT": "0",
        "TRACKER_WORKERS": "1", "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])),
    }
    countries = write_countries(folder / "countries.mmdb")
    if countries is not None:
        environment["TRACKER_GEOIP_DB"] = str(countries)
    log = folder / "edge.log"
    with _started([sys.executable, "-m", "tracker", "edge"], log, environment | settings) as process:
        ready = _wait_for(process, log, re.compile(r"ready: public port (\d+), admin port (\d+)"))
        [worker] = children(process.pid)
        yield Edge("tracker", int(ready[1]), worker, int(ready[2]), dsn)


@contextlib.contextmanager
def bare_aiohttp(folder: Path) -> Iterator[Server]:
    """The yardstick: an aiohttp Application that answers a constant 302 (bare_aiohttp.py)."""
    log = folder / "aiohttp.log"
    with _started([sys.executable, "-m", "bench.bare_aiohttp"], log, dict(os.environ)) as process:
        ready = _wait_for(process, log, re.compile(r"ready: port (\d+)"))
        yield Server("bare aiohttp", int(ready[1]), process.pid)


@contextlib.contextmanager
def nginx(folder: Path, *, upstream: int | None = None, core: int = SERVER_CORE) -> Iterator[Server]:
    """One nginx worker with a buffered access log: `return 302`, or a proxy with kept-alive connections to a port."""
    port = free_port()
    home = folder / ("nginx-proxy" if upstream else "nginx")
    home.mkdir()
    action = "return 302 https://shop.example/p;"
    above = ""
    if upstream:
        above = f"upstream edge {{ server 127.0.0.1:{upstream}; keepalive 256; keepalive_requests 1000000000; }}"
        headers = {"Connection": '""', "Host": "$host", "X-Forwarded-For": "$remote_addr"}
        action = "proxy_pass http://edge; proxy_http_version 1.1; "
        action += " ".join(f"proxy_set_header {name} {value};" for name, value in headers.items())
    (home / "nginx.conf").write_text(f"""
        daemon off; worker_processes 1; pid {home}/pid; error_log {home}/error.log;
        events {{ worker_connections 1024; }}
        http {{
            access_log {home}/access.log combined buffer=64k flush=1s;
            keepalive_requests 1000000000; server_tokens off;
            client_body_temp_path {home}/body; proxy_temp_path {home}/proxy; fastcgi_temp_path {home}/fastcgi;
            uwsgi_temp_path {home}/uwsgi; scgi_temp_path {home}/scgi;
            {above}
            server {{ listen 127.0.0.1:{port}; location / {{ {action} }} }}
        }}
    """)
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    command = [program, "-p", str(home), "-e", f"{home}/error.log", "-c", f"{home}/nginx.conf"]
    if core == LOAD_CORE:
        command = ["nice", "-n", "5", *command]
    with _started(command, home / "log", dict(os.environ), core=core) as process:
        yield Server("nginx", port, _wait_for_worker(process, home / "error.log"))


def free_port() -> int:
    """A port nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


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


@contextlib.contextmanager
def _started(
    command: Sequence[str], log: Path, environment: dict[str, str], *, core: int = SERVER_CORE
) -> Iterator[subprocess.Popen[bytes]]:
    """The process on its core, ended by SIGTERM and, should it not listen, by SIGKILL."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            on_core(core, command), stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=environment, cwd=ROOT
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


def _wait_for(process: subprocess.Popen[bytes], log: Path, sign: re.Pattern[str]) -> re.Match[str]:
    deadline = time.monotonic() + READY_SECONDS
    while (found := sign.search(log.read_text())) is None:
        if process.poll() is not None or time.monotonic() > deadline:
            raise click.ClickException(f"{log.stem} did not start: {log.read_text()[-2000:]}")
        time.sleep(0.02)
    return found


def _wait_for_worker(process: subprocess.Popen[bytes], log: Path) -> int:
    """nginx's only child; it exists after the socket listens."""
    deadline = time.monotonic() + READY_SECONDS
    while not (found := children(process.pid)):
        if process.poll() is not None or time.monotonic() > deadline:
            raise click.ClickException(f"nginx did not start: {log.read_text()[-2000:]}")
        time.sleep(0.02)
    return found[0]


async def _prepare(dsn: str) -> None:
    connection = await connect(dsn, command_timeout=120)
    try:
        await connection.execute((ROOT / "schema.sql").read_text())
        await connection.execute(_SEED)
    finally:
        await connection.close()


async def _fetch(dsn: str, query: str) -> int:
    connection: Connection = await connect(dsn, command_timeout=120)
    try:
        return int(await connection.fetchval(query))
    finally:
        await connection.close()
