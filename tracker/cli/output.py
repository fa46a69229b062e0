"""How commands show rows: tables for people, JSON for machines. Data goes to stdout, everything else to stderr."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import click
import orjson

from tracker.storage.entities.table import PAGE_LIMIT, Page, Row, Saved

json_option = click.option("--json", "as_json", is_flag=True, help="JSON on stdout, for machines.")

_WIDE = 10_000   # columns when nobody looks: a pipe must not get cropped cells


def show_row(row: Row, *, as_json: bool) -> None:
    """One row, whole."""
    if as_json:
        _json(row)
        return
    table = _table()
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    nested: dict[str, list[Row]] = {}
    for name, value in row.items():
        if isinstance(value, list) and value and isinstance(value[0], Mapping):
            nested[name] = value
        else:
            table.add_row(name, _cell(value))
    _print(table)
    for name, rows in nested.items():
        click.echo(f"\n{name}")
        _rows(rows, [column for column in rows[0] if any(one[column] is not None for one in rows)])


def show_rows(rows: Sequence[Row], columns: Sequence[str], *, as_json: bool) -> None:
    """A list: `columns` for people, everything for machines."""
    if as_json:
        _json(rows)
    elif rows:
        _rows(rows, columns)
    else:
        click.echo("none", err=True)


def show_saved(saved: Saved, *, as_json: bool) -> None:
    """What was saved, with its warnings on stderr."""
    for warning in saved.warnings:
        click.echo(f"warning: {warning}", err=True)
    show_row({**saved.row, "warnings": list(saved.warnings)} if as_json else saved.row, as_json=as_json)


async def all_pages(read: Callable[..., Awaitable[Page]], **filters: Any) -> list[Row]:
    """Every row of a list. `read` is a store's list."""
    rows: list[Row] = []
    after: Any = None
    while True:
        page = await read(**filters, limit=PAGE_LIMIT, after=after)
        rows += page.rows
        if page.after is None:
            return rows
        numbered = "slug" not in page.rows[-1] and page.after.isdecimal()
        after = int(page.after) if numbered else page.after


def _rows(rows: Sequence[Row], columns: Sequence[str]) -> None:
    table = _table(header=True)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row[column]) for column in columns))
    _print(table)


def _cell(value: Any) -> Any:
    from rich.text import Text  # imported here: 40 ms that --json does not wait for

    if isinstance(value, datetime):
        return Text(f"{value:%Y-%m-%d %H:%M:%S} UTC")
    if isinstance(value, bool):
        return Text("yes" if value else "no")
    if isinstance(value, list):
        return Text(", ".join(map(str, value)) or "–")
    return Text("–" if value is None or value == "" else str(value))   # Text: what people typed is no markup


def _table(*, header: bool = False) -> Any:
    from rich.table import Table

    return Table(box=None, show_header=header, header_style="bold", pad_edge=False)


def _print(table: Any) -> None:
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False).print(table)


def _json(value: Any) -> None:
    click.echo(orjson.dumps(value, default=str, option=orjson.OPT_UTC_Z | orjson.OPT_INDENT_2))
