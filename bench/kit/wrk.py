"""wrk as the load generator: closed loop, keep-alive connections, one thread. Its latencies hide queueing; its rates are peaks."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from bench.kit.cpu import CoreWatch
from bench.kit.machine import LOAD_CORE, on_core

CONNECTIONS: Final = 64    # enough that one loop iteration finds several requests waiting, as under real load
SERIAL: Final = b"\x01"    # in a request: a number that is used once

_serials = itertools.count(10**9, 10**9)


def fresh_serial() -> int:
    """Whence a load counts its serials: a billion for each, whichever program sends them."""
    return next(_serials)


@dataclass(frozen=True, slots=True)
class Answers:
    """What a load saw in one run. `completed` were answered whole; up to one a connection was under way when it stopped.
    `refused` of them were answered with 400 or more. `load_busy`: share of the time that the load's core was not idle."""

    completed: int
    refused: int
    seconds: float
    p50_ms: float
    p99_ms: float
    load_busy: float

    @property
    def per_second(self) -> float:
        return self.completed / self.seconds


def load(
    port: int, requests: Sequence[bytes], *, seconds: int, connections: int = CONNECTIONS, refusals: bool = False, tls: bool = False
) -> Answers:
    """Send the requests in turn to 127.0.0.1:port. Raises click.ClickException when a connection broke, or one was refused
    though no `refusals` are meant."""
    with tempfile.NamedTemporaryFile(prefix="tracker-bench-requests-") as file:
        file.write(b"\0".join(requests))
        file.flush()
        script = str(Path(__file__).with_suffix(".lua"))
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", script]
        environment = {**os.environ, "BENCH_REQUESTS": file.name, "BENCH_SERIAL": str(fresh_serial())}
        watch = CoreWatch(LOAD_CORE)
        url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
        done = subprocess.run(
            on_core(LOAD_CORE, ["nice", "-n", "5", *command, url]), env=environment, timeout=seconds + 60,
            capture_output=True, text=True, check=False,
        )
        busy = watch.busy()
    _, found, line = done.stdout.partition("RESULT ")
    if done.returncode or not found:
        raise click.ClickException(f"wrk failed: {done.stderr or done.stdout}")
    seen = json.loads(line.splitlines()[0])
    if (seen["refused"] and not refusals) or seen["broken"]:
        raise click.ClickException(f"of {seen['requests']} requests {seen['refused']} were refused and {seen['broken']} broke off")
    return Answers(seen["requests"], seen["refused"], seen["microseconds"] / 1e6, seen["p50_us"] / 1e3, seen["p99_us"] / 1e3,
                   busy)
