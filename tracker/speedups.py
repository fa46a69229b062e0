"""The compiled twins of the click path's innermost functions, where they could be built: see _speedups.c.

Each has a twin in Python that does the same, is what everybody reads, and serves where no C compiler was found when the
package was installed. The same tests hold both; a third holds them together over random bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, TypeVar

try:
    _compiled: Any = import_module("tracker._speedups")
except ImportError:      # no compiler was found
    _compiled = None

AVAILABLE = _compiled is not None

F = TypeVar("F", bound=Callable[..., Any])


def speller(twin: F) -> F:
    """Of a click id's 20 bytes (domain/click_id.py)."""
    return _compiled.spell if _compiled else twin


def plain_clicks(twin: F, visit: type) -> F:
    """The lane's reading of a plain click (web/framing.py); it makes `visit`s."""
    return _compiled.plain_clicks(visit) if _compiled else twin


def query_taker(twin: F) -> F:
    """What a visitor's query says (storage/clicks/query_columns.py); it hands to `twin` what it leaves alone."""
    return _compiled.query_taker(twin) if _compiled else twin
