"""An open loop: requests leave at a fixed rate whatever the answers do, and latency counts from when one *should* have left.

A closed loop (wrk) waits with the server when it stalls and so leaves out what visitors would have felt. Here a request whose
time has come goes out on the next free connection; when none is free it waits, and the wait is part of its latency.

`paced()` runs this module as a process of its own on the load's core, before everything else there where the kernel lets us
(SCHED_FIFO): a pacer that has to wait for its turn would measure its own lateness, which is told as well.
"""

from __future__ import annotations

import gc
import json
import os
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
from hdrh.histogram import HdrHistogram

from bench.kit.cpu import CoreWatch
from bench.kit.machine import LOAD_CORE, ROOT, on_core
from bench.kit.timer import ring
from bench.kit.wrk import SERIAL, fresh_serial

CONNECTIONS: Final = 256         # at 10,000/s answers may take 25 ms before a request has to wait for one
WARM_UP_SECONDS: Final = 1.0     # sent and answered, not counted
LAST_ANSWER_SECONDS: Final = 10.0
COLUMNS: Final = ("p50 ms", "p99 ms", "p99.9 ms", "most ms", "sent late, p99 ms", "pacer busy", "its core busy")
_LONGEST_US: Final = 60_000_000


@dataclass(frozen=True, slots=True)
class Latencies:
    """What the pacer saw; percentiles in ms, from the intended time of sending.

    `late_p99_ms`: how much later than intended requests left, waits for a free connection included. `core_busy`: share of the
    time that its core was not idle; `load_busy`: the same of what may run before the pacer there, which decides whether this
    is void: the pacer itself where it goes before all others, else all of them.
    """

    sent: int
    refused: int
    seconds: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    late_p99_ms: float
    core_busy: float
    load_busy: float

    @property
    def completed(self) -> int:
        return self.sent - self.refused


def paced(port: int, requests: Sequence[bytes], *, rate: int, seconds: float, connections: int = CONNECTIONS) -> Latencies:
    """Send the requests in turn to 127.0.0.1:port, `rate` a second for a warm-up and then for `seconds`.

    Raises click.ClickException when a connection broke, an answer never came, or a request was refused.
    """
    with tempfile.NamedTemporaryFile(prefix="tracker-bench-requests-") as file:
        file.write(b"\0".join(requests))
        file.flush()
        command = [sys.executable, "-m", "bench.kit.pacer", str(port), file.name, str(rate), str(seconds), str(connections),
                   str(fresh_serial())]
        done = subprocess.run(on_core(LOAD_CORE, command), cwd=ROOT, capture_output=True, text=True, check=False,
                              timeout=seconds + WARM_UP_SECONDS + LAST_ANSWER_SECONDS + 30)
    if done.returncode:
        raise click.ClickException(f"the pacer failed: {done.stderr[-2000:]}")
    seen = Latencies(**json.loads(done.stdout))
    if seen.refused:
        raise click.ClickException(f"of {seen.sent} paced requests {seen.refused} were refused")
    return seen


def told(series: Sequence[Latencies]) -> list[str]:
    """Medians for a table, as COLUMNS has it."""
    names = ("p50_ms", "p99_ms", "p999_ms", "max_ms", "late_p99_ms")
    shares = ("load_busy", "core_busy")
    return [*(f"{statistics.median(getattr(one, name) for one in series):.2f}" for name in names),
            *(f"{statistics.median(getattr(one, name) for one in series):.0%}" for name in shares)]


def interval_ns(rate: int) -> int:
    """Between two requests, whole: bell and schedule step by the same, so that no request is due just after a bell."""
    return 10**9 // rate


