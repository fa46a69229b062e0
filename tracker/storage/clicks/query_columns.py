"""The part of a click's row that its query fills (sub1 … sub10, ext, query), and what else is asked of the query on the way.

One pass over a visitor's query gives all that the click needs of it. Where the compiled twin was built it does nearly all
queries (speedups.py); what it leaves alone, and everything where there is none, is done here.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import orjson

from tracker import speedups
from tracker.domain.visit_query import parse_visit_query
from tracker.storage.clicks.rows import LENGTH, NULL, jsonb

_NO_COLUMNS: Final = [NULL] * 12
NO_QUERY: Final = b"".join(_NO_COLUMNS)


class TakenQuery(NamedTuple):
    """The columns; the values of the parameters asked for, decoded, b"" where there is none; whether something was cleaned."""

    columns: bytes
    values: tuple[bytes, ...]
    cleaned: bool


def take_any_query(raw: bytes, asked: tuple[bytes, ...]) -> TakenQuery:
    """From the raw bytes after the question mark; `asked`: names of parameters."""
    query = parse_visit_query(raw)
    columns = _NO_COLUMNS.copy()
    for slot, label in query.labels.items():
        columns[slot] = LENGTH[len(label)] + label
    if query.rest:
        columns[-1] = jsonb(orjson.dumps(query.rest))
    return TakenQuery(b"".join(columns), tuple([query.first(name) for name in asked]), query.changed)


take_query = speedups.query_taker(take_any_query)
