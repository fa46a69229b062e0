"""Visits that found no link: counted, and the commonest slugs kept, so that a mistyped link in a newsletter is found."""

from __future__ import annotations

SLUGS_KEPT = 1000     # distinct slugs remembered between two reports; a flood of random ones costs no more than that


class Misses:
    """Two numbers for /metrics, and since the last report how often which slug was asked for in vain."""

    def __init__(self) -> None:
        self.unknown = self.closed = 0
        self._slugs: dict[bytes, int] = {}

    def add(self, slug: bytes, status: int) -> None:
        """One visit: `status` 410 for a closed link, else nobody knows the slug (b"" when it is none)."""
        if status == 410:
            self.closed += 1
            return
        self.unknown += 1
        if slug in self._slugs or len(self._slugs) < SLUGS_KEPT:
            self._slugs[slug] = self._slugs.get(slug, 0) + 1

    def report(self, most: int) -> dict[str, int]:
        """The commonest slugs since the last report and how often, the commonest first; then begins anew."""
        ranked = sorted(self._slugs.items(), key=lambda item: -item[1])[:most]
        self._slugs = {}
        return {slug.decode("ascii"): count for slug, count in ranked}
