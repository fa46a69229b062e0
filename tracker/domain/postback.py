"""A postback: what someone told us. A message, not yet a fact; facts are conversions (conversion.py).

Made once at the door, where names are translated, amounts checked and the caller authenticated; cropped and clean from
then on. Its JSON form is what the journal, `pending` and the postback log keep: secrets never get this far.
"""

from __future__ import annotations

from decimal import Decimal
from enum import IntEnum
from typing import Any
from uuid import UUID

from tracker.domain.values import valueclass


class Status(IntEnum):
    """A conversion's status; the number is its rank in the order rules (DESIGN section 5, "Order")."""

    PENDING = 0
    APPROVED = 1
    REJECTED = 2
    REVERSED = 3

    @property
    def word(self) -> str:
        return _WORDS[self]


_WORDS = ("pending", "approved", "rejected", "reversed")
STATUS_BY_WORD = {status.word: status for status in Status}

DEFAULT_EVENT = "sale"

_ID: tuple[type, int] = (int, 2**31 - 1)
_MS: tuple[type, int] = (int, 253_402_300_799_999)   # the year 9999
_TEXT: tuple[type, int] = (str, 0)
_TRUE: tuple[type, int] = (bool, 1)
_JSON_TYPES = {
    "received_ms": _MS, "ts_ms": _MS, "program_id": _ID, "link_id": _ID, "credential_id": _ID, "click_id": _TEXT,
    "event": _TEXT, "txid": _TEXT, "event_id": _TEXT, "amount": _TEXT, "currency": _TEXT, "status": _TEXT,
    "customer": _TEXT, "coupon": _TEXT, "test": _TRUE, "limited": _TRUE,
}


@valueclass(frozen=True, slots=True, kw_only=True)
class Postback:
    """One authenticated message. Times are ms since the Unix epoch; `amount` and `currency` come together or not at all."""

    message_id: bytes            # 16: spool id (8), sequence number in its journal (8)
    received_ms: int
    program_id: int | None       # None: the click's link is unknown here, control will find out
    click_id: bytes | None       # 16: the stored uuid of a verified id
    link_id: int | None          # from inside the click id
    test: bool = False           # of a test click: nothing is ever owed
    event: str = DEFAULT_EVENT   # NFC, casefolded
    txid: str | None = None      # NFC, trimmed
    event_id: str | None = None  # tells several conversions of one key apart, where the program allows it
    amount: Decimal | None = None
    currency: str | None = None
    status: Status | None = None
    ts_ms: int | None = None
    customer: str | None = None
    coupon: str | None = None
    credential_id: int | None = None
    limited: bool = False        # mode open, or from a browser: may create a pending conversion, never changes one

    def to_json(self) -> dict[str, Any]:
        """JSON form; absent fields are left out, the amount is a decimal string, ids are hex. Without the message id."""
        out: dict[str, Any] = {"received_ms": self.received_ms, "event": self.event}
        for name in ("program_id", "link_id", "txid", "event_id", "currency", "ts_ms", "customer", "coupon", "credential_id"):
            value = getattr(self, name)
            if value is not None:
                out[name] = value
        if self.click_id is not None:
            out["click_id"] = self.click_id.hex()
        if self.amount is not None:
            out["amount"] = str(self.amount)
        if self.status is not None:
            out["status"] = self.status.word
        if self.test:
            out["test"] = True
        if self.limited:
            out["limited"] = True
        return out

    @classmethod
    def from_json(cls, message_id: bytes, data: dict[str, Any]) -> Postback:
        """The inverse of to_json. ValueError, TypeError, LookupError or ArithmeticError for what is no message.

        Unknown fields are left out: a program rolled back goes on with what a newer one wrote. So a field without which the
        others would mean something else takes a new version of the journal's rows.
        """
        fields = {name: value for name, value in data.items() if name in _JSON_TYPES}
        for name, value in fields.items():
            kind, most = _JSON_TYPES[name]
            if type(value) is not kind or (isinstance(value, int) and not 0 <= value <= most):
                raise ValueError(f"{name} is no {kind.__name__} of ours")
        if "click_id" in fields:
            fields["click_id"] = UUID(hex=fields["click_id"]).bytes
        if "amount" in fields:
            fields["amount"] = Decimal(fields["amount"])
        if "status" in fields:
            fields["status"] = STATUS_BY_WORD[fields["status"]]
        return cls(
            message_id=message_id,
            **{"program_id": None, "click_id": None, "link_id": None, **fields},
        )
