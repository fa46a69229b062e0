"""What a benchmark hands over: a table for people, and a JSON file with all that is needed to repeat or to plot it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.kit.goals import GOALS, judge
from bench.kit.machine import describe
from bench.kit.results import publish
from bench.kit.rounds import Finding


@dataclass(slots=True)
class Report:
    """One benchmark's result.

    `rows` of the table by contender. `findings`: the figures that goals ask for, by the goal's key. For the plots, each by a
    title with its unit: `rounds` (contender: a value a round), `parts` (contender: part: value), `curves` (contender: points;
    the title's part before the colon is the x axis).
    """

    name: str
    title: str
    settings: Mapping[str, Any]
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    findings: dict[str, Finding] = field(default_factory=dict)
    rounds: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    parts: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    curves: dict[str, dict[str, list[tuple[float, float]]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def show(self, *, judged: bool = True) -> None:
        """The table on stdout, and, where speed is judged, what became of the goals."""
        table = Table(title=self.title, title_justify="left")
        for number, column in enumerate(self.columns):
            table.add_column(column, justify="right" if number else "left", no_wrap=True)
        for row in self.rows:
            table.add_row(*row)
        console = Console(soft_wrap=True)     # in a log file nothing should be folded to 80 columns
        console.width = max(console.width, 170)
        console.print(table)
        for line in [*self.notes, *(self._verdicts() if judged else ())]:
            console.print(line, highlight=False, markup=False)

    def save(self, folder: Path) -> Path:
        """Write NAME.json, then goals, page and plots of all results in the folder; returns the first."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}.json"
        path.write_text(json.dumps(self.document(), indent=1) + "\n")
        publish(folder)
        return path

    def document(self) -> dict[str, Any]:
        """Everything, as JSON has it."""
        table = [dict(zip(self.columns, row, strict=True)) for row in self.rows]
        findings = {key: asdict(one) for key, one in self.findings.items()}
        return {"bench": self.name, "title": self.title, **describe(), "settings": dict(self.settings), "table": table,
                "findings": findings, "notes": self.notes, "rounds": self.rounds, "parts": self.parts, "curves": self.curves}

    def _verdicts(self) -> list[str]:
        findings = {key: asdict(one) for key, one in self.findings.items()}
        verdicts = [judge(goal, findings) for goal in GOALS if goal.bench == self.name]
        return [f"goal {one.goal.number}, {one.goal.what}: {one.told}: {one.state} "
                f"({'at least' if one.goal.at_least else 'at most'} {one.goal.asked} wanted)" for one in verdicts]
