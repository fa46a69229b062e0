"""Progress bars: which of many steps runs, on stderr, so that tables can be piped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")


def steps(title: str, items: Iterable[T], name: Callable[[T], str] = str) -> Iterator[T]:
    """The items, one after the other; the bar says which is under way."""
    todo = list(items)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task(title, total=len(todo))
        for item in todo:
            progress.update(bar, description=f"{title}: {name(item)}")
            yield item
            progress.advance(bar)


def in_turn(title: str, rounds: int, contenders: Sequence[T], name: Callable[[T], str] = str) -> Iterator[T]:
    """A B C A B C …: what disturbs the machine for some seconds then disturbs all of them."""
    turns = [(number, one) for number in range(1, rounds + 1) for one in contenders]
    for _, one in steps(title, turns, lambda turn: f"round {turn[0]} of {rounds}, {name(turn[1])}"):
        yield one
