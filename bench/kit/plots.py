"""The three kinds of plot, drawn once: as a PNG file, and as SVG inside the page, which loads nothing."""

from __future__ import annotations

import io
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure as Canvas

mpl.use("Agg")      # no screen is asked for
mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "bench", "font.size": 9})
mpl.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})

_LOGARITHMIC = 20      # a curve whose top is so many times its bottom would hide what happens there
_COLORS = ("#2563eb", "#94a3b8", "#f59e0b", "#10b981", "#8b5cf6", "#ef4444", "#0f172a")


class Figure:
    """A drawing that is finished."""

    def __init__(self, canvas: Canvas) -> None:
        self._canvas = canvas

    def save(self, path: Path) -> None:
        """As PNG."""
        self._canvas.savefig(path, dpi=110, metadata={"Software": None})

    def svg(self) -> str:
        """As an element of a page: without what only a file of its own needs, addresses of standards included."""
        out = io.StringIO()
        self._canvas.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
        text = out.getvalue()
        text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg"):], flags=re.DOTALL)
        return re.sub(r' xmlns(:xlink)?="[^"]*"', "", text)


def bars(title: str, values: Mapping[str, Sequence[float]]) -> Figure:
    """A bar for each contender's median and a dot for each round."""
    canvas, axes = _empty(title, height=0.7 + 0.32 * len(values))
    for number, (_, rounds) in enumerate(values.items()):
        median = statistics.median(rounds)
        axes.barh(number, median, color=_COLORS[0] if number == 0 else _COLORS[1], height=0.7)
        axes.plot(rounds, [number] * len(rounds), "o", color=_COLORS[-1], markersize=3, alpha=0.6)
        axes.annotate(f" {_short(median)}", (max(rounds), number), va="center", xytext=(4, 0), textcoords="offset points")
    _name_rows(axes, list(values))
    return Figure(canvas)


def stacks(title: str, values: Mapping[str, Mapping[str, float]]) -> Figure:
    """A bar for each contender, made of its parts."""
    canvas, axes = _empty(title, height=1.0 + 0.32 * len(values))
    parts = list(dict.fromkeys(part for one in values.values() for part in one))
    left = dict.fromkeys(values, 0.0)
    for number, part in enumerate(parts):
        widths = [one.get(part, 0.0) for one in values.values()]
        color = _COLORS[number % len(_COLORS)]
        axes.barh(range(len(values)), widths, left=list(left.values()), color=color, height=0.7, label=part)
        left = {name: left[name] + width for name, width in zip(left, widths, strict=True)}
    for number, total in enumerate(left.values()):
        axes.annotate(f" {_short(total)}", (total, number), va="center")
    _name_rows(axes, list(values))
    canvas.legend(fontsize=7, frameon=False, loc="outside right center")
    return Figure(canvas)


def curves(title: str, values: Mapping[str, Sequence[tuple[float, float]]]) -> Figure:
    """A line for each contender through its points; the title is the x axis, a colon, and what is drawn."""
    horizontal, _, what = title.partition(": ")
    canvas, axes = _empty(what, height=3.2)
    for number, (name, points) in enumerate(values.items()):
        axes.plot(*zip(*points, strict=True), "o-", color=_COLORS[number % len(_COLORS)], markersize=4, label=name)
    heights = [height for points in values.values() for _, height in points]
    if 0 < _LOGARITHMIC * min(heights) < max(heights):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.legend(fontsize=8, frameon=False)
    axes.set_xlabel(horizontal)
    return Figure(canvas)


def _empty(title: str, *, height: float) -> tuple[Canvas, Any]:
    canvas = Canvas(figsize=(7.5, height), layout="constrained")
    axes = canvas.subplots()
    axes.set_title(title, fontsize=9, loc="left")
    return canvas, axes


def _name_rows(axes: Any, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlim(left=0)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
