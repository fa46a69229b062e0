"""The click's row as PostgreSQL takes it: a binary COPY tuple, made once, spooled and shipped as it is.

Columns stand in the order of schema.sql's `clicks`: the fixed-width ones first, so that the shipper finds link, flags and
time of every row without walking it. What does not change from click to click is made once and joined (a link's four
numbers: Link.columns); 0.3 µs, where packing all of it anew took 0.55. Format: PostgreSQL manual, COPY, "Binary Format"; inet and
jsonb as their own binary send functions write them (src/backend/utils/adt/network.c, jsonb.c).
"""

from __future__ import annotations

from hashlib import blake2b
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from tracker.storage.spool.segments import Column

_UUID, _INT4, _INT8, _TEXT, _BYTEA, _INET, _JSONB = 2950, 23, 20, 25, 17, 869, 3802   # pg_type oids, the same in every database

CLICK_COLUMNS: Final = (
    Column("click_id", _UUID),
    Column("visitor", _INT8),
    *(Column(name, _INT4) for name in ("link_id", "link_version", "program_id", "partner_id", "flags")),
    *(Column(name, _TEXT) for name in ("channel", "country", "device")),
    Column("ip", _INET),
    *(Column(name, _TEXT) for name in ("os", "browser")),
    Column("agent_key", _BYTEA),
    Column("user_agent", _TEXT),
    Column("referrer_key", _BYTEA),
    Column("referrer", _TEXT),
    *(Column(f"sub{n}", _TEXT) for n in range(1, 11)),
    Column("ext", _TEXT),
    Column("query", _JSONB),
)

BOT, PREFETCH, HEAD, TEST, CLEANED, FALLBACK, BEACON, FLOOD = 1, 2, 4, 8, 16, 32, 64, 128     # bits of `flags`

NULL: Final = b"\xff\xff\xff\xff"
LENGTH: Final = tuple(n.to_bytes(4, "big") for n in range(2049))     # no text of a click is longer
ROW_HEAD: Final = len(CLICK_COLUMNS).to_bytes(2, "big") + LENGTH[16]     # then the click id's 16 bytes
VISITOR_HEAD: Final = LENGTH[8]                                          # then the visitor's 8
FLAGS: Final = tuple(LENGTH[4] + flags.to_bytes(4, "big") for flags in range(2 * FLOOD))      # the column, by its value


def keyed(value: bytes | None) -> tuple[bytes, bytes]:
    """Columns of a text that many rows have, with its key: for the row that says it, and for those that only refer to it.

    Six bytes of BLAKE2b: of a day's 16,000 different texts two would have the same key once in two million days.
    """
    if value is None:
        return NULL + NULL, NULL + NULL
    key = LENGTH[6] + blake2b(value, digest_size=6).digest()
    return key + text(value), key + NULL


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
