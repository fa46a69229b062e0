"""What can be wrong with a request about programs, partners, links, coupons and endpoints. HTTP statuses live in web/errors.py.

Messages are ours alone: they hold nothing of what was sent, so that they can be shown and logged anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FieldMistake:
    """One field that cannot be taken. `position`: the character at fault, 0-based, where a template has one."""

    field: str
    message: str
    position: int | None = None

    def __str__(self) -> str:
        where = self.field if self.position is None else f"{self.field}, position {self.position}"
        return f"{where}: {self.message}"


class Invalid(ValueError):
    """One or more fields cannot be taken; `mistakes` holds all of them."""

    def __init__(self, *mistakes: FieldMistake) -> None:
        super().__init__("; ".join(str(mistake) for mistake in mistakes))
        self.mistakes = mistakes


class NotFound(LookupError):
    """There is none. `kind`: program, partner, link, coupon, credential, endpoint, click, conversion."""

    def __init__(self, kind: str) -> None:
        super().__init__(f"there is no such {kind}")
        self.kind = kind


class Conflict(ValueError):
    """What is there already stands in the way. `field`: which one, where there is one."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field
