"""What a benchmark hands over: a table for people, a JSON file for comparisons, a page with a plot that needs no network."""

from __future__ import annotations

import html
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from bench.machine import RESULTS, describe

_WIDTH: Final = 640
_ROW: Final = 34


@dataclass(frozen=True, slots=True)
class Bar:
    """A promise of the project, and what was measured."""

    what: str
    measured: float
    least: float

    @property
    def reached(self) -> bool:
        return self.measured >= self.least

    def __str__(self) -> str:
        return f"{'reached' if self.reached else 'MISSED'}: {self.what}: {self.measured:.2f}, at least {self.least:.2f} wanted"


@dataclass(slots=True)
class Report:
    """One benchmark's result. `rows` of the table by contender; `plots`: title with unit, then the values of every round."""

    name: str
    title: str
    settings: Mapping[str, Any]
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    plots: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    bars: list[Bar] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def show(self) -> None:
        """The table on stdout."""
        table = Table(title=self.title, title_justify="left")
        for number, column in enumerate(self.columns):
            table.add_column(column, justify="right" if number else "left", no_wrap=True)
        for row in self.rows:
            table.add_row(*row)
        console = Console(soft_wrap=True)     # in a log file nothing should be folded to 80 columns
        console.width = max(console.width, 120)
        console.print(table)
        for line in [*self.notes, *map(str, self.bars)]:
            console.print(line, highlight=False)

    def save(self, folder: Path = RESULTS) -> Path:
        """Write NAME-COMMIT.json and .html; returns the first."""
        about = describe()
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}-{about['commit']}.json"
        table = [dict(zip(self.columns, row, strict=True)) for row in self.rows]
        bars = [{"what": bar.what, "measured": bar.measured, "least": bar.least, "reached": bar.reached} for bar in self.bars]
        document = {"bench": self.name, **about, "settings": dict(self.settings), "table": table, "bars": bars, "notes": self.notes,
                    "rounds": self.plots}
        path.write_text(json.dumps(document, indent=1) + "\n")
        path.with_suffix(".html").write_text(self._page(about))
        return path

    def _page(self, about: Mapping[str, Any]) -> str:
        machine = ", ".join(f"{name} {value}" for name, value in about["machine"].items())
        plots = "".join(f"<h2>{html.escape(title)}</h2>{_plot(values)}" for title, values in self.plots.items())
        lines = "".join(f"<p>{html.escape(line)}</p>" for line in [*self.notes, *map(str, self.bars)])
        return (
            f"<!doctype html><meta charset=utf-8><title>{html.escape(self.title)}</title>"
            "<style>body{font:15px/1.4 system-ui,sans-serif;max-width:700px;margin:2em auto;padding:0 1em}"
            "h2{font-size:1em;margin:1.6em 0 .3em}svg{width:100%;height:auto}</style>"
            f"<h1>{html.escape(self.title)}</h1>{plots}{lines}"
            f"<p><small>{html.escape(about['date'])}, commit {about['commit']}; {html.escape(machine)}</small></p>\n"
        )


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the ratios of each round: what disturbs the machine for a while then disturbs both sides."""
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))


def _plot(values: Mapping[str, Sequence[float]]) -> str:
    """A bar for each contender's median and a dot for each round."""
    most = max((max(rounds) for rounds in values.values()), default=0) or 1
    left, right = 150, 70
    scale = (_WIDTH - left - right) / most
    parts = []
    for number, (name, rounds) in enumerate(values.items()):
        top = number * _ROW
        median = statistics.median(rounds)
        color = "#2563eb" if number == 0 else "#94a3b8"
        parts.append(
            f'<text x="{left - 8}" y="{top + 21}" text-anchor="end">{html.escape(name)}</text>'
            f'<rect x="{left}" y="{top + 6}" width="{median * scale:.1f}" height="22" fill="{color}"/>'
            f'<text x="{left + most * scale + 8:.1f}" y="{top + 21}">{_short(median)}</text>'
        )
        parts += [f'<circle cx="{left + one * scale:.1f}" cy="{top + 17}" r="3" fill="#0f172a" opacity=".6"/>' for one in rounds]
    return f'<svg viewBox="0 0 {_WIDTH} {len(values) * _ROW}" font-size="13" role="img">{"".join(parts)}</svg>'


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
