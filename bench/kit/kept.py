"""Whether nothing is missing: a fast run that lost an answer's row is a failed run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import click

from bench.kit.database import Database
from bench.kit.servers import Edge


@dataclass(frozen=True, slots=True)
class Account:
    """Rows that PostgreSQL has, and redirects that the edges counted."""

    rows: int = 0
    redirects: int = 0


NOTHING: Final = Account()


def account(edges: Sequence[Edge], database: Database) -> Account:
    """Now, when everything is shipped. Raises click.ClickException when a redirect went out without a row."""
    redirects = unlogged = 0.0
    for one in edges:
        counts = one.settle()
        redirects += sum(value for name, value in counts.items() if name.startswith("tracker_clicks_total"))
        unlogged += counts["tracker_clicks_unlogged_total"]
    if unlogged:
        raise click.ClickException(f"{unlogged:.0f} redirects went out without a row")
    return Account(database.number("SELECT count(*) FROM clicks"), int(redirects))


def clicks_kept(
    edges: Sequence[Edge], database: Database, *, completed: int, under_way: int, before: Account = NOTHING
) -> str:
    """Every redirect since `before` is exactly one row. Loads do not count what was under way when they stopped, `under_way`
    at most.

    Raises click.ClickException when a row is missing, or one too many; returns the sentence for the report.
    """
    now = account(edges, database)
    redirects, rows = now.redirects - before.redirects, now.rows - before.rows
    sums = f"{completed:,} answers seen by the load, {redirects:,} redirects counted, {rows:,} rows in PostgreSQL"
    if rows != redirects or not completed <= rows <= completed + under_way:
        raise click.ClickException(f"clicks are not accounted for: {sums}")
    return f"All kept: {sums}."


def rows_kept(database: Database, what: str, query: str, *, completed: int, under_way: int) -> str:
    """As many rows as answers, give or take what was under way. Raises click.ClickException else."""
    rows = database.number(query)
    sums = f"{what}: {completed:,} answers, {rows:,} rows"
    if not completed <= rows <= completed + under_way:
        raise click.ClickException(f"not accounted for: {sums}")
    return f"All kept: {sums}."
