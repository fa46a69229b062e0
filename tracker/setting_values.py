"""How the text of one setting becomes a value: numbers, bytes with units, networks, keys.

Every function takes stripped, non-empty text, returns the value, or raises ValueError with a sentence that says what is
wrong and what to give instead. The sentences about secrets hold no part of the secret. No setting is named here, and
nothing is looked up in the environment.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_HOST_NAME: Final = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?")
_UNITS: Final = {
    "": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 1 << 10, "MI": 1 << 20, "GI": 1 << 30, "TI": 1 << 40,
}
_MAX_ENTRIES: Final = 1_000  # of a list; more is a pasted file, and every request would look through it


def printable(text: str) -> str:
    """Text from outside, as it may stand in one line of a terminal or log: ASCII, escaped, at most 80 characters."""
    cropped = text if len(text) <= 80 else text[:77] + "..."
    return cropped.encode("unicode_escape", "surrogatepass").decode("ascii")


def whole(lowest: int, highest: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,18}", text) or not lowest <= int(text) <= highest:
            raise ValueError(f"{printable(text)} is not a whole number from {lowest} to {highest}")
        return int(text)

    return parse


def byte_count(lowest: int, highest: int) -> Callable[[str], int]:
    """Bytes: `1048576`, `500MB` (decimal), `10GiB` (binary), also as Kubernetes writes them: `500M`, `10Gi`."""

    def parse(text: str) -> int:
        match = re.fullmatch(r"([0-9]{1,18})\s*([KMGT]I?)?B?", text.upper() if text.isascii() else "")
        if not match:
            raise ValueError(f"{printable(text)} is not a number of bytes; write it like 500MB or 10GiB")
        count = int(match[1]) * _UNITS[match[2] or ""]
        if not lowest <= count <= highest:
            raise ValueError(f"{printable(text)} is {count} bytes; give between {lowest} and {highest}")
        return count

    return parse


def one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(f"{printable(text)} is unknown; give one of {', '.join(words)}")
        return text.lower()

    return parse


def switch(text: str) -> bool:
    return one_of("on", "off")(text) == "on"


def sync_interval_ms(text: str) -> int | None:
    """Milliseconds between two syncs; 0 for `always`, None for `off`."""
    if text.lower() in {"always", "off"}:
        return 0 if text.lower() == "always" else None
    match = re.fullmatch(r"([0-9]{1,4})ms", text)
    # More than a second is `off` by another name: the kernel writes dirty pages back by itself after a few.
    if not match or not 1 <= int(match[1]) <= 1_000:
        raise ValueError(f"{printable(text)} is neither 1ms to 1000ms (usually 50ms), nor always, nor off")
    return int(match[1])


def hosts(text: str) -> tuple[str, ...]:
    """IP addresses and host names to listen on, in order, each once; `[::1]` loses its brackets."""
    return tuple(dict.fromkeys(_host(part) for part in _entries(text)))


def _host(text: str) -> str:
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError as exc:
        # A last label of digits is a mistyped address (RFC 1123 2.1), no host name.
        if not _HOST_NAME.fullmatch(text) or text.rstrip(".").rpartition(".")[2].isdigit():
            raise ValueError(f"{printable(text)} is neither an IP address nor a host name") from exc
        return text


def networks(text: str) -> tuple[Network, ...]:
    """Networks of proxies, in CIDR form; a single address is a network of one."""
    return _networks(text, "would believe any visitor's X-Forwarded-For; name the proxies' networks")


def outbox_networks(text: str) -> tuple[Network, ...]:
    """Networks that postbacks may be sent into, written as `networks` are."""
    return _networks(text, "would let a postback reach anything; name the networks that partners' trackers stand in")


def _networks(text: str, too_wide: str) -> tuple[Network, ...]:
    return tuple(dict.fromkeys(_network(part, too_wide) for part in _entries(text)))


def _network(text: str, too_wide: str) -> Network:
    try:
        network = ipaddress.ip_network(text)
    except ValueError as exc:
        try:
            meant = f"; did you mean {ipaddress.ip_network(text, strict=False)}?"
        except ValueError:
            meant = "; write it like 10.0.0.0/8 or fd00::/8"
        raise ValueError(f"{printable(text)} is not a network{meant}") from exc
    if network.prefixlen == 0:
        raise ValueError(f"{printable(text)} {too_wide}")
    return network


def path(text: str) -> Path:
    if "\0" in text:
        raise ValueError(f"{printable(text)} is not a path: it holds a NUL")
    return Path(text)


def existing_file(text: str, name: str = "") -> Path:
    """A file that is there; `name` goes in front of what is wrong, where the file is not the setting itself."""
    file, before = path(text), f"{name} " if name else ""
    try:
        found = file.is_file()
    except OSError as exc:
        raise ValueError(f"{before}{printable(text)} cannot be looked at: {exc.strerror}") from exc
    if not found:
        raise ValueError(f"{before}{printable(text)} is not there, or not an ordinary file")
    return file


def database_url(text: str) -> str:
    """A PostgreSQL URL, unchanged. The rest is the driver's to judge: hosts may be a list, or a socket directory."""
    if not re.match(r"postgres(ql)?://", text):
        raise ValueError("not a PostgreSQL URL; write it like postgresql://user:password@host:5432/name")
    if not text.isprintable() or " " in text:
        raise ValueError("holds a space or control character; percent-encode it (%20 for a space)")
    return text


