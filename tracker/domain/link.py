"""A link: slug + destination template, of one program and one partner. Parsed and compiled when saved and when loaded.

A template is an http(s) URL with macros: {click_id}, {sub1}…{sub10}, {ext}, {partner}, {program}, {link}, {channel} and
{query.NAME}. Macros stand only in the path, in query values or in the fragment, and what fills them is always
percent-encoded with no safe characters but the unreserved ones (RFC 3986 section 2.3), so the host of every answer is the
host of the template. Pass-through appends the visitor's query, less the names that stand in the template: otherwise
`?click_id=` on a link would steal the credit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address
from struct import Struct
from typing import Final
from urllib.parse import quote, quote_from_bytes, unquote_to_bytes

from tracker.domain.click_id import TIME_LIMIT, TOKEN_LENGTH

DESTINATION_LIMIT = 2048     # characters; with what macros add, a Location must fit the 4 KiB that nginx takes for all headers
WRITTEN_LIMIT = 3072         # bytes, international characters percent-encoded
CHANNEL_LIMIT = 64           # bytes: what statistics are counted by is short
SLUG = re.compile(r"[A-Za-z0-9_-]{1,64}")

_NO_URL = re.compile(r"""[\x00-\x20\x7f\\<>"^`|\s\ud800-\udfff]""")
_UNRESERVED = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
_AUTHORITY = re.compile(r"(?i:https?)://")
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_MACRO = re.compile(r"\{([^{}]*)\}?")
_QUERY_MACRO = re.compile(r"query\.([A-Za-z0-9_.~\[\]-]{1,64})")
_COLUMNS: Final = Struct(">iiiiiiii").pack
_NAMES: Final = {"click_id", "ext", "channel", "partner", "program", "link", *(f"sub{n}" for n in range(1, 11))}


class BadTemplate(ValueError):
    """A template that cannot be saved: `field` (destination, fallback, or a partner's url), `position` (0-based character),
    `message`."""

    def __init__(self, position: int, message: str, field: str = "destination") -> None:
        super().__init__(f"{field}, position {position}: {message}")
        self.field, self.position, self.message = field, position, message


@dataclass(frozen=True, slots=True)
class Template:
    """A compiled destination: literals[0] slot[0] literals[1] … literals[-1], then the fragment's own literals the same way."""

    literals: tuple[bytes, ...]
    slots: tuple[str, ...]              # macro names; "query.NAME" for the visitor's parameter NAME
    fragment: tuple[bytes, ...]         # (b"",) when there is none; begins with b"#"
    fragment_slots: tuple[str, ...]
    query_names: frozenset[bytes]       # decoded, lower case: pass-through drops these
    has_query: bool
    asked: tuple[str, ...]              # distinct slots but click_id and channel: what the visitor's query is asked for
    asked_names: tuple[bytes, ...]      # of parameters: utm_source and test, which every visit is asked for, then `asked`
    around: tuple[bytes, bytes] | None  # what stands about {click_id}, if that is the one slot: the common case
    pieces: tuple[bytes, ...] | None    # literal, parameter's name or b"" for {click_id}, literal …; None: has other slots

    def fill(self, value: Callable[[str], bytes], passed: bytes = b"") -> bytes:
        """The URL, with `value(slot)` (already percent-encoded) in each slot and `passed` (a raw query) appended."""
        parts = [self.literals[0]]
        for position, slot in enumerate(self.slots, 1):
            parts += (value(slot), self.literals[position])
        if passed:
            parts += (b"&" if self.has_query else b"?", passed)
        parts.append(self.fragment[0])
        for slot, literal in zip(self.fragment_slots, self.fragment[1:], strict=True):
            parts += (value(slot), literal)
        return b"".join(parts)


def percent_encode(value: bytes) -> bytes:
    """Every byte but letters, digits and -._~ as %XX."""
    if not value.translate(None, _UNRESERVED):      # nothing to do, which is most labels, at a tenth of the cost
        return value
    return quote_from_bytes(value, safe="").encode()


