"""What may be stored of bytes a stranger sent: UTF-8 without NUL, of bounded length. PostgreSQL refuses anything else."""

from __future__ import annotations


def storable(raw: bytes, limit: int) -> tuple[bytes, bool]:
    """At most `limit` bytes of it, and whether anything had to change: NUL and invalid bytes become U+FFFD."""
    if len(raw) <= limit and 0 not in raw and raw.isascii():
        return raw, False
    text = raw.decode("utf-8", "replace").replace("\0", "\ufffd").encode()
    if len(text) > limit:
        text = text[:limit].decode("utf-8", "ignore").encode()
    return text, text != raw
