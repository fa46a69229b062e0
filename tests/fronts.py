"""Front proxies as people run them: nginx and HAProxy before a port, on kept connections that all visitors share.

Both can tell every request they saw, as a line for each over a datagram socket: their opinion of what was asked, to be
held against ours. Neither tries a request twice: what the other side saw twice, it was sent twice.
"""

from __future__ import annotations

import contextlib
import select
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from support import missing
from tracker_process import free_port, until

PATIENCE_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Seen:
    """One request as the proxy saw it. `forwarded`: the status that the other side answered; None: it was not asked."""

    request: str
    answered: int
    forwarded: int | None


class Witness:
    """What a proxy tells. `until_seen` reads its lines up to the one that has a word in it, and as many as are known to come."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(PATIENCE_SECONDS)
        self.port = int(self._socket.getsockname()[1])

    def until_seen(self, word: str, *, at_least: int) -> list[Seen]:
        """Every request told since the last call, one of them with `word` in it; fewer than `at_least` if no more are told.

        nginx tells of a request whose head it refused only when the connection is gone, which may be behind the next ones.
        """
        seen: list[Seen] = []
        while len(seen) < at_least or not any(word in one.request for one in seen):
            try:
                line = self._socket.recv(1 << 16).decode("latin-1")
            except TimeoutError:
                if any(word in one.request for one in seen):
                    break
                raise
            found = line.partition("WITNESS|")[2].rstrip("\n\0").split("|", 2)
            if len(found) == 3:
                seen.append(Seen(found[2], int(found[0]), int(found[1]) if found[1].isdecimal() else None))
        return seen

    def close(self) -> None:
        self._socket.close()


@contextlib.contextmanager
def nginx(folder: Path, upstream: int, *, kept: int, witness: Witness | None = None) -> Iterator[int]:
    """nginx in front of a port, with so many kept connections to it; gives its own port."""
    program = _program("nginx", "nginx-light")
    port, folder = free_port(), folder / "nginx"
    folder.mkdir()
    places = "".join(f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    log = f"syslog:server=127.0.0.1:{witness.port} told" if witness else "off"
    (folder / "nginx.conf").write_text(f"""
        daemon off; worker_processes 1; pid {folder}/pid; error_log stderr notice;
        events {{ worker_connections 1024; }}
        http {{
            log_format told 'WITNESS|$status|$upstream_status|$request';
            access_log {log}; keepalive_requests 100000; client_max_body_size 10m; client_body_buffer_size 1m; {places}
            upstream edge {{ server 127.0.0.1:{upstream}; keepalive {kept}; keepalive_requests 100000; }}
            server {{
                listen 127.0.0.1:{port};
                location / {{
                    proxy_pass http://edge; proxy_http_version 1.1; proxy_next_upstream off; proxy_set_header Connection "";
                    proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr;
                }}
            }}
        }}
    """)
    with _running([program, "-p", str(folder), "-c", f"{folder}/nginx.conf"], until_told=b"start worker process "):
        yield port


@contextlib.contextmanager
def haproxy(folder: Path, upstream: int, *, kept: int, witness: Witness | None = None) -> Iterator[int]:
    """HAProxy in front of a port, with at most so many connections to it, shared by all; gives its own port."""
    program = _program("haproxy", "haproxy")
    port, file = free_port(), folder / "haproxy.cfg"
    log = f"""log 127.0.0.1:{witness.port} local0
            log-format "WITNESS|%ST|%[var(txn.told)]|%r" """ if witness else ""
    file.write_text(f"""
        global
            nbthread 1
        defaults
            mode http
            retries 0
            http-reuse always
            option http-keep-alive
            option disable-h2-upgrade
            timeout connect 20s
            timeout client 20s
            timeout server 20s
            timeout queue 20s
        frontend door
            bind 127.0.0.1:{port}
            {log}
            default_backend edge
        backend edge
            http-response set-var(txn.told) status
            server edge 127.0.0.1:{upstream} maxconn {kept} pool-max-conn {kept}
""")
    with _running([program, "-db", "-f", str(file)]) as process:
        until(lambda: process.poll() is not None or _accepts(port), "HAProxy accepts")      # it does not say when
        assert process.poll() is None
        yield port


def _program(name: str, package: str) -> str:
    program = shutil.which(name) or f"/usr/sbin/{name}"
    if not Path(program).exists():
        missing(f"no {name} (Debian: {package})")
    return program


@contextlib.contextmanager
def _running(command: list[str], *, until_told: bytes = b"") -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, stderr=subprocess.PIPE, bufsize=0)
    try:
        assert process.stderr is not None
        told = b""
        while until_told not in told:
            assert select.select([process.stderr], [], [], PATIENCE_SECONDS)[0], told
            line = process.stderr.readline()
            assert line, told
            told += line
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE_SECONDS)


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
