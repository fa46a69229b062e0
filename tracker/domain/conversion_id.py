"""Conversion ids are derived, not drawn: the same sale has the same id on every machine, without asking anyone.

So the primary key is the deduplication, and an answer can name the id while PostgreSQL is away. The rule is published
(DESIGN section 5; vectors in tests/vectors/conversion_ids.json): changing one byte of it would pay every sale twice.
"""

from __future__ import annotations

import hashlib
import unicodedata
from dataclasses import field
from functools import lru_cache

from tracker.domain.postback import DEFAULT_EVENT, Postback
from tracker.domain.values import valueclass


def canonical_event(text: str | None) -> str:
    """How an event is written: trimmed, NFC, casefolded; missing or blank: sale. "SALE" and "sale" are one event."""
    return unicodedata.normalize("NFC", (text or "").strip()).casefold() or DEFAULT_EVENT


def canonical_txid(text: str | None) -> str | None:
    """How an order number is written: NFC, trimmed, case kept (shops' numbers tell case apart); blank: none."""
    return unicodedata.normalize("NFC", text or "").strip() or None


@valueclass(frozen=True, slots=True)
class ConversionKey:
    """What makes two messages speak of one conversion. Texts are canonical; ValueError with neither `txid` nor `click_id`."""

    program_id: int
    event: str
    txid: str | None
    click_id: bytes | None       # 16 bytes, only when there is no txid
    discriminator: str = ""
    conversion_id: bytes = field(init=False, repr=False, compare=False)   # 16

    def __post_init__(self) -> None:
        """Derive the id: blake2b over the parts, each behind its length as u32 big-endian."""
        framed = b"".join(len(part).to_bytes(4, "big") + part for part in self._parts())
        object.__setattr__(self, "conversion_id", hashlib.blake2b(framed, digest_size=16).digest())

    def _parts(self) -> tuple[bytes, ...]:
        if self.txid is not None:
            named = (b"txid", self.txid.encode())
        elif self.click_id is not None:
            named = (b"click", self.click_id)
        else:
            raise ValueError("a conversion needs a txid or a click")
        return (str(self.program_id).encode(), self.event.encode(), *named, self.discriminator.encode())


def key_of(message: Postback, *, several_per_key: bool) -> ConversionKey:
    """The key a message speaks of. `several_per_key` is the program's setting.

    Where the program allows several conversions per key, the message's event id tells them apart, else its journal id:
    a replay of the journal never doubles, but a sender's own repetition without event id is a new conversion there.
    Raises ValueError for a message without program, or with neither txid nor click.
    """
    if message.program_id is None:
        raise ValueError("a message without program has no key yet")
    discriminator = (message.event_id or message.message_id.hex()) if several_per_key else ""
    click_id = None if message.txid is not None else message.click_id
    return _key(message.program_id, message.event, message.txid, click_id, discriminator)


_key = lru_cache(maxsize=2048)(ConversionKey)      # a message's key is asked for up to three times while it is recorded