def admin_token(text: str) -> str:
    # 22 characters of base64 are 128 bits; a header value cannot carry other than visible ASCII (RFC 6750 2.1).
    if not re.fullmatch(r"[!-~]{22,256}", text):
        raise ValueError("needs 22 to 256 visible ASCII characters; make one with: openssl rand -hex 16")
    return text


def secret_keys(text: str) -> tuple[tuple[int, bytes], ...]:
    """`number:base64,…` as (number, secret), in order. Standard and URL-safe base64, with or without padding."""
    keys: list[tuple[int, bytes]] = []
    for place, part in enumerate(_entries(text), start=1):
        match = re.fullmatch(r"([0-9]{1,2}):([A-Za-z0-9+/_-]+)={0,2}", part)
        if not match or int(match[1]) > 15:
            raise ValueError(f"key {place} is not number:base64 with a number from 0 to 15; {_NEW_KEY}")
        number, digits = int(match[1]), match[2].translate(str.maketrans("-_", "+/"))
        try:
            secret = base64.b64decode(digits + "=" * (-len(digits) % 4), validate=True)
        except ValueError as exc:
            raise ValueError(f"key number {number} is not base64; {_NEW_KEY}") from exc
        if not 16 <= len(secret) <= 64:  # 64: the longest key of blake2b, which derives the sub-keys
            raise ValueError(f"key number {number} has {len(secret) * 8} bits; it needs 128 to 512; {_NEW_KEY}")
        if number in dict(keys):
            raise ValueError(f"number {number} is given twice; every key keeps a number of its own")
        if secret in dict(keys).values():
            raise ValueError(f"key number {number} is the same secret as another number's; {_NEW_KEY}")
        keys.append((number, secret))
    return tuple(keys)


_NEW_KEY: Final = 'make one with: echo "1:$(openssl rand -base64 32)"'


def dialect_hosts(text: str) -> NoReturn:
    """Bindings of host names to dialects: read, and refused, since this version has no dialect to bind."""
    for part in _entries(text):
        host, equals, dialect = part.partition("=")
        if not (equals and _HOST_NAME.fullmatch(host.strip()) and re.fullmatch(r"\s*[a-z0-9_-]{1,32}", dialect)):
            raise ValueError(f"{printable(part)} is not host=dialect")
    raise ValueError(f"{printable(text)} cannot be bound: this version speaks no dialect; remove the setting")


def _entries(text: str) -> list[str]:
    """The parts of a comma list, stripped. An empty part is refused: it is a value that someone's script lost."""
    parts = [part.strip() for part in text.split(",")]
    if "" in parts:
        raise ValueError(f"part {parts.index('') + 1} of the list is empty; remove the extra comma")
    if len(parts) > _MAX_ENTRIES:
        raise ValueError(f"{len(parts)} entries are more than the {_MAX_ENTRIES} allowed")
    return parts
