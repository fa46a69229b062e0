"""Several statements in one round trip, for work that other work waits on.

A round trip costs more than what is asked in it: on a busy edge each answer waits for a turn of the event loop, which
serves clicks meanwhile, and on a busy server for a processor. Eighteen of them made a group of 77 postbacks take 130 ms, of
which PostgreSQL worked 10, beside 10,000 clicks a second on two cores. The driver cannot pipeline, so statements are joined
into one: readings as arrays of rows, writings as WITH. Written ones run in no promised order and see the tables as they were
before all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Final

from tracker.storage.postgres import Connection

Part = tuple[str, Sequence[Any]]
"""A statement and its arguments."""

ALWAYS: Final = "WHERE true"
"""Stands in every statement that can be made to depend on another one: see `execute_if`."""

_PARAMETER: Final = re.compile(r"\$(\d+)")


async def fetch_together(connection: Connection, *parts: Part) -> list[list[tuple[Any, ...]]]:
    """The rows of each SELECT, as tuples in the order of its columns."""
    found = await connection.fetchrow(_reading(tuple(_sizes(parts))), *_arguments(parts))
    assert found is not None      # a SELECT without FROM has one row
    return [rows or [] for rows in found]


async def execute_together(connection: Connection, *parts: Part) -> None:
    """Carry out statements that write, none of which may touch a row that another one touches."""
    if parts:
        await connection.execute(_writing(tuple(_sizes(parts))), *_arguments(parts))


async def execute_if(connection: Connection, condition: Part, *parts: Part) -> bool:
    """Carry out `condition`, an UPDATE … RETURNING, and, if it changed a row, the others, each of which says ALWAYS; whether it
    did. Outside a transaction all of this is one."""
    return bool(await connection.fetchval(_conditional(tuple(_sizes([condition, *parts]))), *_arguments([condition, *parts])))


def _sizes(parts: Iterable[Part]) -> Iterable[tuple[str, int]]:
    return ((statement, len(arguments)) for statement, arguments in parts)


def _arguments(parts: Iterable[Part]) -> list[Any]:
    return [argument for _, arguments in parts for argument in arguments]


@lru_cache(maxsize=256)
def _reading(parts: tuple[tuple[str, int], ...]) -> str:
    columns = (f"(SELECT array_agg(q) FROM ({statement}) AS q)" for statement in _renumbered(parts))  # noqa: S608 - constants
    return f"SELECT {', '.join(columns)}"


@lru_cache(maxsize=256)
def _writing(parts: tuple[tuple[str, int], ...]) -> str:
    written = (f"w{number} AS ({statement})" for number, statement in enumerate(_renumbered(parts)))
    return f"WITH {', '.join(written)} SELECT"


@lru_cache(maxsize=256)
def _conditional(parts: tuple[tuple[str, int], ...]) -> str:
    assert all(ALWAYS in statement for statement, _ in parts[1:])
    condition, *others = _renumbered(parts)
    written = (f", w{n} AS ({other.replace(ALWAYS, 'WHERE EXISTS (SELECT FROM w0)')})" for n, other in enumerate(others, 1))
    return f"WITH w0 AS ({condition}){''.join(written)} SELECT count(*) FROM w0"  # noqa: S608 - constants


def _renumbered(parts: tuple[tuple[str, int], ...]) -> Iterable[str]:
    """The statements, with the parameters of each counted on from the one before."""
    before = 0
    for statement, size in parts:
        yield _shifted(statement, before)
        before += size


def _shifted(statement: str, by: int) -> str:
    return _PARAMETER.sub(lambda parameter: f"${int(parameter[1]) + by}", statement)
