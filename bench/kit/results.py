"""The folder of results as people read it: GOALS.md, index.html, a picture for each plot; made anew from the JSON files."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.kit import goals
from bench.kit.plots import Figure, bars, curves, stacks

_STYLE = (
    "body{font:15px/1.45 system-ui,sans-serif;max-width:960px;margin:2em auto;padding:0 1em}h2{margin:2em 0 .3em}"
    "svg{width:100%;height:auto;margin-top:1em}table{border-collapse:collapse;margin:.5em 0}"
    "td,th{padding:.2em .6em;border-bottom:1px solid #cbd5e1;text-align:left;vertical-align:top}"
)


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """Every benchmark's newest results, by name."""
    documents = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return {document["bench"]: document for document in documents}


def publish(folder: Path) -> None:
    """Write goals, page and plots of all results in the folder."""
    results = read(folder)
    (folder / "GOALS.md").write_text(f"# Goals, and what was reached\n\n{goals.table(results)}\n{_machines(results)}")
    sections = []
    for name, document in results.items():
        plots = []
        for title, figure in _figures(document):
            figure.save(folder / f"{name}-{_file_name(title)}.png")
            plots.append(figure.svg())
        sections.append(_section(document, "".join(plots)))
    table = _table([_cells(line) for line in goals.table(results).splitlines() if not line.startswith("|---")])
    (folder / "index.html").write_text(
        f"<!doctype html><meta charset=utf-8><title>Tracker, measured</title><style>{_STYLE}</style><h1>Tracker, measured</h1>"
        f"<h2>Goals</h2>{table}{''.join(sections)}\n"
    )


def _figures(document: Mapping[str, Any]) -> list[tuple[str, Figure]]:
    made = [(title, bars(title, values)) for title, values in document["rounds"].items()]
    made += [(title, stacks(title, values)) for title, values in document["parts"].items()]
    return made + [(title, curves(title, values)) for title, values in document["curves"].items()]


def _section(document: Mapping[str, Any], plots: str) -> str:
    rows = [list(document["table"][0]), *(list(row.values()) for row in document["table"])] if document["table"] else []
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in document["notes"])
    about = f"<p><small>{html.escape(_about(document))}</small></p>"
    return f"<h2>{html.escape(document['title'])}</h2>{_table(rows)}{notes}{plots}{about}"


def _about(document: Mapping[str, Any]) -> str:
    told = {**document["machine"], **document["settings"]}
    return f"{document['date']}, commit {document['commit']}; " + ", ".join(f"{name} {value}" for name, value in told.items())


def _machines(results: Mapping[str, Mapping[str, Any]]) -> str:
    return "".join(f"- `{name}`: {_about(document)}\n" for name, document in results.items())


def _table(rows: list[list[str]]) -> str:
    head, *body = rows or [[]]
    lines = ["".join(f"<th>{html.escape(cell)}" for cell in head)]
    lines += ["".join(f"<td>{html.escape(cell)}" for cell in row) for row in body]
    return f"<table>{''.join(f'<tr>{line}' for line in lines)}</table>"


def _cells(line: str) -> list[str]:
    return [cell.strip().replace("**", "").replace("`", "") for cell in line.strip("|\n").split("|")]


def _file_name(title: str) -> str:
    letters = "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in title.lower().replace("µ", "u"))
    return "-".join(part for part in letters.split("-") if part)
