"""Conversions as rows of conversion_state, and back. Pure: no statement and no connection may live here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

import orjson

from tracker.domain.attribution import Credit
from tracker.domain.commission import Money
from tracker.domain.conversion import AdminDecision, Conversion, Timed
from tracker.domain.conversion_id import ConversionKey
from tracker.domain.postback import STATUS_BY_WORD, Status
from tracker.storage.postgres import Record, as_uuid

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MS: Final = timedelta(milliseconds=1)

KEY_COLUMNS: Final = ("conversion_id", "program_id", "event", "txid", "key_click_id", "discriminator")


@lru_cache(maxsize=1024)      # messages that came together have theirs in common, and each writes it three times
def moment(ms: int | None) -> datetime | None:
    """Milliseconds since the epoch as the driver wants them, exactly. OverflowError beyond the year 9999."""
    return None if ms is None else _EPOCH + timedelta(milliseconds=ms)


def ms_of(at: datetime) -> int:
    """The inverse of `moment`; microseconds are cut."""
    return (at - _EPOCH) // _MS


def uuid_of(id_: bytes | None) -> UUID | None:
    """The 16 bytes as the driver wants them."""
    return None if id_ is None else as_uuid(id_)


def key_id(key: ConversionKey | None) -> UUID | None:
    """The conversion's id as the driver wants it; None while the key is unknown."""
    return None if key is None else as_uuid(key.conversion_id)


def columns(rows: Iterable[Sequence[Any]], count: int) -> list[list[Any]]:
    """Rows turned into `count` arrays, one a column: what unnest takes."""
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(count)]


def as_json(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Rows as the document that the statements of sql.py take. Ids in hex; amounts become texts, never floats. None is left
    out, which PostgreSQL reads as null: it is half of what there is to read."""
    documents = [{name: value for name, value in zip(names, row, strict=True) if value is not None} for row in rows]
    return orjson.dumps(documents, default=str).decode()


def hex_of(id_: bytes | None) -> str | None:
    """The 16 bytes as as_json wants them."""
    return None if id_ is None else id_.hex()


def key_parts(key: ConversionKey) -> tuple[Any, ...]:
    """Of KEY_COLUMNS: the id and the parts it is derived from, as the driver wants and gives them."""
    return (
        as_uuid(key.conversion_id), key.program_id, key.event, key.txid, uuid_of(key.click_id), key.discriminator
    )


def state_row(conversion: Conversion) -> tuple[Any, ...]:
    """One row, in the order of sql.STATE, for as_json."""
    key, timed, admin, credit = conversion.key, conversion.timed, conversion.admin, conversion.credit
    saw = admin.saw_timed if admin else None
    return (
        key.conversion_id.hex(), key.program_id, key.event, key.txid, hex_of(key.click_id), key.discriminator,
        _word(conversion.untimed), timed and timed.status.word, moment(timed.ts_ms) if timed else None,
        admin and admin.status.word, admin and admin.reason, _word(admin.saw_untimed) if admin else None,
        saw and saw.status.word, moment(saw.ts_ms) if saw else None,
        conversion.status.word, conversion.amount, conversion.currency,
        hex_of(conversion.click_id), conversion.link_id, conversion.coupon,
        credit.partner_id, credit.kind, credit.reason,
        moment(conversion.told_ms), moment(conversion.heard_ms),
        conversion.owed.amount, conversion.owed.currency, conversion.last_entry, conversion.test, conversion.unconfirmed,
    )


def conversion_of(row: Record, key: ConversionKey) -> Conversion:
    """A stored conversion. ValueError when the row's parts are not the key's: one id for two keys, which cannot be."""
    if tuple(row[name] for name in KEY_COLUMNS) != key_parts(key):
        raise ValueError(f"conversion {row['conversion_id']} was derived from other parts")
    admin = None
    if row["admin_status"] is not None:
        admin = AdminDecision(
            STATUS_BY_WORD[row["admin_status"]], row["admin_reason"], _status(row["admin_saw_untimed"]),
            _timed(row["admin_saw_timed"], row["admin_saw_timed_at"]),
        )
    return Conversion(
        key=key, heard_ms=ms_of(row["heard_at"]), told_ms=row["told_at"] and ms_of(row["told_at"]),
        untimed=_status(row["untimed_status"]), timed=_timed(row["timed_status"], row["timed_at"]), admin=admin,
        amount=row["amount"], currency=row["currency"],
        click_id=row["click_id"] and row["click_id"].bytes, link_id=row["link_id"], test=row["test"],
        coupon=row["coupon"], unconfirmed=row["unconfirmed"], status=STATUS_BY_WORD[row["status"]],
        credit=Credit(row["credit"], row["credit_reason"], row["partner_id"]),
        owed=Money(row["commission_owed"], row["commission_currency"]), last_entry=row["last_entry"],
    )


def key_of_row(row: Record) -> ConversionKey:
    """The key a stored conversion was derived from."""
    click_id = row["key_click_id"]
    return ConversionKey(row["program_id"], row["event"], row["txid"], click_id and click_id.bytes, row["discriminator"])


def _word(status: Status | None) -> str | None:
    return None if status is None else status.word


def _status(word: str | None) -> Status | None:
    return None if word is None else STATUS_BY_WORD[word]


def _timed(word: str | None, at: datetime | None) -> Timed | None:
    return None if word is None or at is None else Timed(ms_of(at), STATUS_BY_WORD[word])