def is_macro(name: str) -> bool:
    """Whether links know it."""
    return name in _NAMES or _QUERY_MACRO.fullmatch(name) is not None


def parse_template(
    text: str, constants: dict[str, str] | None = None, *, field: str = "destination", known: Callable[[str], bool] = is_macro
) -> Template:
    """Parse and compile. `constants` fills {partner}, {program} and {link} now; `known` says which macros there are.

    Raises BadTemplate with the position.
    """
    constants = constants or {}

    def refuse(position: int, message: str) -> BadTemplate:
        return BadTemplate(position, message, field)

    if len(text) > DESTINATION_LIMIT:
        raise refuse(DESTINATION_LIMIT, f"longer than {DESTINATION_LIMIT} characters")
    strange = _NO_URL.search(text)
    if strange:
        raise refuse(strange.start(), "this character cannot stand in a URL; percent-encode it")
    scheme = _AUTHORITY.match(text)
    if not scheme:
        raise refuse(0, "must begin with http:// or https://")
    end = min((i for i in (text.find(c, scheme.end()) for c in "/?#") if i >= 0), default=len(text))
    authority = text[scheme.end():end]
    if "{" in authority:
        raise refuse(scheme.end() + authority.index("{"), "a macro cannot stand in the host")
    if "@" in authority:
        raise refuse(scheme.end(), "a user name before the host is not allowed")
    if not _is_host(authority):
        raise refuse(scheme.end(), "not a host name (write international names in their xn-- form)")
    port = re.search(r":(\d+)$", authority)
    if port and int(port[1]) > 65535:
        raise refuse(scheme.end(), "no such port")
    mark = text.find("#", end)
    head, fragment = (text, "") if mark < 0 else (text[:mark], text[mark:])
    rest = head[end:]
    literals, slots = _pieces(rest, end, refuse, constants, known)
    literals[0] = text[:end].encode() + (b"" if rest.startswith("/") else b"/") + literals[0]
    fragments, fragment_slots = _pieces(fragment, len(head), refuse, constants, known)
    question = rest.find("?")
    asked = tuple({slot: None for slot in (*slots, *fragment_slots) if slot not in ("click_id", "channel")})
    ids = (*slots, *fragment_slots).count("click_id")
    if sum(map(len, literals)) + sum(map(len, fragments)) + ids * TOKEN_LENGTH > WRITTEN_LIMIT:
        raise refuse(0, f"longer than {WRITTEN_LIMIT} bytes once it is filled and percent-encoded")
    return Template(
        literals=tuple(literals),
        slots=tuple(slots),
        fragment=tuple(fragments),
        fragment_slots=tuple(fragment_slots),
        query_names=frozenset(_query_names(rest[question + 1:])) if question >= 0 else frozenset(),
        has_query=question >= 0,
        asked=asked,
        asked_names=(b"utm_source", b"test", *(slot.removeprefix("query.").encode() for slot in asked)),
        around=(literals[0], literals[1] + fragments[0]) if slots == ["click_id"] and not fragment_slots else None,
        pieces=None if fragment_slots or "channel" in slots else _alternating([*literals[:-1], literals[-1] + fragments[0]], slots),
    )


def _is_host(authority: str) -> bool:
    """A host name, or an address (IPv6 in brackets), with or without a port."""
    if not _HOST.fullmatch(authority):
        return False
    try:
        return not authority.startswith("[") or bool(IPv6Address(authority[1:authority.index("]")]))
    except ValueError:
        return False


def _pieces(
    text: str, offset: int, refuse: Callable[[int, str], BadTemplate], constants: dict[str, str], known: Callable[[str], bool]
) -> tuple[list[bytes], list[str]]:
    """Cut into literals and slots; constants are folded into the literals."""
    literals, slots = [b""], []
    position = 0
    for macro in _MACRO.finditer(text):
        literals[-1] += _literal(text[position:macro.start()], offset + position, refuse)
        name = macro[1]
        if not macro[0].endswith("}"):
            raise refuse(offset + macro.start(), "this { is never closed")
        if not known(name):
            raise refuse(offset + macro.start(), "no such macro")
        question = -1 if text.startswith("#") else text.find("?")
        if 0 <= question < macro.start() and "=" not in text[question:macro.start()].rpartition("&")[2]:
            raise refuse(offset + macro.start(), "a macro cannot be a query parameter's name, only its value")
        if name in constants:
            literals[-1] += quote(constants[name], safe="").encode()
        else:
            slots.append(name)
            literals.append(b"")
        position = macro.end()
    literals[-1] += _literal(text[position:], offset + position, refuse)
    return literals, slots


