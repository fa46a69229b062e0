"""`tracker partner postback`: add, list, show, edit: the URLs at which a partner hears of his conversions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from tracker.cli.database import data_option, with_store
from tracker.cli.options import given
from tracker.cli.output import all_pages, json_option, show_row, show_rows, show_saved

F = TypeVar("F", bound=Callable[..., Any])


def _fields(command: F) -> F:
    for option in reversed((
        click.option("--method", type=click.Choice(["GET", "POST"]), help="POST sends JSON.  [default: GET]"),
        click.option("--statuses", metavar="A,B", help="Of which it hears: pending, approved, rejected, reversed.  "
                     "[default: all but pending; without {status} in the URL approved alone]"),
        click.option("--events", metavar="A,B", help="Of which it hears.  [default: all]"),
        click.option("--status", type=click.Choice(["active", "paused"]), help="active also takes up one that went off."),
    )):  # fmt: skip
        command = option(command)
    return command


@click.group()
def postback() -> None:
    """Outgoing postbacks: a partner's tracker hears of what is credited to him.

    \b
    Example:
      tracker partner postback add anna 'https://t.example/pb?cid={ext}&payout={commission}&status={status}'
    """


@postback.command()
@click.argument("partner")
@click.argument("url")
@click.option("--program", metavar="SLUG", help="Only of this program.  [default: all]")
@_fields
@data_option
@json_option
def add(partner: str, data: Path | None, as_json: bool, **options: Any) -> None:
    """Send PARTNER's conversions to URL. The secret that signs is shown this once.

    Macros, in the path or in values: {click_id} {ext} {sub1} … {sub10} {event} {txid} {status} {amount} {currency} {commission}
    {commission_currency} {program} {partner} {link} {conversion_id}. {ext} is the partner's own click id, given to his link as
    ?ext=…

    \b
    Example:
      tracker partner postback add anna 'https://t.example/pb?cid={ext}&payout={commission}&status={status}'
    """
    show_saved(with_store(data, lambda store: store.endpoints.create(partner, given(options))), as_json=as_json)


@postback.command()
@click.argument("partner")
@click.argument("number", type=click.IntRange(1, (1 << 30) - 1))
@click.option("--url", metavar="URL", help="Another URL; the secret stays.")
@_fields
@data_option
@json_option
def edit(partner: str, number: int, data: Path | None, as_json: bool, **options: Any) -> None:
    """Change, pause or take up again endpoint NUMBER. Holds for conversions from now on.

    \b
    Example:
      tracker partner postback edit anna 4711 --status paused
    """
    show_saved(with_store(data, lambda store: store.endpoints.edit(partner, number, given(options))), as_json=as_json)


@postback.command("list")
@click.argument("partner")
@data_option
@json_option
def list_endpoints(partner: str, data: Path | None, as_json: bool) -> None:
    """List PARTNER's endpoints.

    \b
    Example:
      tracker partner postback list anna
    """

    async def read(store: Any) -> Any:
        return await all_pages(store.endpoints.list, partner=partner)

    columns = ("endpoint_id", "program", "method", "url", "statuses", "status", "failures")
    show_rows(with_store(data, read), columns, as_json=as_json)


@postback.command()
@click.argument("partner")
@click.argument("number", type=click.IntRange(1, (1 << 30) - 1))
@data_option
@json_option
def show(partner: str, number: int, data: Path | None, as_json: bool) -> None:
    """Show one endpoint.

    \b
    Example:
      tracker partner postback show anna 4711
    """
    show_row(with_store(data, lambda store: store.endpoints.show(partner, number)), as_json=as_json)
