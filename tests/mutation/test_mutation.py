"""Mutation testing: its results are whole, and explained; by night everything is judged again. How and why: README.md here."""

import json
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from areas import MODULES, Module

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RESULTS = json.loads((HERE / "results.json").read_text())
EXPLAINED = tomllib.loads((HERE / "survivors.toml").read_text())
BAR = 0.9      # killed, of each area: RELIABILITY section 4


def run(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(HERE / "run.py"), *options], capture_output=True, text=True, check=False)


def test_nine_in_ten_mutants_of_each_area_are_killed() -> None:
    assert set(RESULTS) <= {module.file for module in MODULES}
    mutants, killed = Counter[str](), Counter[str]()
    for result in RESULTS.values():
        mutants[result["area"]] += result["mutants"]
        killed[result["area"]] += result["killed"]
    assert {} == {area: killed[area] / mutants[area] for area in mutants if killed[area] < BAR * mutants[area]}


def test_every_survivor_is_explained_and_every_explanation_is_of_a_survivor() -> None:
    """A survivor is a missing test until somebody says why not; an explanation of what a test kills today is a wrong one."""
    survived = {(file, line, became) for file, result in RESULTS.items() for line, became in result["survivors"]}
    explained = {(file, one["line"], each) for file in RESULTS for one in EXPLAINED.get(file, ()) for each in one["became"]}
    assert set() == survived ^ explained
    assert [] == [one for ones in EXPLAINED.values() for one in ones if len(one["why"].split()) < 3]


def test_the_tests_of_money_kill_what_they_should() -> None:
    """The machinery works, and is not green whatever happens: the same mutants survive tests that judge something else."""
    judged = run("domain/money.py", "--every=8")
    assert 0 == judged.returncode, judged.stdout + judged.stderr
    assert "10 of 10 killed" in judged.stdout
    blind = "Module('', 'domain/money.py', ('unit/test_conversion_id.py',))"
    program = f"import run; from areas import Module; print(run.judge({blind}, workers=2, every=24))"
    found = subprocess.run([sys.executable, "-c", program], cwd=HERE, capture_output=True, text=True, check=False)
    assert "'killed': 0" in found.stdout, found.stdout + found.stderr


@pytest.mark.nightly
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.file)
def test_nothing_survives_unexplained(module: Module, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    judged = run(module.file, f"--results={tmp_path / 'results.json'}")
    record_property("mutants", judged.stdout.strip().splitlines()[-1].partition(": ")[2])
    assert 0 == judged.returncode, judged.stdout + judged.stderr
