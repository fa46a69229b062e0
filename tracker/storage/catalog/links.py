"""All links of the catalog: each is kept as its row, and compiled when somebody first asks for it.

A compiled link weighs 1.8 KB and takes 60 µs to make; its row, and what finds it, 0.35 KB and 3 µs. Of a million
links most are clicked seldom, on one worker or never (bench/many_links.py).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar, overload

import orjson

from tracker.domain.link import Link

COMPILED_LIMIT: Final = 65_536   # some 120 MB; whoever has more in use compiles some of them again

BAD_ROW: Final = (ValueError, TypeError, LookupError)   # what a row that makes no sense here raises

T = TypeVar("T")


class Links(dict[bytes, Link]):
    """As a dict, the compiled ones by slug: what the compiled clerk looks into. `get` and `numbered` know every link,
    archived and paused ones too. Changed in place, never replaced."""

    def __init__(self, rows: Mapping[int, bytes], left_out: Callable[[int, Exception], None]) -> None:
        """`rows`: every link's as it was last taken in, by number; the owner puts them there. `left_out` is told of one
        that cannot be compiled: it is no link until it changes."""
        super().__init__()
        self._rows = rows
        self._left_out = left_out
        self._numbers: dict[bytes, int] = {}
        self._compiled: OrderedDict[int, Link] = OrderedDict()   # by number, the oldest first
        self._bad: set[int] = set()

    @overload
    def get(self, slug: bytes, default: None = None, /) -> Link | None: ...
    @overload
    def get(self, slug: bytes, default: Link, /) -> Link: ...
    @overload
    def get(self, slug: bytes, default: T, /) -> Link | T: ...
    def get(self, slug: bytes, default: object = None, /) -> object:
        """Of a slug: compiled now, if this is the first time."""
        link = super().get(slug)
        if link is None and (number := self._numbers.get(slug)) is not None:
            link = self._compile(number)
        return default if link is None else link

    def numbered(self, number: int) -> Link | None:
        """As `get`, by the number inside a click id."""
        return self._compiled.get(number) or self._compile(number)

    def take_in(self, row: Sequence[Any]) -> None:
        """A row that is not among the rows yet: of a new link, or of a known one as it is now. That is compiled at once:
        raises BAD_ROW when it cannot be, and then the link stays what it was."""
        number, slug = row[0], str.encode(row[1])
        link = _of_row(row) if number in self._rows else None
        in_use = number in self._compiled
        self.forget(number)
        super().pop(slug, None)      # another's, renamed in a row that is still to come
        self._numbers[slug] = number
        if link is not None and in_use:
            self._keep(link)

    def forget(self, number: int) -> None:
        """A link that is gone, or about to be taken in anew. Its row is still there."""
        if (row := self._rows.get(number)) is not None:
            slug = orjson.loads(row)[1].encode()
            if self._numbers.get(slug) == number:      # else another has come under it since
                del self._numbers[slug]
                super().pop(slug, None)
        self._compiled.pop(number, None)
        self._bad.discard(number)

    def _compile(self, number: int) -> Link | None:
        row = self._rows.get(number)
        if row is None or number in self._bad:
            return None
        try:
            link = _of_row(orjson.loads(row))
        except BAD_ROW as exc:
            self._bad.add(number)
            self._left_out(number, exc)
            return None
        self._keep(link)
        return link

    def _keep(self, link: Link) -> None:
        if len(self._compiled) >= COMPILED_LIMIT:
            number, oldest = self._compiled.popitem(last=False)
            if self._numbers.get(oldest.slug.encode()) == number:
                super().pop(oldest.slug.encode(), None)
        self._compiled[link.link_id] = link
        if self._numbers.get(link.slug.encode()) == link.link_id:
            self[link.slug.encode()] = link


def _of_row(row: Sequence[Any]) -> Link:
    (
        number, slug, program_id, partner_id, program_slug, partner_slug, version, destination, fallback, channel,
        pass_query, referrer_policy, allow_test, status, expires_at_ms,
    ) = row  # fmt: skip
    return Link.compile(
        link_id=number, slug=slug, program_id=program_id, partner_id=partner_id, program_slug=program_slug,
        partner_slug=partner_slug, version=version, destination=destination, fallback=fallback, channel=channel,
        pass_query=pass_query, referrer_policy=referrer_policy, allow_test=allow_test, status=status,
        expires_at_ms=expires_at_ms,
    )  # fmt: skip
