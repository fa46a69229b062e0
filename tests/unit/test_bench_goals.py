"""The table of goals tells what was reached, and as plainly what was not, was void, or was not measured."""

from dataclasses import asdict

import pytest

from bench.__main__ import NAMES
from bench.kit.goals import GOALS, Goal, State, judge, table
from bench.kit.rounds import Finding

AT_MOST = Goal("1", "CPU", 1.5, "redirects", "cpu")
AT_LEAST = Goal("4", "rate", 4.0, "redirects", "cpu", at_least=True)


def findings(value: float, **more: str) -> dict[str, dict[str, object]]:
    return {"cpu": asdict(Finding(value, value - 0.5, value + 0.5, **more))}


@pytest.mark.parametrize(("goal", "value", "state"), [
    (AT_MOST, 1.5, "reached"), (AT_MOST, 1.51, "missed"), (AT_LEAST, 4.0, "reached"), (AT_LEAST, 3.99, "missed"),
])
def test_a_goal_is_reached_at_its_figure(goal: Goal, value: float, state: State) -> None:
    assert state == judge(goal, findings(value)).state


def test_a_void_figure_reaches_nothing_however_good_it_looks() -> None:
    verdict = judge(AT_LEAST, findings(9.0, void="the load generator's core was 95% busy"))
    assert "void" == verdict.state
    assert "void: the load generator's core was 95% busy; it showed 9 × (8.5 to 9.5)" == verdict.told


def test_what_was_not_run_is_not_measured() -> None:
    assert ("not measured", "not measured") == (judge(AT_MOST, {}).state, judge(AT_MOST, {}).told)


def test_a_smaller_run_than_the_goals_says_so() -> None:
    assert "1.1 × (0.6 to 1.6) (5 times the rows, not 50)" == judge(AT_MOST, findings(1.1, note="5 times the rows, not 50")).told


def test_every_goal_of_every_number_is_in_the_table() -> None:
    assert {"–", *map(str, range(1, 9))} == {goal.number for goal in GOALS}
    results = {"redirects": {"commit": "abc1234", "findings": {"plain: CPU to nginx": asdict(Finding(1.2, 1.1, 1.3))}}}
    lines = table(results).splitlines()
    assert len(GOALS) + 2 == len(lines)
    assert "| 1 | redirect, plain load: CPU against nginx | ≤ 1.5 × | 1.2 × (1.1 to 1.3) | yes, `redirects` abc1234 |" in lines
    assert "| 8 | WAL a click, rich load | ≤ 700 bytes | not measured | `disk` |" in lines


def test_every_goal_is_measured_by_a_benchmark_that_exists() -> None:
    assert {goal.bench for goal in GOALS} <= set(NAMES)
