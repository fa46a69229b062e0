"""Every line and every branch of the modules that are mutated is taken by the tests that judge them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from areas import MODULES

ROOT = Path(__file__).parents[2]
FILES = [f"tracker/{module.file}" for module in MODULES]
TESTS = sorted({f"tests/{test}" for module in MODULES for test in module.tests})


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_no_branch_of_ids_spool_matching_and_money_is_left_out(tmp_path: Path) -> None:
    """A line that no test reaches has no mutant that a test could kill: here the whole tests run, the slow ones too."""
    environ = {**os.environ, "COVERAGE_FILE": str(tmp_path / "coverage")}
    tests = ["-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS]
    measured = ["run", "--branch", f"--include={','.join(FILES)}", *tests]
    for command in (measured, ["json", "-q", "-o", str(tmp_path / "report.json")]):
        ran = subprocess.run([sys.executable, "-m", "coverage", *command], cwd=ROOT, env=environ, capture_output=True, text=True)
        assert 0 == ran.returncode, ran.stdout[-3000:] + ran.stderr[-1000:]
    report = json.loads((tmp_path / "report.json").read_text())["files"]
    assert set(FILES) == set(report)
    left_out = {file: (found["missing_lines"], found["missing_branches"]) for file, found in report.items()}
    assert {} == {file: lines for file, lines in left_out.items() if any(lines)}
