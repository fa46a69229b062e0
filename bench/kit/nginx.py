"""nginx as a yardstick (`return 302` with a buffered access log) and as what stands in front: a proxy, with or without TLS."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import click

from bench.kit.cpu import children
from bench.kit.machine import LOAD_CORE, SERVER_CORE
from bench.kit.process import READY_SECONDS, free_port, started
from bench.kit.servers import Server


@contextlib.contextmanager
def nginx(folder: Path) -> Iterator[Server]:
    """One worker that answers a constant 302."""
    with _nginx(folder / "nginx", "return 302 https://shop.example/p;", core=SERVER_CORE) as server:
        yield server


@contextlib.contextmanager
def proxy(folder: Path, *, upstream: int, tls: bool = False) -> Iterator[Server]:
    """One worker on the load's core that hands everything to a port of this machine, over connections it keeps alive."""
    above = f"upstream edge {{ server 127.0.0.1:{upstream}; keepalive 256; keepalive_requests 1000000000; }}"
    headers = {"Connection": '""', "Host": "$host", "X-Forwarded-For": "$remote_addr"}
    action = "proxy_pass http://edge; proxy_http_version 1.1; "
    action += " ".join(f"proxy_set_header {name} {value};" for name, value in headers.items())
    home = folder / ("nginx-tls" if tls else "nginx-proxy")
    with _nginx(home, action, core=LOAD_CORE, above=above, tls=tls) as server:
        yield server


@contextlib.contextmanager
def _nginx(home: Path, action: str, *, core: int, above: str = "", tls: bool = False) -> Iterator[Server]:
    port = free_port()
    home.mkdir()
    listen = f"listen 127.0.0.1:{port};"
    if tls:
        _make_certificate(home)
        listen = f"listen 127.0.0.1:{port} ssl; ssl_certificate {home}/cert.pem; ssl_certificate_key {home}/key.pem;"
    (home / "nginx.conf").write_text(f"""
        daemon off; worker_processes 1; pid {home}/pid; error_log {home}/error.log;
        events {{ worker_connections 2048; }}
        http {{
            access_log {home}/access.log combined buffer=64k flush=1s;
            keepalive_requests 1000000000; server_tokens off;
            client_body_temp_path {home}/body; proxy_temp_path {home}/proxy; fastcgi_temp_path {home}/fastcgi;
            uwsgi_temp_path {home}/uwsgi; scgi_temp_path {home}/scgi;
            {above}
            server {{ {listen} location / {{ {action} }} }}
        }}
    """)
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    command = [program, "-p", str(home), "-e", f"{home}/error.log", "-c", f"{home}/nginx.conf"]
    if core == LOAD_CORE:
        command = ["nice", "-n", "5", *command]      # PostgreSQL, which has its own machine elsewhere, does not wait behind it
    with started(command, home / "log", os.environ, core=core) as process:
        _wait_for_worker(process, home / "error.log")
        yield Server("nginx", port, process.pid)


def _make_certificate(home: Path) -> None:
    """Of our own making, with the kind of key that most sites have."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=go.example", "-keyout", f"{home}/key.pem", "-out", f"{home}/cert.pem"],
        check=True, capture_output=True,
    )


def _wait_for_worker(process: subprocess.Popen[bytes], log: Path) -> None:
    """nginx's only child; it exists after the socket listens."""
    deadline = time.monotonic() + READY_SECONDS
    while not children(process.pid):
        if process.poll() is not None or time.monotonic() > deadline:
            raise click.ClickException(f"nginx did not start: {log.read_text()[-2000:]}")
        time.sleep(0.02)
