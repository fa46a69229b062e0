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
@click.option("--seconds", type=click.IntRange(1, 3600), help="Load for each contender in each round.")
@click.option("--rounds", type=click.IntRange(1, 100), help="Rounds; figures are medians over them.")
@click.option("--full", is_flag=True, help="The sizes of the goals: 50 million clicks, ten minutes of memory. An hour and a half.")
@click.option("--quick", is_flag=True, help="Only CPU per click against nginx and the committed results; under two minutes.")
@click.option("--smoke", is_flag=True, help="Only whether all work: a few minutes, nothing saved, no speed judged.")
def bench(names: tuple[str, ...], seconds: int | None, rounds: int | None, full: bool, quick: bool, smoke: bool) -> None:
    """Run the benchmarks: all, or those named. Results, goals, page and plots go to bench/results/.

    redirects, new_connections, proxied, latency, outage, postbacks, ship, table_size, partitions, many_links, two_workers,
    memory, disk, flame, redirect_path: bench/README.md says what each measures.

    \b
    Example:
      tracker bench redirects --seconds 5 --rounds 5

    Needs wrk, nginx and the extra `dev`. Exit code 1: something failed, or with --quick: clicks cost far more than they did.
    """
    if not (ROOT / "bench" / "__main__.py").is_file():
        raise click.ClickException(NO_BENCH)
    sizes = (("--full", full), ("--quick", quick), ("--smoke", smoke))
    command = [sys.executable, "-m", "bench", *names, *(option for option, wanted in sizes if wanted)]
    for option, value in (("--seconds", seconds), ("--rounds", rounds)):
        if value is not None:
            command += [option, str(value)]
    # Settings of this shell are for a real service: a benchmark's servers get their own.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TRACKER_", "PG"))}
    sys.exit(subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode)
