"""The check for CI: noise must never block a good change, and a bad one does not pass by being measured often."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from bench.kit.quick import KEYS, Ratios, committed, judge
from bench.kit.rounds import Finding

GOOD, BAD = 1.0, 3.1
KNOWN = {"plain": 2.0, "rich": 2.0}


def tried(*plain: float, rich: float = GOOD) -> tuple[int, list[str]]:
    """How many tries it took, and what is worse in the end."""
    tries = iter(plain)

    def measure() -> Ratios:
        return {"plain": next(tries), "rich": rich}

    outcome = judge(KNOWN, measure)
    return len(outcome.tries), outcome.worse


@pytest.mark.parametrize(("plain", "expected"), [
    ([GOOD], (1, [])),
    ([3.0], (1, [])),                       # exactly 1.5 times is not worse
    ([BAD, GOOD], (2, [])),
    ([BAD, BAD, GOOD], (3, [])),
    ([BAD, BAD, BAD], (3, ["plain"])),
])
def test_only_three_bad_tries_running_fail(plain: list[float], expected: tuple[int, list[str]]) -> None:
    assert expected == tried(*plain)


def test_each_load_needs_one_good_try_of_its_own() -> None:
    """Else a load that is always bad would hide behind one that is seldom."""
    assert (3, ["rich"]) == tried(BAD, GOOD, GOOD, rich=BAD)
    tries = iter([{"plain": BAD, "rich": GOOD}, {"plain": GOOD, "rich": BAD}])
    assert [] == judge(KNOWN, lambda: next(tries)).worse


def test_without_committed_results_nothing_fails() -> None:
    assert [] == judge({}, lambda: {"plain": BAD, "rich": BAD}).worse


def test_the_committed_ratios_are_those_of_the_results(tmp_path: Path) -> None:
    assert {} == committed(tmp_path)
    found = {key: asdict(Finding(number, number, number)) for number, key in enumerate(KEYS.values(), 1)}
    (tmp_path / "redirects.json").write_text(json.dumps({"bench": "redirects", "findings": found}))
    assert {"plain": 1, "rich": 2} == committed(tmp_path)
