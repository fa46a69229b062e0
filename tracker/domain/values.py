"""`@valueclass(frozen=True, slots=True)`: a dataclass that mypy holds to be frozen, and that costs no more than any other.

A frozen dataclass sets each field through object.__setattr__: 8 µs for one of twenty fields where 4 do, and each sale
makes many. Nothing assigns to a value; mypy, not the interpreter, sees to that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataclasses import dataclass as valueclass
else:
    from dataclasses import dataclass

    def valueclass(*, frozen, slots, kw_only=False):  # noqa: ANN001, ANN201, ARG001 - dataclass's own arguments
        return dataclass(slots=slots, kw_only=kw_only, unsafe_hash=True)

__all__ = ["valueclass"]