def answer_length(data: bytes) -> int:
    """Bytes of the one answer that `data` begins with; 0 while its head is not whole. Answers carry a Content-Length."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return 0
    at = data.find(b"ontent-", 0, end)
    while at >= 0 and data[at + 7:at + 15].lower() != b"length: ":
        at = data.find(b"ontent-", at + 1, end)
    return end + 4 + (int(data[at + 15:data.find(b"\r", at)]) if at >= 0 else 0)


class Pacer:
    """One run: everything that must not cost is made beforehand."""

    def __init__(self, port: int, requests: Sequence[bytes], rate: int, total: int, connections: int, serial: int) -> None:
        self._requests = [request.partition(SERIAL) for request in requests]
        self._rate, self._total, self._serial = rate, total, serial
        self._epoll = select.epoll()
        self._sockets = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(connections)]
        for one in self._sockets:
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            one.setblocking(False)
            self._epoll.register(one.fileno(), select.EPOLLIN)
        self.latencies = array("q")       # ns, in the order of answers
        self.lateness = array("q")        # ns, in the order of requests
        self.refused = 0
        self.patience_ns = int(LAST_ANSWER_SECONDS * 1e9)      # without any answer

    def run(self) -> float:
        """All requests, all answers; the seconds that took. Raises OSError when the last answers do not come."""
        read, write, clock, poll = os.read, os.write, time.monotonic_ns, self._epoll.poll
        requests, many, serial, total = self._requests, len(self._requests), self._serial, self._total
        record, record_late, interval = self.latencies.append, self.lateness.append, interval_ns(self._rate)
        idle = deque(one.fileno() for one in self._sockets)
        due = dict.fromkeys(idle, 0)
        parts: dict[int, bytes] = {}
        sent = answered = refused = 0
        start = next_due = heard = clock() + 10**7
        bell = ring(start, interval)
        self._epoll.register(bell, select.EPOLLIN)
        while answered < total:
            for descriptor, _ in poll(LAST_ANSWER_SECONDS):
                if descriptor == bell:
                    read(bell, 8)
                    if sent == total:
                        self._epoll.unregister(bell)
                    continue
                data = read(descriptor, 8192)
                now = clock()
                if not data:
                    raise OSError("a connection was closed")
                if parts:
                    data = parts.pop(descriptor, b"") + data
                if len(data) != answer_length(data):
                    parts[descriptor] = data
                    continue
                record(now - due[descriptor])
                refused += data[9] >= 52      # b"4"
                answered += 1
                idle.append(descriptor)
                heard = now
            now = clock()
            if now - heard > self.patience_ns:
                raise OSError(f"{sent - answered} answers did not come")
            while next_due <= now and idle and sent < total:
                descriptor = idle.popleft()
                due[descriptor] = next_due
                head, mark, tail = requests[sent % many]
                if mark:
                    serial += 1
                    head = b"%b%d%b" % (head, serial, tail)
                write(descriptor, head)
                record_late(now - next_due)
                sent += 1
                next_due = start + sent * interval
                now = clock()
        self.refused = refused
        os.close(bell)
        return (clock() - start) / 1e9

    def close(self) -> None:
        self._epoll.close()
        for one in self._sockets:
            one.close()


def main() -> None:
    """PORT FILE RATE SECONDS CONNECTIONS SERIAL: prints one line of JSON, the fields of Latencies."""
    port, path, rate, seconds, connections, serial = sys.argv[1:]
    requests = Path(path).read_bytes().split(b"\0")
    warm = int(int(rate) * WARM_UP_SECONDS)
    total = warm + max(1, int(int(rate) * float(seconds)))
    pacer = Pacer(int(port), requests, int(rate), total, int(connections), int(serial))
    gc.disable()
    first = _go_first()
    watch, used = CoreWatch(LOAD_CORE), time.process_time()      # the only core this process has
    took = pacer.run()
    own, core = (time.process_time() - used) / took, watch.busy()
    pacer.close()
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    latencies, lateness = _histogram(pacer.latencies[warm:]), _histogram(pacer.lateness[warm:])
    print(json.dumps({
        "sent": total, "refused": pacer.refused, "seconds": took, "p50_ms": latencies.get_value_at_percentile(50) / 1e3,
        "p99_ms": latencies.get_value_at_percentile(99) / 1e3, "p999_ms": latencies.get_value_at_percentile(99.9) / 1e3,
        "max_ms": latencies.get_max_value() / 1e3, "late_p99_ms": lateness.get_value_at_percentile(99) / 1e3, "core_busy": core,
        "load_busy": own if first else core,
    }))


def _go_first() -> bool:
    """Run before whatever else has this core, PostgreSQL above all; False where the kernel forbids it."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:
        return False
    return True


def _histogram(nanoseconds: array[int]) -> HdrHistogram:
    """In µs, three digits."""
    histogram = HdrHistogram(1, _LONGEST_US, 3)
    for one in nanoseconds:
        histogram.record_value(max(1, one // 1000))
    return histogram


if __name__ == "__main__":
    main()
