"""From bytes to named parameters: what a postback's query, form or JSON says, cleaned, before anybody believes it.

It exists because senders differ in everything but meaning: they repeat names, leave macros unfilled, send Latin-1, or
amounts as JSON numbers. After this file a parameter is present with one clean text, or absent. Secrets are taken out
here and live only in `Parameters.secrets`. Meaning (is this an amount?) is postback_message.py's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import field
from typing import Any
from urllib.parse import unquote_to_bytes

from tracker.domain.refusal import Reason, Refused
from tracker.domain.values import valueclass

Pair = tuple[str, str | None]       # a name and its text; None: JSON null

MAX_PARAMETERS = 64
LOGGED_TEXT = 300                  # characters of a value in the log: above every cap, so what is too long stays so
LOGGED_NAMES = 16                   # unknown names listed

KNOWN = frozenset({
    "click_id", "event", "txid", "event_id", "amount", "currency", "status", "ts", "customer", "coupon", "program",
})
SECRET = frozenset({"token", "sig", "sig_ts"})

# A whole value that is a macro nobody filled: {x}, {{x}}, ${x}, [x], [[x]], %%x%%. A GUID in braces is an order number.
_MACRO = re.compile(r"\$?\{(?![0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-)[^}]*\}{1,2}|\[[^\]]*\]{1,2}|%%.*%%", re.DOTALL)
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")     # PostgreSQL refuses NUL, UTF-8 has no lone surrogates
_PLAIN_NAME = re.compile(r"[a-z][a-z0-9_]{0,23}")   # an unknown name worth listing: short enough to be no secret


@valueclass(frozen=True, slots=True)
class Parameters:
    """What one postback says. `values` and `secrets` hold only names with something in them, sorted by name."""

    values: Mapping[str, str]
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    absent: tuple[str, ...] = ()     # known names that came empty or as an unfilled macro, and with no other value
    unfilled: tuple[str, ...] = ()   # those of them that came as a macro
    ignored: tuple[str, ...] = ()    # unknown names, some of them; never their values, which may be anything

    def get(self, name: str) -> str | None:
        return self.values.get(name)

    def to_log(self) -> dict[str, Any]:
        """JSON form for the postback log: without secrets, texts cropped."""
        out: dict[str, Any] = {name: value[:LOGGED_TEXT] for name, value in self.values.items()}
        for name in ("absent", "unfilled", "ignored"):
            listed = getattr(self, name)
            if listed:
                out["_" + name] = list(listed)
        return out

    @classmethod
    def from_log(cls, data: Mapping[str, Any]) -> Parameters:
        """The inverse of to_log, as far as values go. Other members of `data` are passed over."""
        return cls({name: data[name] for name in sorted(KNOWN & data.keys())})


def read_urlencoded(raw: bytes) -> list[Pair]:
    """The pairs of a query string or a form body, in order; names without `=` have an empty text."""
    raw = raw.replace(b"+", b" ")
    if raw.isascii() and b"%" not in raw:      # most are: one decoding for all
        return [(name, value) for name, _, value in [part.partition("=") for part in raw.decode().split("&") if part]]
    return [(_text(name), _text(value)) for name, _, value in [part.partition(b"=") for part in raw.split(b"&") if part]]


def read_json(raw: bytes, *, most_items: int = 1) -> tuple[list[list[Pair]], bool]:
    """The pairs of each object in a JSON body, and whether it was an array. Numbers stay as written, never a float.

    Raises Refused(BAD_BODY) for what is no object, nor, where `most_items` allows several, an array of at most so many.
    """
    try:
        text = raw.decode("utf-8-sig", "replace")
        document = json.loads(text, object_pairs_hook=_Object, parse_int=str, parse_float=str, parse_constant=str)
    except (ValueError, RecursionError):
        raise Refused(Reason.BAD_BODY) from None
    several = isinstance(document, list)
    objects = document if several else [document]
    if several and (most_items == 1 or not 1 <= len(objects) <= most_items):
        raise Refused(Reason.BAD_BODY)
    return [_pairs_of(item) for item in objects], several


def gather(pairs: Iterable[Pair]) -> Parameters:
    """One text a name. The order of pairs does not matter. Raises Refused: TOO_MANY_PARAMETERS, REPEATED_PARAMETER."""
    found: dict[str, str] = {}
    absent: set[str] = set()
    unfilled: set[str] = set()
    ignored: set[str] = set()
    for number, (name, raw) in enumerate(pairs):
        if number >= MAX_PARAMETERS:
            raise Refused(Reason.TOO_MANY_PARAMETERS)
        if name not in KNOWN and name not in SECRET:
            ignored.add(name)
            continue
        value = clean(raw) if raw else ""
        if not value or (value[0] in "${[%" and _MACRO.fullmatch(value)):
            absent.add(name)
            if value:
                unfilled.add(name)
        elif found.setdefault(name, value) != value:
            raise Refused(Reason.REPEATED_PARAMETER)
    names = sorted(found)
    return Parameters(
        values={name: found[name] for name in names if name in KNOWN},
        secrets={name: found[name] for name in names if name in SECRET},
        absent=tuple(sorted(absent - found.keys())) if absent else (),
        unfilled=tuple(sorted(unfilled - found.keys())) if unfilled else (),
        ignored=tuple(sorted(name for name in ignored if _PLAIN_NAME.fullmatch(name))[:LOGGED_NAMES]) if ignored else (),
    )


def clean(text: str) -> str:
    """Storable text without white space at its ends: NUL and lone surrogates become U+FFFD, as invalid UTF-8 did."""
    return (text if text.isascii() and "\0" not in text else _UNSTORABLE.sub("�", text)).strip()


class _Object(tuple[tuple[str, Any], ...]):
    """A JSON object as its pairs, repeated names and all; told from an array by its type."""

    __slots__ = ()


def _pairs_of(item: Any) -> list[Pair]:
    if not isinstance(item, _Object):
        raise Refused(Reason.BAD_BODY)
    for name, value in item:
        if not isinstance(value, str | None) and (name in KNOWN or name in SECRET):
            raise Refused(Reason.BAD_BODY)
    return [(name, value if isinstance(value, str) else None) for name, value in item]


def _text(quoted: bytes) -> str:
    return (unquote_to_bytes(quoted) if b"%" in quoted else quoted).decode("utf-8", "replace")
