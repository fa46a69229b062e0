"""What every benchmark is asked: how long, how often, in full size, or only whether it works."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from bench.kit.machine import RESULTS
from bench.kit.report import Report

SECONDS = 5
ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Plan:
    """`seconds` of load for each contender in each round; `full` sizes take hours, not minutes. A smoke run is as short as can
    be and judges no speed."""

    seconds: int = SECONDS
    rounds: int = ROUNDS
    full: bool = False
    smoke: bool = False


SMOKE = Plan(seconds=1, rounds=1, smoke=True)


def command(measure: Callable[[Plan], Report]) -> click.Command:
    """The command line of one benchmark: measure, show, save."""

    @click.command(help=(measure.__doc__ or "").partition("\n")[0])
    @click.option("--seconds", type=click.IntRange(1, 3600), default=SECONDS, show_default=True, help="Load for each, each round.")
    @click.option("--rounds", type=click.IntRange(1, 100), default=ROUNDS, show_default=True, help="Figures are medians over them.")
    @click.option("--full", is_flag=True, help="The sizes of the goals: 50 million clicks, ten minutes of memory.")
    @click.option("--smoke", is_flag=True, help="Only whether it works: a round of one second, nothing saved or judged.")
    def run(seconds: int, rounds: int, full: bool, smoke: bool) -> None:
        sys.exit(perform(measure, SMOKE if smoke else Plan(seconds, rounds, full)))

    return run


def perform(measure: Callable[[Plan], Report], plan: Plan) -> int:
    """Run one benchmark and hand over its report. Raises click.ClickException when something was lost or did not start."""
    report = measure(plan)
    report.show(judged=not plan.smoke)
    if plan.smoke:
        with TemporaryDirectory() as folder:
            report.save(Path(folder))
        return 0
    click.echo(f"kept in {report.save(RESULTS)}; goals, page and plots of all results beside it")
    return 0
