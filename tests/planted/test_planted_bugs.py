"""Known bugs, planted one at a time into a copy of the program: the suite must catch each.

The danger is a suite that is green because it cannot be red. So each bug of bugs.py is written into a copy of the tree in a
temporary directory, the tests named beside it run there in a process of their own, and every one of them must fail, in the
words of its own assertion. That they pass without the bug is what the suite itself shows. Nothing in the program knows.
"""

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from bugs import BUGS, Bug

ROOT = Path(__file__).parents[2]
SECONDS = 380        # one bug: the longest forms under load, on a slow machine

# `python -m pytest` puts its directory first, and processes that tests start find the same by PYTHONPATH: without this the
# copy's tests would test the program that is installed, and every bug would seem to be missed.
OURS = "import tracker; print(tracker.__file__)"


def planted(bug: Bug, root: Path) -> Path:
    """A copy of the tree with the bug in it. AssertionError when the source is no longer what the bug was written for."""
    copy = root / "tree"
    copy.mkdir()
    for name in ("tracker", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "schema.sql", "README.md"):
        shutil.copy(ROOT / name, copy / name)
    for edit in bug.edits:
        file = copy / edit.file
        source = file.read_text() if file.exists() else ""
        assert 1 == source.count(edit.old), (
            f"{edit.file} holds {source.count(edit.old)} times, not once:\n{edit.old}\n"
            f"The bug '{bug.name}' has to move with the source: write the same mistake ({bug.mistake}) as an edit of what stands "
            "there now, and see that it is still caught. Do not drop it."
        )
        file.write_text(source.replace(edit.old, edit.new))
    return copy


def failures(copy: Path, tests: tuple[str, ...]) -> dict[str, str]:
    """Run the tests in the copy: what each of those that failed said, by name. Nothing but a failed assertion counts."""
    places = os.pathsep.join(map(str, (copy, copy / "tests" / "planted")))
    environ = {**os.environ, "PYTHONPATH": places, "PYTHONDONTWRITEBYTECODE": "1"}
    found = subprocess.run([sys.executable, "-c", OURS], cwd=copy, env=environ, capture_output=True, text=True, check=True)
    assert Path(found.stdout.strip()).is_relative_to(copy), "the copy's tests would run against another program"
    report = copy / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no_shrinking", "-m", "nightly or not nightly",
               "--hypothesis-seed=1", f"--junitxml={report}", *tests]
    ran = subprocess.run(command, cwd=copy, env=environ, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert ran.returncode in (0, 1), f"the tests could not be run:\n{ran.stdout[-3000:]}{ran.stderr[-1000:]}"
    said: dict[str, str] = {}
    for case in ET.parse(report).iter("testcase"):
        assert case.find("error") is None, f"{case.get('name')} did not come to its assertions:\n{ran.stdout[-3000:]}"
        assert case.find("skipped") is None, f"{case.get('name')} was skipped"
        failure = case.find("failure")
        if failure is not None:
            name = str(case.get("name")).partition("[")[0]
            said[name] = said.get(name, "") + str(failure.get("message")) + str(failure.text)
    return said


def test_the_tests_that_catch_are_there() -> None:
    """By night each bug is planted; by day, at least none waits for a test that was renamed."""
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-m", "nightly or not nightly",
               *sorted({test for bug in BUGS for test in bug.tests})]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert 0 == ran.returncode, ran.stderr[-3000:]


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "bug", [pytest.param(bug, id=bug.name, marks=() if bug.quick else pytest.mark.nightly) for bug in BUGS]
)
def test_the_suite_catches(bug: Bug, tmp_path: Path) -> None:
    said = failures(planted(bug, tmp_path), bug.tests)
    for test in bug.tests:
        name = test.rpartition("::")[2].partition("[")[0]
        assert name in said, f"{test} passes though {bug.mistake}"
        assert re.search(bug.says, said[name]), f"{test} is red, but for another reason:\n{said[name][-3000:]}"


def test_every_row_of_the_fault_matrix_has_caught_a_bug() -> None:
    """A row whose tests have never been red may be green because they cannot be."""
    proofs = runpy.run_path(str(ROOT / "tests" / "unit" / "test_fault_matrix.py"))["proofs"]
    catching = {test.removeprefix("tests/").partition("[")[0] for bug in BUGS for test in bug.tests}
    assert [] == [row for row, tests in sorted(proofs().items()) if not catching & set(tests)]


def test_a_bug_whose_place_is_gone_is_told(tmp_path: Path) -> None:
    """A bug that silently is not planted would make this file green for nothing."""
    gone = Bug("gone", "nothing", (), tests=())
    assert (planted(gone, tmp_path) / "tracker" / "__init__.py").exists()
    shutil.rmtree(tmp_path / "tree")
    moved = Bug("moved", "nothing", (BUGS[0].edits[0]._replace(old="no such line in this file"),), tests=())
    with pytest.raises(AssertionError, match="has to move with the source"):
        planted(moved, tmp_path)


def test_tests_that_pass_are_no_catch(tmp_path: Path) -> None:
    """Without a bug nothing may count as caught: else the copy itself would be what is broken."""
    quick = next(bug for bug in BUGS if bug.name == "float money")
    assert {} == failures(planted(Bug("none", "nothing", (), tests=()), tmp_path), quick.tests)
