"""`tracker program`: add, list, show, edit, and the credentials of its postbacks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

from tracker.cli.database import data_option, with_store
from tracker.cli.options import given
from tracker.cli.output import all_pages, json_option, show_row, show_rows, show_saved
from tracker.domain.program import CredentialKind
from tracker.storage.entities.store import Store
from tracker.storage.entities.table import Row

F = TypeVar("F", bound=Callable[..., Any])


def _fields(command: F) -> F:
    for option in reversed((
        click.option("--name", help="What people read."),
        click.option("--auth", "auth_mode", type=click.Choice(["token", "hmac", "ip", "open"]),
                     help="How postbacks prove who sends them."),
        click.option("--ip", "ip_allow", multiple=True, metavar="NETWORK",
                     help="With --auth ip: who may send. Several times for several; replaces all earlier ones."),
        click.option("--several-per-key/--one-per-key", default=None,
                     help="Whether one order number may hold several conversions."),
        click.option("--pending-cap", type=int, help="With --auth open: most pending conversions a day."),
        click.option("--window-days", type=int, help="How long after the click a sale counts."),
        click.option("--default-status", type=click.Choice(["pending", "approved"]),
                     help="Of conversions whose postbacks name none."),
        click.option("--commission", help='What a conversion pays: 10%, "5.00 EUR", or none.'),
        click.option("--event", help="The event that --commission is for.  [default: every event]"),
    )):  # fmt: skip
        command = option(command)
    return command


@click.group()
def program() -> None:
    """Programs: advertisers' schemes, their terms, and who may report conversions.

    \b
    Example:
      tracker program add shop --currency EUR --commission 10%
    """


@program.command()
@click.argument("slug")
@click.option("--currency", required=True, help="ISO 4217, of amounts that name none.")
@_fields
@data_option
@json_option
def add(data: Path | None, as_json: bool, **options: Any) -> None:
    """Make a program named SLUG (letters, digits, - and _; for ever).

    \b
    Example:
      tracker program add shop --currency EUR --commission 10% --window-days 30
    """
    show_saved(with_store(data, lambda store: store.programs.create(given(options))), as_json=as_json)


@program.command()
@click.argument("slug")
@click.option("--currency", help="ISO 4217, of amounts that name none.")
@_fields
@data_option
@json_option
def edit(slug: str, data: Path | None, as_json: bool, **options: Any) -> None:
    """Change a program. Terms hold for clicks from now on; what was earned stays as it is.

    \b
    Example:
      tracker program edit shop --commission "5.00 EUR" --event lead
    """
    show_saved(with_store(data, lambda store: store.programs.edit(slug, given(options))), as_json=as_json)


@program.command("list")
@data_option
@json_option
def list_programs(data: Path | None, as_json: bool) -> None:
    """List all programs.

    \b
    Example:
      tracker program list --json
    """
    rows = with_store(data, lambda store: all_pages(store.programs.list))
    show_rows(rows, ("slug", "name", "currency", "auth_mode", "window_days", "default_status"), as_json=as_json)


@program.command()
@click.argument("slug")
@data_option
@json_option
def show(slug: str, data: Path | None, as_json: bool) -> None:
    """Show a program with its terms, commissions and credentials.

    \b
    Example:
      tracker program show shop
    """
    show_row(with_store(data, lambda store: store.programs.show(slug)), as_json=as_json)


@program.command()
@click.argument("slugs", nargs=-1, required=True, metavar="SLUG...")
@click.option("--label", default="", help="To tell tokens apart.")
@click.option("--revoke", type=int, metavar="NUMBER", help="End this one instead of making one.")
@data_option
@json_option
def token(slugs: tuple[str, ...], label: str, revoke: int | None, data: Path | None, as_json: bool) -> None:
    """Make a postback token for one or more programs, shown this once; or revoke one.

    \b
    Example:
      tracker program token shop --label "network postback"
      tracker program token shop --revoke 123456789
    """
    _credential("token", slugs, label, revoke, data, as_json=as_json)


@program.command()
@click.argument("slugs", nargs=-1, required=True, metavar="SLUG...")
@click.option("--label", default="", help="To tell secrets apart.")
@click.option("--revoke", type=int, metavar="NUMBER", help="End this one instead of making one.")
@data_option
@json_option
def hmac(slugs: tuple[str, ...], label: str, revoke: int | None, data: Path | None, as_json: bool) -> None:
    """Make an HMAC secret (hex) for one or more programs, shown this once; or revoke one.

    \b
    Example:
      tracker program hmac shop
    """
    _credential("hmac", slugs, label, revoke, data, as_json=as_json)


def _credential(
    kind: CredentialKind, slugs: tuple[str, ...], label: str, revoke: int | None, data: Path | None, *, as_json: bool
) -> None:
    if revoke is not None:
        show_row(with_store(data, partial(_revoke, slugs[0], revoke)), as_json=as_json)
        return
    row = with_store(data, lambda store: store.credentials.issue(slugs, kind=kind, label=label))
    if as_json:
        show_row(row, as_json=True)
        return
    click.echo(f"number {row['credential_id']}; keep this, it is not shown again:", err=True)
    click.echo(row["token"] if kind == "token" else row["hmac_secret"])


async def _revoke(slug: str, number: int, store: Store) -> Row:
    return await store.credentials.revoke(slug, number)
