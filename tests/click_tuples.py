"""Rows of clicks taken apart, and everything checked that PostgreSQL would refuse: a poisonous row costs its neighbours."""

from __future__ import annotations

import struct
from collections.abc import Callable
from ipaddress import ip_network
from typing import Any

import orjson

from tracker.storage.clicks.rows import CLICK_COLUMNS


def fixed_columns(
    click_id: bytes, link_id: int, link_version: int, program_id: int, partner_id: int, flags: int, visitor: int
) -> bytes:
    """The beginning of a row: the column count and the seven fixed-width columns."""
    numbers = (4, link_id, 4, link_version, 4, program_id, 4, partner_id, 4, flags)
    return struct.pack(">hi16siqiiiiiiiiii", len(CLICK_COLUMNS), 16, click_id, 8, visitor, *numbers)


def decode_row(row: bytes) -> dict[str, Any]:
    """A COPY tuple taken apart by column name. Fails on whatever PostgreSQL would refuse: bad UTF-8, NUL, wrong lengths."""
    columns, position = struct.unpack_from(">h", row)[0], 2
    values: dict[str, Any] = {}
    assert len(CLICK_COLUMNS) == columns
    for column in CLICK_COLUMNS:
        (length,) = struct.unpack_from(">i", row, position)
        position += 4
        raw = None if length < 0 else row[position:position + length]
        assert raw is None or len(raw) == length
        position += max(length, 0)
        values[column.name] = None if raw is None else _DECODE[column.oid](raw)
    assert len(row) == position
    return values


def _text(raw: bytes) -> str:
    assert b"\0" not in raw
    return raw.decode()


def _jsonb(raw: bytes) -> Any:
    assert raw[:1] == b"\x01"
    assert rb"\u0000" not in raw.replace(rb"\\", b"")
    return orjson.loads(raw[1:])


def _inet(raw: bytes) -> str:
    family, bits, cidr, length = raw[:4]
    assert (length, cidr) == ({2: 4, 3: 16}[family], 0) and length == len(raw) - 4
    network = ip_network((raw[4:], bits))     # strict: raises when bits beyond the mask are set
    return str(network) if bits < 8 * length else str(network.network_address)


_DECODE: dict[int, Callable[[bytes], Any]] = {
    2950: bytes, 17: bytes, 23: lambda raw: struct.unpack(">i", raw)[0], 20: lambda raw: struct.unpack(">q", raw)[0],
    25: _text, 869: _inet, 3802: _jsonb,
}
