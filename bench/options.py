"""What every benchmark is asked: how long, how often, or only whether it works."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from bench.report import Report


@dataclass(frozen=True, slots=True)
class Plan:
    """`seconds` of load for each contender in each round. A smoke run is as short as can be and judges no speed."""

    seconds: int
    rounds: int
    smoke: bool = False


SMOKE = Plan(seconds=1, rounds=1, smoke=True)


def command(measure: Callable[[Plan], Report]) -> click.Command:
    """The command line of one benchmark: measure, show, save; exit 1 when a promise was missed."""

    @click.command(help=(measure.__doc__ or "").partition("\n")[0])
    @click.option("--seconds", type=click.IntRange(1, 600), default=5, show_default=True, help="Load per contender and round.")
    @click.option("--rounds", type=click.IntRange(1, 100), default=5, show_default=True, help="Figures are medians over them.")
    @click.option("--smoke", is_flag=True, help="Only whether it works: a round of one second, nothing saved or judged.")
    def run(seconds: int, rounds: int, smoke: bool) -> None:
        sys.exit(perform(measure, SMOKE if smoke else Plan(seconds, rounds)))

    return run


def perform(measure: Callable[[Plan], Report], plan: Plan) -> int:
    """Run one benchmark and hand over its report; returns the exit code."""
    report = measure(plan)
    report.show()
    if plan.smoke:
        with TemporaryDirectory() as folder:
            report.save(Path(folder))
        return 0
    click.echo(f"kept in {report.save()}, with a plot beside it")
    return 0 if all(bar.reached for bar in report.bars) else 1
