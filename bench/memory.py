"""Memory of a worker over minutes: under as many clicks as one connection pool can send, and while PostgreSQL is away.

    python -m bench.memory [--full]

A minute of each, ten with `--full`; `--seconds` and `--rounds` change nothing, since time is what is measured.
A leak or a queue that grows shows as the last fifth of the time above the second (the first is warm-up: caches fill). During
the outage clicks come at 10,000 a second, so that ten minutes of spool fit on a disk. Afterwards every click must be a row.
"""

from __future__ import annotations

import itertools
import statistics
import threading
from collections.abc import Callable, Sequence

from bench.kit.cpu import resident_bytes
from bench.kit.database import database, work_folder
from bench.kit.kept import clicks_kept
from bench.kit.machine import need_tools
from bench.kit.pacer import Latencies, paced
from bench.kit.plan import Plan, command
from bench.kit.progress import steps
from bench.kit.report import Report
from bench.kit.rounds import Finding
from bench.kit.servers import edge
from bench.kit.traffic import rich_clicks
from bench.kit.wrk import CONNECTIONS, Answers, load

SECONDS = 60
FULL_SECONDS = 600
SMOKE_SECONDS = 5
OUTAGE_RATE = 10_000
SPOOL_BYTES = "40GiB"      # ten minutes at this rate are 4 GB; the limit must not be what keeps memory flat
FULL_LOAD, OUTAGE = "full load", "outage"


def measure(plan: Plan) -> Report:
    """Memory of a worker over minutes of full load, and of a PostgreSQL outage."""
    need_tools("wrk", "taskset")
    requests = rich_clicks()
    seconds = SMOKE_SECONDS if plan.smoke else FULL_SECONDS if plan.full else SECONDS
    samples: dict[str, list[tuple[float, float]]] = {}      # seconds, MiB
    with work_folder() as folder, database(folder) as stored, \
            edge(folder, stored.dsn, TRACKER_SPOOL_MAX_BYTES=SPOOL_BYTES) as tracker:
        [worker] = tracker.workers
        completed = 0
        for when in steps("memory", (FULL_LOAD, OUTAGE)):
            if when == FULL_LOAD:
                seen: Answers | Latencies
                samples[when], seen = _sampled(worker, lambda: load(tracker.port, requests, seconds=seconds))
                tracker.settle()
            else:
                stored.stop()
                rate = 1_000 if plan.smoke else OUTAGE_RATE
                samples[when], seen = _sampled(
                    worker, lambda: paced(tracker.port, requests, rate=rate, seconds=seconds)  # noqa: B023 - called at once
                )
                stored.start()
            completed += seen.completed
        note = clicks_kept([tracker], stored, completed=completed, under_way=CONNECTIONS)
    full = "" if seconds >= FULL_SECONDS else f"over {seconds} s, not ten minutes"
    return Report(
        "memory", f"Memory of a worker (RSS) over {seconds} s of full load, and of a PostgreSQL outage",
        {"seconds": seconds, "outage_rate": OUTAGE_RATE},
        ["when", "second fifth, MiB", "last fifth, MiB", "most, MiB"],
        [[when, *(f"{one:.1f}" for one in (*fifths(values), max(mib for _, mib in values)))] for when, values in samples.items()],
        findings={when: _growth(values, full) for when, values in samples.items()},
        curves={"seconds: memory of a worker, MiB": samples}, notes=[note],
    )


def fifths(samples: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Medians of the second and of the last fifth of the samples."""
    many = max(1, len(samples) // 5)
    values = [value for _, value in samples]
    return statistics.median(values[many:2 * many] or values), statistics.median(values[-many:])


def _growth(samples: list[tuple[float, float]], note: str) -> Finding:
    early, late = fifths(samples)
    return Finding(late / early, late / early, late / early, note=note)


def _sampled(pid: int, work: Callable[[], Answers | Latencies]) -> tuple[list[tuple[float, float]], Answers | Latencies]:
    """Do the work; meanwhile look at the memory every half second."""
    samples: list[tuple[float, float]] = []
    done = threading.Event()

    def look() -> None:
        for number in itertools.count():
            samples.append((number / 2, resident_bytes(pid) / 2**20))
            if done.wait(0.5):
                return

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        seen = work()
    finally:
        done.set()
        watcher.join()
    return samples, seen


main = command(measure)

if __name__ == "__main__":
    main()
