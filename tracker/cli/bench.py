"""`tracker bench`: runs the benchmarks of bench/, which stand beside the package in a checkout and in no wheel."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import click

ROOT: Final = Path(__file__).parents[2]

NO_BENCH: Final = "the benchmarks are not in the installed package: get the source of this version and run `tracker bench` there."


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--seconds", type=click.IntRange(1, 600), help="Load for each contender in each round.")
@click.option("--rounds", type=click.IntRange(1, 100), help="Rounds; figures are medians over them.")
@click.option("--smoke", is_flag=True, help="Only whether all work: under a minute, nothing saved, no speed judged.")
def bench(names: tuple[str, ...], seconds: int | None, rounds: int | None, smoke: bool) -> None:
    """Run the benchmarks: all, or redirect_path, ship, redirects, proxied, postbacks. Results go to bench/results/.

    \b
    Example:
      tracker bench redirects --seconds 5 --rounds 5

    Needs wrk, nginx and the extra `dev`. Exit code 1: a promise about speed was missed, or something failed.
    """
    if not (ROOT / "bench" / "__main__.py").is_file():
        raise click.ClickException(NO_BENCH)
    command = [sys.executable, "-m", "bench", *names, *(["--smoke"] if smoke else [])]
    for option, value in (("--seconds", seconds), ("--rounds", rounds)):
        if value is not None:
            command += [option, str(value)]
    # Settings of this shell are for a real service: a benchmark's servers get their own.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TRACKER_", "PG"))}
    sys.exit(subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode)
