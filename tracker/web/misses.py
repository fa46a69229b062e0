"""Visits that found no link: counted, and the commonest slugs kept, so that a mistyped link in a newsletter is found."""

from __future__ import annotations

SLUGS_KEPT = 1000     # distinct slugs remembered; a flood of random ones only throws each other out


class Misses:
    """Two numbers for /metrics, and how often which slug was asked for in vain."""

    def __init__(self) -> None:
        self.unknown = self.closed = 0
        self._slugs: dict[bytes, int] = {}

    def add(self, slug: bytes, status: int) -> None:
        if status == 410:
            self.closed += 1
            return
        self.unknown += 1
        if slug in self._slugs or len(self._slugs) < SLUGS_KEPT:
            self._slugs[slug] = self._slugs.get(slug, 0) + 1
        else:       # the classic of Misra and Gries: what is really common survives, whatever else comes
            self._slugs = {kept: count - 1 for kept, count in self._slugs.items() if count > 1}

    def commonest(self, most: int) -> list[tuple[str, int]]:
        """Slugs and how often at least, the commonest first."""
        ranked = sorted(self._slugs.items(), key=lambda item: -item[1])[:most]
        return [(slug.decode("ascii", "replace"), count) for slug, count in ranked]
