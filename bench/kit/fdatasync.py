"""How long the disk beneath spool and database takes to make a write safe: what latencies of durable answers are judged by."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path
from typing import Final

WRITE_BYTES: Final = 4096


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
