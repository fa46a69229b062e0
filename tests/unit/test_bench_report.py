"""A benchmark's result is kept with what is needed to repeat it, and shown without a network."""

import json
import re
from pathlib import Path

import pytest

from bench.kit import results
from bench.kit.report import Report
from bench.kit.rounds import Finding
from bench.memory import fifths


@pytest.fixture
def report() -> Report:
    return Report(
        "disk", "A <title>", {"seconds": 1}, ["server", "rate"], [["a & b", "7"]], {"row": Finding(300.0, 290.0, 310.0)},
        rounds={"Rate, µs": {"a & b": [7.0, 9.0]}}, parts={"CPU": {"a & b": {"user": 1.0, "kernel": 2.0}, "other": {"user": 3.0}}},
        curves={"rate: p99, ms": {"a & b": [(1.0, 2.0), (2.0, 5.0)]}}, notes=["All kept."],
    )


def test_a_figure_without_commit_and_machine_is_hearsay(report: Report, tmp_path: Path) -> None:
    kept = json.loads(report.save(tmp_path).read_text())
    assert {"bench", "date", "commit", "machine", "versions", "settings"} <= kept.keys()
    assert {"table", "findings", "rounds", "parts", "curves", "notes"} <= kept.keys()
    assert {"value": 300.0, "least": 290.0, "most": 310.0, "void": "", "note": ""} == kept["findings"]["row"]
    assert [{"server": "a & b", "rate": "7"}] == kept["table"]


def test_the_page_loads_nothing_and_names_do_not_become_markup(report: Report, tmp_path: Path) -> None:
    report.save(tmp_path)
    page = (tmp_path / "index.html").read_text()
    assert "A &lt;title&gt;" in page
    assert "<td>a &amp; b" in page
    assert 3 == page.count("<svg")
    assert [] == re.findall(r"https?:|src=|href=\"[^#]|@import|url\([^#]", page)


def test_goals_and_a_picture_for_each_plot_are_made_of_all_results(report: Report, tmp_path: Path) -> None:
    report.save(tmp_path)
    assert "| 300 bytes (290 to 310) | yes, `disk`" in (tmp_path / "GOALS.md").read_text()
    pictures = sorted(tmp_path.glob("*.png"))
    assert ["disk-cpu.png", "disk-rate-p99-ms.png", "disk-rate-us.png"] == [path.name for path in pictures]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)
    assert ["disk"] == list(results.read(tmp_path))


def test_memory_grows_from_the_second_fifth_to_the_last() -> None:
    """The first is warm-up: caches fill."""
    samples = [(float(second), mib) for second, mib in enumerate([1, 50, 100, 100, 100, 100, 120, 130, 150, 150])]
    assert (100.0, 150.0) == fifths(samples)
    assert (7.0, 7.0) == fifths([(0.0, 7.0)])
