"""The compiled twins of the click path, where they could be built: see _speedups.c.

Each has a twin in Python that does the same, is what everybody reads, and serves where no C compiler was found when the
package was installed. The same tests hold both; others hold them together over random bytes and random visits.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, TypeVar


def _load() -> Any:
    """The module; None where no compiler was found, or where the sources beside it are newer: a `git pull` brings those alone, and
    rows of two versions do not mix."""
    try:
        module = import_module("tracker._speedups")
    except ImportError:
        return None
    sources = [part.read_bytes() for part in sorted(Path(__file__).parent.glob("_speedups*.[ch]"))]
    return module if not sources or zlib.crc32(b"".join(sources)) & 0x7FFFFFFF == module.SOURCE_CRC else None


_compiled = _load()
AVAILABLE = _compiled is not None

F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", bound=type)


class Clerk(Protocol):
    """A common click from a connection's bytes to its row and its answer, in one call. While it is open it collects into the
    lists it was given; a click that comes while it is closed makes it call `begin`, which may open it."""

    def key_visitors(self, key: bytes) -> None:
        """The key of this day's visitors."""

    def open(
        self, now_ms: int, rows: list[bytes], answers: list[tuple[Any, bytes]], tails: dict[str, bytes], run: Any, /
    ) -> None: ...

    def close(self) -> None: ...

    def take(self, sink: Any, data: bytes, start: int, here: Any, peer: str, /) -> int:
        """Where the request behind the one at `start` begins; 0: not a common click, and nothing was done.

        `here`: the Place of `peer`.
        """


def speller(twin: F) -> F:
    """Of a click id's 20 bytes (domain/click_id.py)."""
    return _compiled.spell if _compiled else twin


def plain_clicks(twin: F, visit: type) -> F:
    """The lane's reading of a plain click (web/framing.py); it makes `visit`s."""
    return _compiled.plain_clicks(visit) if _compiled else twin


def query_taker(twin: F) -> F:
    """What a visitor's query says (storage/clicks/query_columns.py); it hands to `twin` what it leaves alone."""
    return _compiled.query_taker(twin) if _compiled else twin


def receiver(twin: F) -> F:
    """A turn of the public port (web/port.py)."""
    return getattr(_compiled, "receive", twin)      # where there is epoll


def accepter(twin: F) -> F:
    """Of its newcomers."""
    return getattr(_compiled, "accept", twin)


def sender(twin: F) -> F:
    """Of answers (web/wire.py)."""
    return getattr(_compiled, "send", twin)


def tally(twin: F) -> F:
    """Of rows, for the statistics (storage/clicks/statistics.py)."""
    return _compiled.tally if _compiled else twin


def run_of_ids(twin: C) -> C:
    """The ids of one millisecond (domain/click_id.py)."""
    return _compiled.Run if _compiled else twin


def clerk(**over: Any) -> Clerk | None:
    """What a lane, its desk and its redirector do with a common click (web/redirect.py says `over` what); None: they do it."""
    return _compiled.Clerk(**over) if _compiled else None
