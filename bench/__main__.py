"""`python -m bench [NAME …]`: all benchmarks, or those named, one after the other. `tracker bench` is the same."""

from __future__ import annotations

import importlib
import sys
from typing import Final

import click

NAMES: Final = (
    "redirect_path", "redirects", "new_connections", "proxied", "latency", "outage", "postbacks", "ship", "table_size",
    "partitions", "many_links", "two_workers", "memory", "disk", "flame",
)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1, type=click.Choice(NAMES), metavar="[NAME]...")
@click.option("--seconds", type=click.IntRange(1, 3600), help="Load for each contender in each round.")
@click.option("--rounds", type=click.IntRange(1, 100), help="Rounds; figures are medians over them.")
@click.option("--full", is_flag=True, help="The sizes of the goals: 50 million clicks, ten minutes of memory. An hour and a half.")
@click.option("--quick", is_flag=True, help="Only CPU per click against nginx and the committed results; under two minutes.")
@click.option("--smoke", is_flag=True, help="Only whether all work: a few minutes, nothing saved, no speed judged.")
def main(names: tuple[str, ...], seconds: int | None, rounds: int | None, full: bool, quick: bool, smoke: bool) -> None:
    """Run the benchmarks, all or those named, and write results, goals, page and plots to bench/results."""
    if quick:
        importlib.import_module("bench.kit.quick").check()
        return
    options = [name for name, wanted in (("--smoke", smoke), ("--full", full)) if wanted]
    if seconds is not None:
        options += ["--seconds", str(seconds)]
    if rounds is not None:
        options += ["--rounds", str(rounds)]
    failed = [name for name in names or NAMES if _run(name, options)]
    if failed:
        raise click.ClickException(f"failed: {', '.join(failed)}")


def _run(name: str, options: list[str]) -> bool:
    """Run one; True when it failed. Its module is imported only now: some need a program or a library that others do not."""
    click.echo(f"\n{name}")
    one: click.Command = importlib.import_module(f"bench.{name}").main
    try:
        one.main(options, prog_name=f"python -m bench.{name}", standalone_mode=False)
    except SystemExit as end:
        return end.code not in (0, None)
    except click.ClickException as exc:
        exc.show()
        return True
    return False


if __name__ == "__main__":
    sys.exit(main())
