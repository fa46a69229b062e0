"""How long the disk beneath spool and database takes to make a write safe: what latencies of durable answers are judged by."""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

WRITE_BYTES: Final = 4096
_DRAWS: Final = 100_000


def fdatasync_ms(folder: Path, *, count: int = 200) -> tuple[float, float]:
    """Median and 99th percentile of writing a page into a file that has its size already, and fdatasync, in ms."""
    path = folder / "fdatasync"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        os.posix_fallocate(descriptor, 0, count * WRITE_BYTES)
        os.fsync(descriptor)
        took = []
        for number in range(count):
            began = time.perf_counter()
            os.pwrite(descriptor, b"x" * WRITE_BYTES, number * WRITE_BYTES)
            os.fdatasync(descriptor)
            took.append((time.perf_counter() - began) * 1e3)
    finally:
        os.close(descriptor)
        path.unlink()
    return statistics.median(took), statistics.quantiles(took, n=100)[98]


def two_in_a_row_ms(counts: Sequence[tuple[float, int]], *, share: float = 0.99) -> float:
    """How long a row that comes at any moment waits for the disk alone: for the rest of the flush under way, and the next one.

    The time that `share` of rows do not exceed, in ms. `counts`: upper bound of each bucket of durations, in ms, and how many
    flushes fell into it, each as if alone; inside a bucket they are spread evenly. Few slow flushes matter: a row meets one
    of 5 ms twenty times as often as one of 0.25.
    """
    bounds = [0.0, *(bound for bound, _ in counts)]
    many = [count for _, count in counts]
    time_in = [count * (low + high) / 2 for low, high, count in zip(bounds, bounds[1:], many, strict=False)]
    rng = random.Random(1)

    def durations(weights: Sequence[float]) -> list[float]:
        drawn = rng.choices(range(len(counts)), weights, k=_DRAWS)
        return [rng.uniform(bounds[bucket], bounds[bucket + 1]) for bucket in drawn]

    under_way, following = durations(time_in), durations(many)
    waits = sorted(rng.random() * first + second for first, second in zip(under_way, following, strict=True))
    return waits[int(share * _DRAWS)]
