"""`tracker outbox list|retry`: what partners were told, and a second chance for what could not be sent."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from tracker.cli.database import data_option, with_store
from tracker.cli.options import given
from tracker.cli.output import json_option, show_rows
from tracker.cli.postbacks import Since
from tracker.storage.entities.deliveries import STATES
from tracker.storage.entities.store import Store
from tracker.storage.entities.table import PAGE_LIMIT, Page

_PARTNER = click.option("--partner", metavar="SLUG", help="Only this partner's.")


@click.group()
def outbox() -> None:
    """Outgoing postbacks: what partners' trackers were told.

    \b
    Example:
      tracker outbox list --partner anna --state failed
    """


@outbox.command("list")
@_PARTNER
@click.option("--state", type=click.Choice(STATES), help="failed: tried, and will be again.")
@click.option("--conversion", "conversion_id", metavar="ID", help="Only about this conversion.")
@click.option("--limit", type=click.IntRange(1, PAGE_LIMIT), default=100, show_default=True, help="The newest so many.")
@data_option
@json_option
def list_deliveries(limit: int, data: Path | None, as_json: bool, **filters: str | None) -> None:
    """List what was sent or waits, newest first.

    \b
    Example:
      tracker outbox list --partner anna
    """

    async def read(store: Store) -> Page:
        return await store.deliveries.list(**filters, limit=limit)

    what, how = ("created_at", "partner", "endpoint_id", "txid", "status", "commission"), ("state", "attempts", "last_reason")
    show_rows(with_store(data, read).rows, (*what, *how, "last_status"), as_json=as_json)


@outbox.command()
@_PARTNER
@click.option("--endpoint", "endpoint_id", type=click.IntRange(1, (1 << 30) - 1), help="Only this endpoint's.")
@click.option("--since", type=Since(), help="Only what was decided since: 90m, 24h, 7d (ago), or a time.")
@data_option
def retry(since: int | None, data: Path | None, **options: Any) -> None:
    """Try again what was given up, 10,000 at a time. An endpoint that went off: `tracker partner postback edit … --status active`.

    \b
    Example:
      tracker outbox retry --partner anna --since 7d
    """
    moment = None if since is None else datetime.fromtimestamp(since / 1000, UTC)
    fields = given({**options, "since": moment})
    done = with_store(data, lambda store: store.deliveries.retry(fields))
    click.echo(f"{done['retried']} to be tried again")
