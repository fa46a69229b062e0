"""`tracker verify`: everything added up and compared. What is compared stands in tracker/storage/verify.py."""

from __future__ import annotations

from pathlib import Path

import click

from tracker.cli.database import data_option
from tracker.cli.output import json_option, show_rows
from tracker.cli.session import spool_dir, with_session
from tracker.storage import verify as sums


@click.command()
@data_option
@json_option
@click.option("--without-spools", is_flag=True, help="Compare the database with itself: the spools are on other machines.")
def verify(data: Path | None, as_json: bool, without_spools: bool) -> None:
    """Add up spools, clicks, statistics, conversions and the ledger, and compare; exit code 1 on any difference.

    Harmless at any time, also while the service runs. Looks at the spools under TRACKER_SPOOL_DIR of this machine.

    \b
    Example:
      tracker verify --data .tracker
    """
    root = None if without_spools else spool_dir(data)
    compared = with_session(data, lambda connection: sums.verify(connection, root))
    rows = [
        {
            "sum": one.name,
            "expected": one.expected if as_json else f"{one.expected} {one.expected_of}",
            "found": one.found if as_json else f"{one.found} {one.found_of}",
            "difference": one.found - one.expected,
            "result": "ok" if one.agrees else "DIFFERS",
        }
        for one in compared
    ]
    show_rows(rows, ["sum", "expected", "found", "result"], as_json=as_json)
    wrong = sum(not one.agrees for one in compared)
    if wrong:
        click.echo(f"{wrong} of {len(compared)} sums differ", err=True)
        raise SystemExit(1)
