"""`tracker partner`: add, list, show, edit; enrolments and rates of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from tracker.cli.database import data_option, with_store
from tracker.cli.endpoint import postback
from tracker.cli.options import given
from tracker.cli.output import all_pages, json_option, show_row, show_rows, show_saved

F = TypeVar("F", bound=Callable[..., Any])


def _fields(command: F) -> F:
    for option in reversed((
        click.option("--name", help="What people read."),
        click.option("--status", type=click.Choice(["active", "blocked"]),
                     help="Blocked: clicks from now on earn nothing."),
        click.option("--program", metavar="SLUG", help="Enrol the partner in this program."),
        click.option("--enrolment", type=click.Choice(["active", "ended"]), help="With --program: come or leave."),
        click.option("--commission", help='With --program: a rate of his own: 15%, "6.00 EUR", or none to end it.'),
        click.option("--event", help="The event that --commission is for.  [default: every event]"),
    )):  # fmt: skip
        command = option(command)
    return command


@click.group()
def partner() -> None:
    """Partners: who sends visitors.

    \b
    Example:
      tracker partner add anna --name "Anna's newsletter"
    """


@partner.command()
@click.argument("slug")
@_fields
@data_option
@json_option
def add(data: Path | None, as_json: bool, **options: Any) -> None:
    """Make a partner named SLUG (letters, digits, - and _; for ever).

    \b
    Example:
      tracker partner add anna --program shop --commission 15%
    """
    show_saved(with_store(data, lambda store: store.partners.create(given(options))), as_json=as_json)


@partner.command()
@click.argument("slug")
@_fields
@data_option
@json_option
def edit(slug: str, data: Path | None, as_json: bool, **options: Any) -> None:
    """Change a partner. Status, enrolment and rates hold for clicks from now on.

    \b
    Example:
      tracker partner edit anna --program shop --commission "6.00 EUR" --event lead
    """
    show_saved(with_store(data, lambda store: store.partners.edit(slug, given(options))), as_json=as_json)


@partner.command("list")
@data_option
@json_option
def list_partners(data: Path | None, as_json: bool) -> None:
    """List all partners.

    \b
    Example:
      tracker partner list
    """
    rows = with_store(data, lambda store: all_pages(store.partners.list))
    show_rows(rows, ("slug", "name", "status", "created_at"), as_json=as_json)


@partner.command()
@click.argument("slug")
@data_option
@json_option
def show(slug: str, data: Path | None, as_json: bool) -> None:
    """Show a partner with his enrolments and rates.

    \b
    Example:
      tracker partner show anna
    """
    show_row(with_store(data, lambda store: store.partners.show(slug)), as_json=as_json)


partner.add_command(postback)
