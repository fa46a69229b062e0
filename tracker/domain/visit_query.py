"""The query of a visit: the partner's labels (sub1 … sub10), his own click id (ext) and everything else.

Any bytes give a storable result: escapes undone, NUL and invalid UTF-8 replaced, lengths and counts bounded. Of a repeated
label the first filled one wins; other repeated names become a list. Nothing here can raise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

from tracker.domain.text import storable

PARAMETER_LIMIT = 64     # parameters kept
NAME_LIMIT = 64          # bytes
VALUE_LIMIT = 1024       # bytes

_PERCENT, _PLUS, _NUL = b"%+\0"

LABELS: Final = (*(f"sub{n}" for n in range(1, 11)), "ext")
_SLOT: Final = {name.encode(): slot for slot, name in enumerate(LABELS)}


@dataclass(slots=True)
class VisitQuery:
    """A parsed query. `labels` by place in LABELS; `rest` is what goes to jsonb; `changed`: something was cleaned or cut."""

    labels: dict[int, bytes]
    rest: dict[str, str | list[str]]
    changed: bool

    def first(self, name: bytes) -> bytes:
        """A label, or the first value of the parameter of this name; b"" for none."""
        slot = _SLOT.get(name)
        if slot is not None:
            return self.labels.get(slot, b"")
        value = self.rest.get(name.decode(), "")
        return (value if isinstance(value, str) else value[0]).encode()


def parse_visit_query(raw: bytes) -> VisitQuery:
    """From the raw bytes after the question mark.

    Bytes are looked for by number: `37 in raw` takes 30 ns, `b"%" in raw` 230, since CPython first tries the other reading.
    """
    labels: dict[int, bytes] = {}
    rest: dict[str, str | list[str]] = {}
    changed = False
    pairs = raw.split(b"&", PARAMETER_LIMIT)
    if len(pairs) > PARAMETER_LIMIT:
        pairs.pop()
        changed = True
    plain = not (_PERCENT in raw or _PLUS in raw or _NUL in raw) and raw.isascii()
    for pair in pairs:
        name, _, value = pair.partition(b"=")
        if not plain or len(name) > NAME_LIMIT or len(value) > VALUE_LIMIT:
            name, name_changed = _clean(name, NAME_LIMIT)
            value, value_changed = _clean(value, VALUE_LIMIT)
            changed = changed or name_changed or value_changed
        slot = _SLOT.get(name)
        if slot is not None:
            if value and slot not in labels:
                labels[slot] = value
        elif name:
            key, word = name.decode(), value.decode()
            if key not in rest:
                rest[key] = word
            else:
                before = rest[key]
                rest[key] = [*before, word] if isinstance(before, list) else [before, word]
    return VisitQuery(labels, rest, changed)


def _clean(raw: bytes, limit: int) -> tuple[bytes, bool]:
    """Unescape; then what may be stored of it, and whether that changed more than the escapes."""
    if _PLUS in raw:
        raw = raw.replace(b"+", b" ")
    if _PERCENT in raw:
        raw = unquote_to_bytes(raw)
    return storable(raw, limit)