def _alternating(literals: Sequence[bytes], slots: Sequence[str]) -> tuple[bytes, ...]:
    pieces = [literals[0]]
    for slot, literal in zip(slots, literals[1:], strict=True):
        pieces += (b"" if slot == "click_id" else slot.removeprefix("query.").encode(), literal)
    return tuple(pieces)


def _literal(text: str, offset: int, refuse: Callable[[int, str], BadTemplate]) -> bytes:
    if "}" in text:
        raise refuse(offset + text.index("}"), "this } closes nothing")
    return quote(text, safe="%:/?#[]@!$&'()*+,;=~").encode()


def _query_names(query: str) -> list[bytes]:
    return [unquote_to_bytes(pair.partition("=")[0].replace("+", " ")).lower() for pair in query.split("&") if pair]


def passed_query(raw_query: bytes, template: Template) -> bytes:
    """The visitor's query as it came, less the pairs whose name stands in the template."""
    kept: Sequence[bytes] = [
        pair
        for pair in raw_query.split(b"&")
        if pair and unquote_to_bytes(pair.partition(b"=")[0].replace(b"+", b" ")).lower() not in template.query_names
    ]
    return b"&".join(kept).replace(b"#", b"%23")


# What the compiled clerk needs of a link: link id, open until (ms), columns, referrer policy, the destination's pieces.
Plan = tuple[int, int, bytes, str, tuple[bytes, ...]]


@dataclass(frozen=True, slots=True)
class Link:
    """A link as the hot path wants it: everything that does not change from click to click is made beforehand."""

    link_id: int
    slug: str
    program_id: int
    partner_id: int
    version: int
    destination: Template
    fallback: Template | None
    channel: str | None
    pass_query: bool
    referrer_policy: str          # none, origin, full
    allow_test: bool
    status: str                   # active, paused, archived
    expires_at_ms: int | None
    open_until_ms: int            # leads to its destination before this moment, to its fallback, if any, from then on
    columns: bytes                # link_id, version, program_id and partner_id as every row of it holds them (clicks/rows.py)
    plan: Plan | None             # None: its clicks are not the common case (web/redirect.py serves them)

    @classmethod
    def compile(
        cls, *, link_id: int, slug: str, program_id: int, partner_id: int, program_slug: str, partner_slug: str, version: int,
        destination: str, fallback: str | None, channel: str | None, pass_query: bool, referrer_policy: str, allow_test: bool,
        status: str, expires_at_ms: int | None,
    ) -> Link:
        """From a row of `links`. Raises BadTemplate."""
        constants = {"program": program_slug, "partner": partner_slug, "link": slug}
        template = parse_template(destination, constants)
        open_until_ms = 0 if status != "active" else TIME_LIMIT if expires_at_ms is None else expires_at_ms
        columns = _COLUMNS(4, link_id, 4, version, 4, program_id, 4, partner_id)
        plan = None
        if template.pieces is not None and not (channel or pass_query or allow_test):
            plan = (link_id, open_until_ms, columns, referrer_policy, template.pieces)
        return cls(
            link_id=link_id, slug=slug, program_id=program_id, partner_id=partner_id, version=version, destination=template,
            fallback=None if fallback is None else parse_template(fallback, constants, field="fallback"),
            channel=channel and channel.encode()[:CHANNEL_LIMIT].decode("utf-8", "ignore"),
            pass_query=pass_query, referrer_policy=referrer_policy, allow_test=allow_test,
            status=status, expires_at_ms=expires_at_ms,
            open_until_ms=open_until_ms, columns=columns, plan=plan,
        )
