"""`tracker click list|show` and `tracker conversion list|show`: what happened, as the admin API tells it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from tracker.cli.database import data_option, with_store
from tracker.cli.output import json_option, show_row, show_rows
from tracker.cli.postbacks import Since
from tracker.domain.postback import STATUS_BY_WORD
from tracker.storage.entities.records import SPAN
from tracker.storage.entities.store import Store
from tracker.storage.entities.table import PAGE_LIMIT, Page

_PROGRAM = click.option("--program", metavar="SLUG", help="Only this program's.")
_PARTNER = click.option("--partner", metavar="SLUG", help="Only this partner's.")
_LIMIT = click.option("--limit", type=click.IntRange(1, PAGE_LIMIT), default=100, show_default=True, help="At most so many.")


@click.group("click")
def clicks() -> None:
    """Clicks: the stored facts of visits through links.

    \b
    Example:
      tracker click list --link summer --since 1h
    """


@clicks.command("list")
@click.option("--link", metavar="SLUG", help="Only this link's.")
@_PROGRAM
@_PARTNER
@click.option("--since", type=Since(), default="1h", show_default=True, help="Where to begin: 90m, 24h, 7d (ago), or a time.")
@_LIMIT
@data_option
@json_option
def list_clicks(since: int, limit: int, data: Path | None, as_json: bool, **filters: str | None) -> None:
    """List clicks, oldest first, of the 24 hours from --since.

    \b
    Example:
      tracker click list --partner anna --since 2027-01-31T12:00:00Z
    """
    start = datetime.fromtimestamp(since / 1000, UTC)

    async def read(store: Store) -> Page:
        return await store.records.clicks(start=start, end=start + SPAN, **filters, limit=limit)

    columns = ("click_id", "at", "link", "partner", "channel", "country", "device", "sub1", "flags")
    show_rows(with_store(data, read).rows, columns, as_json=as_json)


@clicks.command("show")
@click.argument("click_id")
@data_option
@json_option
def show_click(click_id: str, data: Path | None, as_json: bool) -> None:
    """Show one click, by its token (32 characters) or its stored id.

    \b
    Example:
      tracker click show 1k818ad8501gsg42th3pl29rsg8d6u0m
    """
    show_row(with_store(data, lambda store: store.records.click(click_id)), as_json=as_json)


@click.group()
def conversion() -> None:
    """Conversions: what was sold, whom it is credited to, what is owed for it.

    \b
    Example:
      tracker conversion list --program shop --status approved
    """


@conversion.command("list")
@_PROGRAM
@_PARTNER
@click.option("--status", type=click.Choice(list(STATUS_BY_WORD)), help="Only those with this status now.")
@click.option("--txid", metavar="ORDER", help="Only of this order number.")
@_LIMIT
@data_option
@json_option
def list_conversions(limit: int, data: Path | None, as_json: bool, **filters: str | None) -> None:
    """List conversions, newest first.

    \b
    Example:
      tracker conversion list --txid order-1
    """

    async def read(store: Store) -> Page:
        return await store.records.conversions(**filters, limit=limit)

    columns = ("conversion_id", "created_at", "program", "event", "txid", "status", "amount", "currency", "partner", "credit",
               "commission_owed")
    show_rows(with_store(data, read).rows, columns, as_json=as_json)


@conversion.command("show")
@click.argument("conversion_id")
@data_option
@json_option
def show_conversion(conversion_id: str, data: Path | None, as_json: bool) -> None:
    """Show one conversion: its first message, every change since and why, its ledger.

    \b
    Example:
      tracker conversion show 0248929d-0571-ee34-f2db-3cd8b9494f8a
    """
    show_row(with_store(data, lambda store: store.records.conversion(conversion_id)), as_json=as_json)
