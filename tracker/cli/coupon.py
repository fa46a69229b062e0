"""`tracker coupon`: add, list, show, edit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tracker.cli.database import data_option, with_store
from tracker.cli.options import EMPTIED, given
from tracker.cli.output import all_pages, json_option, show_row, show_rows, show_saved
from tracker.storage.entities.store import Store
from tracker.storage.entities.table import Row, Saved

_FROM = click.option("--from", "valid_from", metavar="TIME", help="2027-01-31T12:00:00Z  [default: now]")
_TO = click.option("--to", "valid_to", metavar="TIME", help=f"The end, exclusive{EMPTIED}.")


@click.group()
def coupon() -> None:
    """Coupons: codes that credit a partner without a click.

    \b
    Example:
      tracker coupon add SUMMER20 --program shop --partner anna
    """


@coupon.command()
@click.argument("code")
@click.option("--program", required=True, metavar="SLUG")
@click.option("--partner", required=True, metavar="SLUG", help="Enrolled in the program when he is not.")
@_FROM
@_TO
@data_option
@json_option
def add(data: Path | None, as_json: bool, **options: Any) -> None:
    """Make a coupon. Upper and lower case are the same; a code is never used twice in a program.

    \b
    Example:
      tracker coupon add SUMMER20 --program shop --partner anna --to 2027-09-01T00:00:00Z
    """
    show_saved(with_store(data, lambda store: store.coupons.create(given(options))), as_json=as_json)


@coupon.command()
@click.argument("code")
@click.option("--program", required=True, metavar="SLUG")
@_FROM
@_TO
@data_option
@json_option
def edit(code: str, program: str, data: Path | None, as_json: bool, **options: Any) -> None:
    """Change from when to when a coupon counts.

    \b
    Example:
      tracker coupon edit SUMMER20 --program shop --to 2027-09-01T00:00:00Z
    """

    async def work(store: Store) -> Saved:
        return await store.coupons.edit(await store.coupons.find(program, code), given(options))

    show_saved(with_store(data, work), as_json=as_json)


@coupon.command("list")
@click.option("--program", metavar="SLUG")
@click.option("--partner", metavar="SLUG")
@data_option
@json_option
def list_coupons(data: Path | None, as_json: bool, **filters: str | None) -> None:
    """List coupons.

    \b
    Example:
      tracker coupon list --program shop
    """
    rows = with_store(data, lambda store: all_pages(store.coupons.list, **filters))
    show_rows(rows, ("code", "program", "partner", "valid_from", "valid_to"), as_json=as_json)


@coupon.command()
@click.argument("code")
@click.option("--program", required=True, metavar="SLUG")
@data_option
@json_option
def show(code: str, program: str, data: Path | None, as_json: bool) -> None:
    """Show a coupon.

    \b
    Example:
      tracker coupon show summer20 --program shop
    """

    async def work(store: Store) -> Row:
        return await store.coupons.show(await store.coupons.find(program, code))

    show_row(with_store(data, work), as_json=as_json)
