"""From the plain numbers that rooms keep to the shared page that /metrics sums."""

from __future__ import annotations

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
        self._told: dict[tuple[str, str], int] = {}

    def bring(self, name: str, total: int, *, label: str = "") -> None:
        """Bring a counter up to date."""
        before = self._told.get((name, label), 0)
        if total != before:
            self._page.add(name, total - before, label=label)
            self._told[name, label] = total

    def bring_all(self, name: str, totals: Mapping[str, int] | Mapping[Reason, int]) -> None:
        """One counter for each label."""
        for label, total in totals.items():
            self.bring(name, total, label=label)
