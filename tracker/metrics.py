"""Every metric, and where its numbers live: shared memory the parent made, one page a process, one slot a value.

A worker adds to its own page with plain stores (0.1 µs); `/metrics`, on the one admin listener, sums the pages. So a
scrape is exact whichever worker took the request, and a worker's death loses nothing. Labels are closed enums, written
down here: the number of series cannot depend on what strangers send.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from tracker.domain.outgoing import OUTCOMES
from tracker.domain.refusal import Reason

PAGE_BYTES: Final = 4096     # 512 slots a process; a page each, so that no two processes write to one cache line

POSTBACK_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 1.5)   # seconds; 1.5 is the promise

SYNC_BUCKETS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)   # fast disks to hung ones


@dataclass(frozen=True, slots=True)
class Family:
    """One metric. At most one label, with a closed set of values. Gauges are summed over processes unless named below."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    label: str = ""
    values: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def slots(self) -> int:
        return len(self.buckets) + 2 if self.kind == "histogram" else max(1, len(self.values))


POSTBACK_RESULTS: Final = (
    "recorded", "updated", "duplicate", "conflict", "pending_click", "queued", "refused", "unavailable",
)
REFUSAL_REASONS: Final = tuple(reason.value for reason in Reason)

FAMILIES: Final = (
    Family("tracker_clicks_total", "counter", "Visits answered with a redirect, by kind; all kinds = appended + unlogged.", "kind",
           ("click", "prefetch", "head")),
    Family("tracker_clicks_appended_total", "counter", "Visits written to the spool before their answer."),
    Family("tracker_clicks_unlogged_total", "counter", "Visits redirected although the spool could not take them. Must stay 0."),
    Family("tracker_clicks_missed_total", "counter", "Visits that found no link.", "reason", ("unknown", "closed")),
    Family("tracker_clicks_shipped_total", "counter", "Click rows committed to PostgreSQL, by table.", "table",
           ("clicks", "stray", "quarantine")),
    Family("tracker_clicks_replayed_duplicates_total", "counter", "Click rows sent again that PostgreSQL already had."),
    Family("tracker_ship_batches_total", "counter",
           "Batches of clicks sent to PostgreSQL.", "outcome", ("committed", "retried", "ambiguous")),
    Family("tracker_ship_delay_seconds", "gauge", "Age of the oldest click not yet in PostgreSQL."),
    Family("tracker_spool_pending_records", "gauge", "Click records in the spool that PostgreSQL does not have yet."),
    Family("tracker_dead_spool_records", "gauge", "Click records of earlier starts that PostgreSQL does not have yet."),
    Family("tracker_spool_unsynced_seconds", "gauge", "Age of the oldest record a power cut would lose; grows on a hung disk."),
    Family("tracker_spool_sync_duration_seconds", "histogram",
           "How long the disk took to make the spool safe: with TRACKER_SYNC=always a click waits for two at most.",
           buckets=SYNC_BUCKETS),
    Family("tracker_spool_bytes", "gauge", "Bytes of spool files."),
    Family("tracker_spool_healthy", "gauge", "Workers whose spool can be written."),
    Family("tracker_spool_errors_total", "counter", "Failures of the spool's disk.", "operation", ("write", "fsync")),
    Family("tracker_postbacks_total", "counter", "Postbacks answered, by result.", "result", POSTBACK_RESULTS),
    Family("tracker_postback_refusals_total", "counter", "Postbacks refused, by reason.", "reason", REFUSAL_REASONS),
    Family("tracker_postback_groups_total", "counter",
           "Groups of postbacks sent to PostgreSQL.", "outcome", ("committed", "retried", "ambiguous")),
    Family("tracker_postback_duration_seconds", "histogram",
           "From a postback's last byte to its answer.", buckets=POSTBACK_BUCKETS),
    Family("tracker_pending_postbacks", "gauge", "Postbacks that wait for their click."),
    Family("tracker_outbox_attempts_total", "counter", "Outgoing postbacks tried, by how it ended.", "outcome", OUTCOMES),
    Family("tracker_outbox_given_up_total", "counter", "Outgoing postbacks given up after their last attempt."),
    Family("tracker_outbox_waiting", "gauge", "Outgoing postbacks not sent yet, of endpoints that are active."),
    Family("tracker_outbox_oldest_seconds", "gauge", "Age of the oldest of tracker_outbox_waiting."),
    Family("tracker_outbox_endpoints_off", "gauge", "Partners' endpoints that failed for too long and were switched off."),
    Family("tracker_postbacks_quarantined_total", "counter", "Postbacks that could not be decided; their callers heard `queued`."),
    Family("tracker_postbacks_unjournalled_total", "counter", "Postbacks recorded while the journal's disk took nothing."),
    Family("tracker_locked_conversions", "gauge", "Conversions that somebody else has locked, so that their postbacks wait."),
    Family("tracker_spools_held", "gauge", "Spools whose columns do not fit the table: held until a person has looked."),
    Family("tracker_dead_spools", "gauge", "Spools of earlier starts that are not wholly shipped, as each worker sees them."),
    Family("tracker_catalog_links", "gauge", "Links in memory, summed over processes."),
    Family("tracker_catalog_refresh_timestamp_seconds", "gauge",
           "When the catalog last agreed with PostgreSQL, the oldest of all processes."),
    Family("tracker_database_up", "gauge", "Processes whose last word with PostgreSQL was good."),
    Family("tracker_connections", "gauge", "Open connections on the public port."),
    Family("tracker_connections_refused_total", "counter", "Connections closed at once because of the limit."),
    Family("tracker_partitions_ahead_seconds", "gauge", "How far ahead of today days have a partition."),
    Family("tracker_stray_rows", "gauge", "Rows in clicks_stray. Must stay 0."),
    Family("tracker_clock_offset_seconds", "gauge", "This machine's clock less PostgreSQL's, the greatest of all processes."),
    Family("tracker_ready", "gauge", "Worker processes that are ready: catalog loaded, spool writable, not draining."),
    Family("tracker_workers", "gauge", "Worker processes running."),
    Family("tracker_secret_reloads_total", "counter", "Secrets taken anew from their files, each process counted."),
    Family("tracker_worker_restarts_total", "counter", "Workers that died and were replaced."),
    Family("tracker_event_loop_lag_seconds", "gauge", "How late a timer last fired, the greatest of all processes."),
)

