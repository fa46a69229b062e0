"""What the benchmarks make of their rounds: ratios, spreads, and when a figure means nothing."""

import subprocess
import sys

import pytest

from bench.kit import cpu
from bench.kit.rounds import Finding, Run, Series, pacer_too_busy, rate_ratio, ratio, spread
from bench.kit.wrk import Answers


def series(*rates: float, busy: float = 0.5, cpu_each: float = 10.0) -> Series:
    parts = {"worker, user": cpu_each * 0.75, "worker, kernel": cpu_each * 0.25}
    return Series([Run(1000, rate, 1.0, 2.0, busy, parts, 4.0) for rate in rates])


def answers(busy: float) -> Answers:
    return Answers(1000, 0, 1.0, 1.0, 2.0, busy)


def test_ratios_are_taken_round_by_round() -> None:
    """The machine may be twice as fast in one round; medians of each side apart would compare different rounds."""
    assert Finding(2.0, 1.5, 2.5) == ratio([2, 20, 150, 250], [1, 10, 100, 100])


def test_a_spread_is_the_median_between_the_least_and_the_most() -> None:
    assert Finding(3.0, 1.0, 50.0, "", "why") == spread([50.0, 1.0, 3.0], note="why")


def test_nothing_to_divide_by_is_no_crash() -> None:
    """PostgreSQL may have used less than the 10 ms that can be seen."""
    assert float("inf") == ratio([1.0], [0.0]).value


@pytest.mark.parametrize(("ours", "theirs", "void"), [
    (0.90, 0.5, False), (0.91, 0.5, True), (0.5, 0.91, True), (0.5, 0.5, False),
])
def test_rates_are_void_when_the_load_generators_core_was_over_90_percent_busy(ours: float, theirs: float, void: bool) -> None:
    """Then the load may be what was measured, whichever side it was busy on."""
    found = rate_ratio(series(200, busy=ours), series(100, busy=theirs))
    assert void == bool(found.void)
    assert 2.0 == found.value, "what it showed is told all the same"


def test_one_busy_round_does_not_make_a_rate_void() -> None:
    assert "" == rate_ratio(series(1, 1, 1), Series(series(1, busy=0.99).runs + series(1, 1, busy=0.5).runs)).void


@pytest.mark.parametrize(("busy", "void"), [(0.70, False), (0.71, True)])
def test_latencies_are_void_when_the_pacers_core_was_over_70_percent_busy(busy: float, void: bool) -> None:
    assert void == bool(pacer_too_busy([answers(busy)]))


def test_cpu_of_all_parts_decides_and_postgresql_is_apart() -> None:
    [run] = series(1, cpu_each=12.0).runs
    assert 12.0 == run.cpu_each
    assert 16.0 == run.with_database
    assert ["worker, user", "worker, kernel", "PostgreSQL"] == list(series(1).parts())


def test_cpu_of_children_counts_while_they_live_and_after_they_ended() -> None:
    """PostgreSQL's backends come and go; what they used must not vanish with them. Told in hundredths, rounded down."""
    burn = "import time\nwhile time.process_time() < 0.22: pass\n"
    parent = (
        "import subprocess, sys\n"
        f"subprocess.run([sys.executable, '-c', {burn!r}])\n"
        f"child = subprocess.Popen([sys.executable, '-c', {burn + 'print(flush=True); input()'!r}], stdin=0)\n"
        "child.wait()\n"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()      # the second child has burnt its share, and lives
        assert 0.39 < cpu.of_tree(process.pid).total
        process.stdin.write(b"\n")
