"""A closed loop in which every click comes over a new connection, as from a visitor who was never here before.

The client closes, as browsers do: wrk can only ask the server to (`Connection: close`), which no browser sends with a click.
A connection costs the client's kernel more than the server's, so the load's core is full before a fast server is: the rate is
then void and CPU per click decides. `arrive()` runs this module as a process of its own.
"""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from bench.kit.cpu import CoreWatch
from bench.kit.machine import LOAD_CORE, ROOT, on_core
from bench.kit.pacer import answer_length
from bench.kit.wrk import CONNECTIONS, Answers

_SOURCES: Final = 32      # addresses of ours: one has 28,000 ports, and a port rests for a second after its connection
_BIND_ADDRESS_NO_PORT: Final = 24


def arrive(port: int, requests: Sequence[bytes], *, seconds: int, connections: int = CONNECTIONS) -> Answers:
    """Send the requests to 127.0.0.1:port, each on a connection of its own, `connections` at a time.

    Raises click.ClickException when one was refused or broke off.
    """
    with tempfile.NamedTemporaryFile(prefix="tracker-bench-requests-") as file:
        file.write(b"\0".join(requests))
        file.flush()
        command = [sys.executable, "-m", "bench.kit.newcomers", str(port), file.name, str(seconds), str(connections)]
        done = subprocess.run(on_core(LOAD_CORE, ["nice", "-n", "5", *command]), cwd=ROOT, capture_output=True, text=True,
                              check=False, timeout=seconds + 60)
    if done.returncode:
        raise click.ClickException(f"a load of new connections failed: {done.stderr[-2000:]}")
    return Answers(**json.loads(done.stdout))


def _run(port: int, requests: Sequence[bytes], seconds: float, connections: int) -> tuple[list[int], float]:
    """Latencies in ns, connecting included; the seconds that all took. Raises OSError when a connection breaks off."""
    epoll, clock = select.epoll(), time.monotonic_ns
    address, flags = ("127.0.0.1", port), socket.SOCK_STREAM | socket.SOCK_CLOEXEC
    open_now: dict[int, tuple[socket.socket, int, bytes]] = {}
    latencies: list[int] = []
    opened = 0

    def come() -> None:
        nonlocal opened
        began = clock()
        one = socket.socket(socket.AF_INET, flags)
        one.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
        one.bind((f"127.0.1.{opened % _SOURCES + 1}", 0))
        one.connect(address)      # the kernel answers for the server: this does not wait for it
        one.send(requests[opened % len(requests)])
        opened += 1
        open_now[one.fileno()] = (one, began, b"")
        epoll.register(one.fileno(), select.EPOLLIN)

    start = clock()
    end = start + int(seconds * 1e9)
    for _ in range(connections):
        come()
    while open_now:
        for descriptor, _ in epoll.poll(10):
            one, began, part = open_now.pop(descriptor)
            data = part + one.recv(8192)
            if len(data) == len(part) or data[9:10] >= b"4":
                raise OSError(f"broken off or refused: {data[:100]!r}")
            if len(data) != answer_length(data):
                open_now[descriptor] = (one, began, data)
                continue
            now = clock()
            latencies.append(now - began)
            one.close()
            if now < end:
                come()
    return latencies, (clock() - start) / 1e9


def main() -> None:
    """PORT FILE SECONDS CONNECTIONS: prints one line of JSON, the fields of Answers."""
    port, path, seconds, connections = sys.argv[1:]
    requests = Path(path).read_bytes().split(b"\0")
    watch = CoreWatch(LOAD_CORE)
    latencies, took = _run(int(port), requests, float(seconds), int(connections))
    busy = watch.busy()
    latencies.sort()
    print(json.dumps({
        "completed": len(latencies), "refused": 0, "seconds": took, "p50_ms": latencies[len(latencies) // 2] / 1e6,
        "p99_ms": latencies[len(latencies) * 99 // 100] / 1e6, "load_busy": busy,
    }))


if __name__ == "__main__":
    main()
