"""From the plain numbers that rooms keep to the shared page that /metrics sums."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from tracker.domain.refusal import Reason
from tracker.metrics import Page


class VisitCounts:
    """What the redirector raises after each write. Slots are looked up once: a click pays one addition each."""

    __slots__ = ("_appended", "_clicks", "_heads", "_page", "_prefetches", "_unlogged")

    def __init__(self, page: Page) -> None:
        self._page = page
        self._clicks = page.slot("tracker_clicks_total", "click")
        self._prefetches = page.slot("tracker_clicks_total", "prefetch")
        self._heads = page.slot("tracker_clicks_total", "head")
        self._appended = page.slot("tracker_clicks_appended_total")
        self._unlogged = page.slot("tracker_clicks_unlogged_total")

    def add(self, *, clicks: int, prefetches: int, heads: int, appended: int, unlogged: int) -> None:
        add_at = self._page.add_at
        add_at(self._clicks, clicks)
        add_at(self._appended, appended)
        if prefetches:
            add_at(self._prefetches, prefetches)
        if heads:
            add_at(self._heads, heads)
        if unlogged:
            add_at(self._unlogged, unlogged)


class Totals:
    """Totals kept as plain integers since this start, added to what earlier starts of the worker left in the page."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._told: defaultdict[str, dict[str, int]] = defaultdict(dict)

    def bring(self, name: str, total: int, *, label: str = "") -> None:
        """Bring a counter up to date."""
        told = self._told[name]
        before = told.get(label, 0)
        if total != before:
            self._page.add(name, total - before, label=label)
            told[label] = total

    def bring_all(self, name: str, totals: Mapping[str, int] | Mapping[Reason, int]) -> None:
        """One counter for each label."""
        told = self._told[name]
        for label, total in totals.items():
            if total != told.get(label, 0):
                self.bring(name, total, label=label)
