"""The query of a visit: the partner's labels (sub1 … sub10), his own click id (ext) and everything else.

Any bytes give a storable result: escapes undone, NUL and invalid UTF-8 replaced, lengths and counts bounded. Of a repeated
label the first filled one wins; other repeated names become a list. Nothing here can raise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

PARAMETER_LIMIT = 64     # parameters kept
NAME_LIMIT = 64          # bytes
VALUE_LIMIT = 1024       # bytes

LABELS: Final = (*(f"sub{n}" for n in range(1, 11)), "ext")
LABEL_SLOT: Final = {f"{prefix}{name}": slot for slot, name in enumerate(LABELS) for prefix in ("", "query.")}
_SLOT: Final = {name.encode(): slot for slot, name in enumerate(LABELS)}


@dataclass(slots=True)
class VisitQuery:
    """A parsed query. `labels` in the order of LABELS; `rest` is what goes to jsonb; `changed`: something was cleaned or cut."""

    labels: list[bytes | None]
    rest: dict[str, str | list[str]]
    changed: bool

    def first(self, name: str) -> bytes:
        """What the macro {name} writes: a label, or the first value of the parameter NAME of {query.NAME}; b"" for none."""
        slot = LABEL_SLOT.get(name)
        if slot is not None:
            return self.labels[slot] or b""
        value = self.rest.get(name.removeprefix("query."), "")
        return (value if isinstance(value, str) else value[0]).encode()


def parse_visit_query(raw: bytes) -> VisitQuery:
    """From the raw bytes after the question mark."""
    labels: list[bytes | None] = [None] * len(LABELS)
    rest: dict[str, str | list[str]] = {}
    changed = False
    pairs = raw.split(b"&", PARAMETER_LIMIT)
    if len(pairs) > PARAMETER_LIMIT:
        pairs.pop()
        changed = True
    for pair in pairs:
        name, _, value = pair.partition(b"=")
        if len(pair) > NAME_LIMIT or b"%" in pair or b"+" in pair or b"\0" in pair or not pair.isascii():
            name, name_changed = _clean(name, NAME_LIMIT)
            value, value_changed = _clean(value, VALUE_LIMIT)
            changed = changed or name_changed or value_changed
        slot = _SLOT.get(name)
        if slot is not None:
            if value and labels[slot] is None:
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
    """Unescape; then storable UTF-8 of at most `limit` bytes, and whether that changed more than the escapes."""
    value = raw.replace(b"+", b" ")
    if b"%" in value:
        value = unquote_to_bytes(value)
    if value.isascii() and b"\0" not in value and len(value) <= limit:
        return value, False
    text = value.decode("utf-8", "replace").replace("\0", "\ufffd").encode()
    if len(text) > limit:
        text = text[:limit].decode("utf-8", "ignore").encode()
    return text, text != value