# Gauges that are not sums over processes, but the least or the greatest of them.
_OLDEST: Final = {"tracker_catalog_refresh_timestamp_seconds"}
_GREATEST: Final = {"tracker_ship_delay_seconds", "tracker_clock_offset_seconds", "tracker_event_loop_lag_seconds",
                    "tracker_pending_postbacks", "tracker_dead_spools", "tracker_dead_spool_records",
                    "tracker_spool_unsynced_seconds", "tracker_partitions_ahead_seconds", "tracker_stray_rows",
                    "tracker_outbox_waiting", "tracker_outbox_oldest_seconds", "tracker_outbox_endpoints_off"}
_MICRO: Final = 1_000_000     # gauges and sums of seconds are kept in millionths: slots are whole numbers

_OFFSET: dict[str, int] = {}
_next = 1                     # slot 0 says whether the page has ever been used
for _family in FAMILIES:
    _OFFSET[_family.name] = _next
    _next += _family.slots
assert _next * 8 <= PAGE_BYTES
_BY_NAME: Final = {family.name: family for family in FAMILIES}


class Page:
    """The numbers of one process."""

    __slots__ = ("_slots",)

    def __init__(self, memory: memoryview) -> None:
        self._slots = memory.cast("q")
        self._slots[0] = 1

    def slot(self, name: str, value: str = "") -> int:
        """Where a metric (and its label's value) stands; look it up once, add with `add_at`."""
        family = _BY_NAME[name]
        return _OFFSET[name] + (family.values.index(value) if value else 0)

    def add_at(self, slot: int, amount: int = 1) -> None:
        self._slots[slot] += amount

    def add(self, name: str, amount: int = 1, *, label: str = "") -> None:
        """Raise a counter."""
        self._slots[self.slot(name, label)] += amount

    def set(self, name: str, value: float) -> None:
        """Set a gauge."""
        self._slots[self.slot(name)] = round(value * _MICRO)

    def labels(self, name: str) -> tuple[str, ...]:
        """The values a metric's label may have."""
        return _BY_NAME[name].values

    def get(self, name: str, label: str = "") -> int:
        return self._slots[self.slot(name, label)]

    def observe(self, name: str, seconds: float) -> None:
        """Add to a histogram."""
        family = _BY_NAME[name]
        base = _OFFSET[name]
        for index, bound in enumerate(family.buckets):
            if seconds <= bound:
                self._slots[base + index] += 1
                break
        else:
            self._slots[base + len(family.buckets)] += 1
        self._slots[base + len(family.buckets) + 1] += round(seconds * _MICRO)

    def clear_gauges(self) -> None:
        """A dead worker's gauges are not true any more; its counters are."""
        for family in FAMILIES:
            if family.kind == "gauge":
                self._slots[_OFFSET[family.name]] = 0
        self._slots[0] = 0

    def values(self) -> Sequence[int]:
        return self._slots


