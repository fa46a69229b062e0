"""`tracker link`: add, list, show, edit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from tracker.cli.database import data_option, with_store
from tracker.cli.options import EMPTIED, given
from tracker.cli.output import all_pages, json_option, show_row, show_rows, show_saved

F = TypeVar("F", bound=Callable[..., Any])

STATUSES = click.Choice(["active", "paused", "archived"])


def _fields(command: F) -> F:
    for option in reversed((
        click.option("--fallback", metavar="URL", help=f"Where it leads while paused or expired{EMPTIED}."),
        click.option("--channel", help=f"Where it is shared, such as newsletter{EMPTIED}."),
        click.option("--pass-query/--no-pass-query", default=None, help="Hand the visitor's query on."),
        click.option("--referrer-policy", type=click.Choice(["none", "origin", "full"]),
                     help="What the destination learns about where the visitor came from."),
        click.option("--allow-test/--no-test", default=None, help="?test=1 makes a test click."),
        click.option("--expires", "expires_at", metavar="TIME", help=f"2027-01-31T12:00:00Z{EMPTIED}."),
        click.option("--status", type=STATUSES, help="Links are archived, never deleted."),
    )):  # fmt: skip
        command = option(command)
    return command


@click.group()
def link() -> None:
    """Links: what visitors click; of one program and one partner for ever.

    \b
    Macros of --to: {click_id} {sub1}…{sub10} {ext} {partner} {program} {link} {channel} {query.NAME}, in the path, in
    query values or in the fragment.

    \b
    Example:
      tracker link add --program shop --partner anna --to 'https://shop.example/?cid={click_id}'
    """


@link.command()
@click.option("--program", required=True, metavar="SLUG")
@click.option("--partner", required=True, metavar="SLUG", help="Enrolled in the program when he is not.")
@click.option("--to", "destination", required=True, metavar="URL", help="Where it leads, with macros.")
@click.option("--slug", help="The name in /c/SLUG, for ever.  [default: 8 random characters]")
@_fields
@data_option
@json_option
def add(data: Path | None, as_json: bool, **options: Any) -> None:
    """Make a link.

    \b
    Example:
      tracker link add --program shop --partner anna --slug spring --to 'https://shop.example/?cid={click_id}'
    """
    show_saved(with_store(data, lambda store: store.links.create(given(options))), as_json=as_json)


@link.command()
@click.argument("slug")
@click.option("--to", "destination", metavar="URL", help="Where it leads, with macros.")
@_fields
@data_option
@json_option
def edit(slug: str, data: Path | None, as_json: bool, **options: Any) -> None:
    """Change a link, as a new version; it works on every edge within a second.

    \b
    Example:
      tracker link edit spring --status paused --fallback https://shop.example/
    """
    show_saved(with_store(data, lambda store: store.links.edit(slug, given(options))), as_json=as_json)


@link.command("list")
@click.option("--program", metavar="SLUG")
@click.option("--partner", metavar="SLUG")
@click.option("--status", type=STATUSES)
@data_option
@json_option
def list_links(data: Path | None, as_json: bool, **filters: str | None) -> None:
    """List links.

    \b
    Example:
      tracker link list --program shop --status active
    """
    rows = with_store(data, lambda store: all_pages(store.links.list, **filters))
    show_rows(rows, ("slug", "program", "partner", "status", "channel", "destination"), as_json=as_json)


@link.command()
@click.argument("slug")
@data_option
@json_option
def show(slug: str, data: Path | None, as_json: bool) -> None:
    """Show a link and what it was in each version.

    \b
    Example:
      tracker link show spring
    """
    show_row(with_store(data, lambda store: store.links.show(slug)), as_json=as_json)
