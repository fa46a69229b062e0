"""The click's row as PostgreSQL takes it: a binary COPY tuple, made once, spooled and shipped as it is.

Columns stand in the order of schema.sql's `clicks`: the fixed-width ones first, so that the shipper finds link, flags and
time of every row without walking it. Format: PostgreSQL manual, COPY, "Binary Format"; inet and jsonb as their own binary
send functions write them (src/backend/utils/adt/network.c, jsonb.c).
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from struct import Struct
from typing import Final

from tracker.storage.spool.segments import Column

_UUID, _INT4, _INT8, _TEXT, _INET, _JSONB = 2950, 23, 20, 25, 869, 3802     # pg_type oids, the same in every database

CLICK_COLUMNS: Final = (
    Column("click_id", _UUID),
    *(Column(name, _INT4) for name in ("link_id", "link_version", "program_id", "partner_id", "flags")),
    Column("visitor", _INT8),
    Column("channel", _TEXT),
    Column("country", _TEXT),
    Column("ip", _INET),
    *(Column(name, _TEXT) for name in ("device", "os", "browser", "user_agent", "referrer")),
    *(Column(f"sub{n}", _TEXT) for n in range(1, 11)),
    Column("ext", _TEXT),
    Column("query", _JSONB),
)

BOT, PREFETCH, HEAD, TEST, CLEANED, FALLBACK, BEACON = 1, 2, 4, 8, 16, 32, 64     # bits of `flags`

NULL: Final = b"\xff\xff\xff\xff"
LENGTH: Final = tuple(n.to_bytes(4, "big") for n in range(2049))     # no text of a click is longer
_FIXED: Final = Struct(">hi16siiiiiiiiiiiq").pack
_COUNT: Final = len(CLICK_COLUMNS)


def fixed_columns(
    click_id: bytes, link_id: int, link_version: int, program_id: int, partner_id: int, flags: int, visitor: int
) -> bytes:
    """The beginning of a row: the column count and the seven fixed-width columns (70 bytes)."""
    return _FIXED(_COUNT, 16, click_id, 4, link_id, 4, link_version, 4, program_id, 4, partner_id, 4, flags, 8, visitor)


def text(value: bytes | None) -> bytes:
    """A text column: clean UTF-8 of at most 2,048 bytes, or null."""
    return NULL if value is None else LENGTH[len(value)] + value


def jsonb(document: bytes) -> bytes:
    """A jsonb column from JSON text."""
    return (len(document) + 1).to_bytes(4, "big") + b"\x01" + document


def inet(address: IPv4Address | IPv6Address | None, prefix: int) -> bytes:
    """An inet column: `address` with its host bits beyond `prefix` cleared."""
    if address is None:
        return NULL
    family = 2 if address.version == 4 else 3
    keep = address.max_prefixlen - prefix
    packed = (int(address) >> keep << keep).to_bytes(address.max_prefixlen // 8, "big")
    return (4 + len(packed)).to_bytes(4, "big") + bytes((family, prefix, 0, len(packed))) + packed