class Shared:
    """The pages of all processes of one `tracker` command: anonymous shared memory, handed on as a file descriptor."""

    def __init__(self, fd: int, pages: int) -> None:
        self.fd = fd
        self._memory = memoryview(mmap.mmap(fd, pages * PAGE_BYTES))
        self.pages = pages

    @classmethod
    def create(cls, pages: int) -> Shared:
        fd = os.memfd_create("tracker-metrics") if hasattr(os, "memfd_create") else _unlinked_file()
        os.ftruncate(fd, pages * PAGE_BYTES)
        return cls(fd, pages)

    def page(self, index: int) -> Page:
        return Page(self._view(index))

    def _view(self, index: int) -> memoryview:
        return self._memory[index * PAGE_BYTES:(index + 1) * PAGE_BYTES]

    def read(self) -> list[Sequence[int]]:
        return [self._view(index).cast("q") for index in range(self.pages)]


def _unlinked_file() -> int:
    fd, path = tempfile.mkstemp()
    Path(path).unlink()
    return fd


class _Sums(Collector):
    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    def collect(self) -> Iterator[Metric]:
        pages = self._shared.read()
        for family in FAMILIES:
            yield _metric(family, pages)


def _metric(family: Family, pages: Sequence[Sequence[int]]) -> Metric:
    base = _OFFSET[family.name]
    if family.kind == "counter":
        counter = CounterMetricFamily(family.name, family.help, labels=[family.label] if family.label else [])
        for index, label in enumerate(family.values or ("",)):
            counter.add_metric([label] if label else [], sum(page[base + index] for page in pages))
        return counter
    if family.kind == "histogram":
        count = 0
        buckets: list[tuple[str, float]] = []
        for index in range(len(family.buckets) + 1):
            count += sum(page[base + index] for page in pages)
            buckets.append((repr(family.buckets[index]) if index < len(family.buckets) else "+Inf", count))
        total = sum(page[base + len(family.buckets) + 1] for page in pages) / _MICRO
        histogram = HistogramMetricFamily(family.name, family.help)
        histogram.add_metric([], buckets, total)
        return histogram
    values = [page[base] for page in pages if page[0] and page[base]] or [0]
    value = min(values) if family.name in _OLDEST else max(values) if family.name in _GREATEST else sum(values)
    return GaugeMetricFamily(family.name, family.help, value=value / _MICRO)


def exposition(shared: Shared) -> bytes:
    """What /metrics answers, in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Sums(shared))
    return generate_latest(registry)


def described() -> Iterable[Mapping[str, str]]:
    """Every metric, for the README and its test."""
    return [{"name": family.name, "kind": family.kind, "help": family.help} for family in FAMILIES]
