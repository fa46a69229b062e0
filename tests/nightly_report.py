"""`python -m tests.nightly_report REPORT.xml…`: what a nightly run did, as a Markdown table for the README.

The reports are pytest's own: `pytest -m nightly --junitxml=REPORT.xml`. What a test says of itself with `record_property`
(seeds, executions, mutants) stands in the last column, behind the case that said it.
"""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree as ET

ROOT = Path(__file__).parents[1]


@dataclass(slots=True)
class Row:
    """One test file of the run; `said` by the name of the property."""

    cases: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    said: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))


def rows_of(reports: Iterable[Path]) -> dict[str, Row]:
    """What the reports hold, by test file."""
    rows: defaultdict[str, Row] = defaultdict(Row)
    for report in reports:
        for case in ET.parse(report).iter("testcase"):
            row = rows[str(case.get("classname")).replace(".", "/") + ".py"]
            row.cases += 1
            row.failed += case.find("failure") is not None or case.find("error") is not None
            row.skipped += case.find("skipped") is not None
            row.seconds += float(case.get("time", 0))
            which = str(case.get("name")).partition("[")[2].removesuffix("]")
            for one in case.iter("property"):
                row.said[str(one.get("name"))].append(f"{which} {one.get('value')}".strip())
    return rows


def table_of(rows: dict[str, Row], title: str) -> str:
    """The title, a line a file, their sum."""
    lines = [title, "", "| tests | cases | failed | skipped | minutes | what they say |", "|---|---|---|---|---|---|"]
    for file, row in sorted(rows.items()):
        said = "; ".join(f"{name}: {', '.join(values)}" for name, values in sorted(row.said.items()))
        lines.append(f"| `{file}` | {row.cases} | {row.failed} | {row.skipped} | {row.seconds / 60:.1f} | {said} |")
    cases, failed, skipped = (sum(getattr(row, name) for row in rows.values()) for name in ("cases", "failed", "skipped"))
    seconds = sum(row.seconds for row in rows.values())
    return "\n".join([*lines, f"| **all** | {cases} | {failed} | {skipped} | {seconds / 60:.1f} | |"])


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    reports = [Path(name) for name in sys.argv[1:]]
    day = min(str(suite.get("timestamp"))[:10] for report in reports for suite in ET.parse(report).iter("testsuite"))
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    print(table_of(rows_of(reports), f"Nightly run of {day}, commit {commit}, Python {sys.version.split()[0]}:"))


if __name__ == "__main__":
    main()
