"""Metrics: exact sums over processes, closed labels, text that Prometheus reads."""

import os
import shutil
import subprocess

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support import missing

from tracker.metrics import FAMILIES, POSTBACK_BUCKETS, Page, Shared, exposition


def samples(shared: Shared) -> dict[str, float]:
    found = {}
    for family in text_string_to_metric_families(exposition(shared).decode()):
        for sample in family.samples:
            labels = ",".join(sample.labels.values())
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def test_counters_are_summed_over_processes_and_survive_a_death() -> None:
    """A worker's clicks are true after it died; what it held open is not."""
    shared = Shared.create(3)
    for index in range(3):
        shared.page(index).add("tracker_clicks_total", index + 1, label="head")
        shared.page(index).set("tracker_connections", 5)
    shared.page(1).clear_gauges()
    found = samples(shared)
    assert 6 == found["tracker_clicks_total{head}"]
    assert 10 == found["tracker_connections"]


def test_another_process_sees_the_same_numbers() -> None:
    shared = Shared.create(2)
    child = os.fork()
    if child == 0:
        Shared(shared.fd, 2).page(1).add("tracker_clicks_appended_total", 7)
        os._exit(0)
    os.waitpid(child, 0)
    assert 7 == samples(shared)["tracker_clicks_appended_total"]


def test_the_oldest_catalog_and_the_worst_lag_are_what_is_shown() -> None:
    shared = Shared.create(3)
    for index, (refreshed, lag) in enumerate([(1000.5, 0.25), (900.25, 2.0), (1100.0, 0.5)]):
        shared.page(index).set("tracker_catalog_refresh_timestamp_seconds", refreshed)
        shared.page(index).set("tracker_ship_delay_seconds", lag)
    found = samples(shared)
    assert (900.25, 2.0) == (found["tracker_catalog_refresh_timestamp_seconds"], found["tracker_ship_delay_seconds"])


def test_a_histogram_is_cumulative_and_ends_in_infinity() -> None:
    shared = Shared.create(1)
    page = shared.page(0)
    for seconds in (0.0005, 0.003, 0.003, 99.0):
        page.observe("tracker_postback_duration_seconds", seconds)
    found = samples(shared)
    assert 1 == found[f"tracker_postback_duration_seconds_bucket{{{POSTBACK_BUCKETS[0]}}}"]
    assert 3 == found["tracker_postback_duration_seconds_bucket{0.005}"]
    assert 4 == found["tracker_postback_duration_seconds_bucket{+Inf}"] == found["tracker_postback_duration_seconds_count"]
    assert pytest.approx(99.0065) == found["tracker_postback_duration_seconds_sum"]


@pytest.mark.fault(35)
def test_no_input_can_make_a_new_series() -> None:
    """A label's value that is not in its closed set is our bug, told at once, never a series."""
    shared = Shared.create(1)
    before = len(samples(shared))
    with pytest.raises(ValueError, match="tuple"):
        shared.page(0).add("tracker_clicks_total", label="made up")
    assert before == len(samples(shared))


def test_every_slot_belongs_to_one_value() -> None:
    """Two metrics on one slot would add apples to pears."""
    page = Shared.create(1).page(0)
    for number, family in enumerate(FAMILIES, 1):
        if family.kind == "counter":
            for value in family.values or ("",):
                page.add(family.name, number, label=value)
    for number, family in enumerate(FAMILIES, 1):
        if family.kind == "counter":
            assert {number} == {page.get(family.name, value) for value in family.values or ("",)}


def test_promtool_finds_nothing_to_say() -> None:
    promtool = shutil.which("promtool") or missing("promtool is not installed (Debian: prometheus)")
    shared = Shared.create(1)
    checked = subprocess.run([promtool, "check", "metrics"], input=exposition(shared), capture_output=True, check=False)
    assert (0, b"") == (checked.returncode, checked.stdout + checked.stderr)


def test_pages_do_not_overlap() -> None:
    shared = Shared.create(2)
    first, second = shared.page(0), shared.page(1)
    assert isinstance(first, Page)
    first.add("tracker_clicks_appended_total", 3)
    assert 0 == second.get("tracker_clicks_appended_total")
