"""The catalog on disk: what an edge that starts while PostgreSQL is away serves from.

A file of lines: a header, one line a row (kind, space, the row's JSON), and a checksum over all that. Mode 0600, since
HMAC secrets are in it. Written beside its place and renamed, so a reader sees an old one or a new one, never half;
several workers share one, the last one wins. A snapshot that does not check is no snapshot: it is never half believed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import time
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

import orjson

from tracker.storage.catalog.memory import CatalogMemory
from tracker.storage.catalog.pace import Pace, uncollected
from tracker.storage.catalog.sql import KINDS, Kind

NAME = "catalog.snapshot"
_HEADER = b"tracker catalog 1\n"   # raise the number when a row's columns change: an old file is then ignored
_DIGEST_BYTES = 32
_END_BYTES = len(b"end ") + 2 * _DIGEST_BYTES + len(b"\n")
_CHUNK_ROWS = 500                  # some 150 kB: a fraction of a millisecond to join, hash and write
_LEFTOVER_SECONDS = 3600           # no writer lives that long: a temporary file this old is a killed one's


class BadSnapshotError(Exception):
    """There is a snapshot and it cannot be believed; the message says why."""


async def write(folder: Path, memory: CatalogMemory) -> None:
    """Replace the folder's snapshot by what is known now. Raises OSError; then the old one is still there."""
    rows = [(kind, list(memory.rows[kind].values())) for kind in KINDS]
    _remove_leftovers(folder)
    place = folder / f"{NAME}.{secrets.token_hex(8)}.tmp"
    digest = blake2b(_HEADER, digest_size=_DIGEST_BYTES)
    try:
        with os.fdopen(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
            file.write(_HEADER)
            for kind, encoded in rows:
                prefix = kind.encode() + b" "
                for start in range(0, len(encoded), _CHUNK_ROWS):
                    chunk = b"".join(prefix + row + b"\n" for row in encoded[start : start + _CHUNK_ROWS])
                    digest.update(chunk)
                    file.write(chunk)
                    await asyncio.sleep(0)
            file.write(_end(digest))
            file.flush()
            await asyncio.to_thread(os.fsync, file.fileno())
        place.replace(folder / NAME)
    finally:
        place.unlink(missing_ok=True)


async def read(folder: Path, memory: CatalogMemory) -> int:
    """Take in the folder's snapshot; how many rows it had. Raises FileNotFoundError, OSError, BadSnapshotError.

    Kinds we do not know are passed over: a newer program wrote them, and what came before it must be able to start.
    """
    with (folder / NAME).open("rb") as file:
        left = await _checked(file)
        pace = Pace()
        kinds: dict[bytes, Kind] = {kind.encode(): kind for kind in KINDS}
        taken = 0
        with uncollected():
            file.seek(len(_HEADER))
            while left > 0:
                line = file.readline()
                left -= len(line)
                name, _, row = line.partition(b" ")
                if (kind := kinds.get(name)) is not None:
                    memory.put(kind, orjson.loads(row))
                    taken += 1
                await pace.rest()
    return taken


async def _checked(file: BinaryIO) -> int:
    """How many bytes of rows there are between header and checksum. Raises BadSnapshotError."""
    end = file.seek(0, os.SEEK_END) - _END_BYTES
    file.seek(0)
    digest = blake2b(digest_size=_DIGEST_BYTES)
    headed = file.read(len(_HEADER)) == _HEADER
    digest.update(_HEADER)
    while (left := end - file.tell()) > 0:
        digest.update(file.read(min(left, 1 << 20)))
        await asyncio.sleep(0)
    if not headed or file.read() != _end(digest):
        raise BadSnapshotError("its checksum or version is wrong")
    return end - len(_HEADER)


def _end(digest: blake2b) -> bytes:
    return b"end " + digest.hexdigest().encode() + b"\n"


def _remove_leftovers(folder: Path) -> None:
    oldest = time.time() - _LEFTOVER_SECONDS
    for place in folder.glob(f"{NAME}.*.tmp"):
        with contextlib.suppress(OSError):   # another worker was faster
            if place.stat().st_mtime < oldest:
                place.unlink()
