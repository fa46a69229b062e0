"""What partners are told: which step of a conversion is news to whom, and the signed request that says it.

A partner is told the status of what is credited to him and what he is owed for it, each time one of them changes. Not of
what only a browser or an open door has claimed: anybody could fill his tracker with such sales; once confirmed, it is news.
Sales of test clicks are sent, with nothing owed: a URL that was never tried fails first with a real sale. Who loses a
credit hears `reversed` of what was approved and `rejected` of what was pending: to him it is that.

Requests follow Standard Webhooks 1.0.0 (standardwebhooks.com): `webhook-id`, `webhook-timestamp`, `webhook-signature`. What
is signed is the body; of a GET, which has none, the target (path and query) as it is sent.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, Literal, get_args
from urllib.parse import urlsplit
from uuid import UUID

from tracker.domain.attribution import was_spooled
from tracker.domain.commission import NOTHING, Money
from tracker.domain.conversion import Conversion, Step
from tracker.domain.endpoint import Endpoint
from tracker.domain.link import Template, percent_encode
from tracker.domain.money import round_to_currency
from tracker.domain.postback import Status
from tracker.domain.values import valueclass

Outcome = Literal["sent", "status", "timeout", "connection", "tls", "unresolved", "refused", "too_long"]
OUTCOMES: Final[tuple[Outcome, ...]] = get_args(Outcome)
"""How an attempt ends. status: an answer other than 2xx; tls: no certificate that we trust; unresolved: the name has no
address; refused: one that may not be reached; too_long: an answer that was cut."""

Fields = Mapping[str, str | None]


@valueclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """One row of the outbox: a step that an endpoint hears of."""

    conversion_id: bytes
    entry: int                    # of the step in the conversion's history
    endpoint_id: int
    partner_id: int
    program_id: int
    link_id: int | None           # this and the click: of his own click only, never of the one that a coupon outdid
    click_id: bytes | None
    awaits_click: bool            # its row has not come yet, and may
    said: dict[str, str | bool | None]


def news(before: Conversion | None, step: Step, endpoints: Mapping[int, Sequence[Endpoint]]) -> list[Outgoing]:
    """What a step has to tell, to whom. `endpoints` by partner."""
    if not endpoints or not step.history:
        return []
    after = step.after
    was, now = _shown(before), _shown(after)
    told = []
    if now is not None and now != was:
        told += _tell(after, after.status, after.owed, before, step, endpoints)
    if before is not None and was is not None and (now is None or now[0] != was[0]) and before.status < Status.REJECTED:
        lost = Status.REVERSED if before.status is Status.APPROVED else Status.REJECTED
        told += _tell(before, lost, NOTHING, before, step, endpoints)
    return told


def _shown(conversion: Conversion | None) -> tuple[int, Status, Money] | None:
    """What its partner may know: who, status, commission."""
    if conversion is None or conversion.credit.partner_id is None:
        return None
    if conversion.unconfirmed and conversion.status is Status.PENDING:
        return None
    return conversion.credit.partner_id, conversion.status, conversion.owed


def _tell(
    about: Conversion, status: Status, owed: Money, before: Conversion | None, step: Step,
    endpoints: Mapping[int, Sequence[Endpoint]],
) -> list[Outgoing]:  # fmt: skip
    """To each endpoint of the partner credited by `about` that wants it."""
    partner_id, key = about.credit.partner_id, about.key
    assert partner_id is not None
    wanting = [one for one in endpoints.get(partner_id, ()) if one.wants(key.program_id, key.event, status.word)]
    if not wanting:
        return []
    own = about.credit.kind in ("click", "id")
    currency = owed.currency or (before and before.owed.currency) or about.currency
    said: dict[str, str | bool | None] = {
        "event": key.event, "txid": key.txid, "status": status.word,
        "amount": _text(about.amount, about.currency), "currency": about.currency,
        "commission": _text(owed.amount, currency), "commission_currency": currency, "test": about.test,
    }  # fmt: skip
    click_id = about.click_id if own else None
    return [
        Outgoing(
            conversion_id=key.conversion_id, entry=step.history[0].entry, endpoint_id=one.endpoint_id, partner_id=partner_id,
            program_id=key.program_id, link_id=about.link_id if own else None, click_id=click_id,
            awaits_click=click_id is not None and about.credit.kind == "id" and was_spooled(click_id), said=said,
        )
        for one in wanting
    ]  # fmt: skip


def _text(amount: Decimal | None, currency: str | None) -> str | None:
    if amount is None:
        return None
    return f"{amount.normalize():f}" if currency is None else f"{round_to_currency(amount, currency):f}"


@valueclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One attempt. `fields`: a value for every macro, None where there is none; `sent_at` in seconds since the epoch."""

    message_id: str
    template: Template
    method: str
    secret: bytes
    fields: Fields
    test: bool
    decided_at: datetime
    sent_at: int


@valueclass(frozen=True, slots=True)
class Request:
    """What goes out, byte for byte."""

    method: str
    url: str
    headers: dict[str, str]
    body: bytes | None


def message_id(conversion_id: UUID, entry: int, endpoint_id: int) -> str:
    """The same in every attempt, so that receivers can tell a repetition. Without full stops, which the signature needs."""
    return f"{conversion_id.hex}-{entry}-{endpoint_id}"


def compose(delivery: Delivery) -> Request:
    """The request. No value can leave its place: all are percent-encoded, or JSON strings."""
    url = delivery.template.fill(lambda slot: percent_encode((delivery.fields.get(slot) or "").encode())).decode()
    body = _body(delivery) if delivery.method == "POST" else None
    headers = {
        "Accept": "*/*",
        "Accept-Encoding": "identity",     # nobody makes 64 kB into 64 MB here
        "User-Agent": "Tracker",
        "webhook-id": delivery.message_id,
        "webhook-timestamp": str(delivery.sent_at),
        "webhook-signature": signature(delivery, _target(url) if body is None else body),
    }
    if body is not None:
        headers["Content-Type"] = "application/json"
    return Request(delivery.method, url, headers, body)


def signature(delivery: Delivery, content: bytes) -> str:
    """`v1,` and base64 of HMAC-SHA256 over id, timestamp and content."""
    signed = b".".join((delivery.message_id.encode(), str(delivery.sent_at).encode(), content))
    return "v1," + base64.b64encode(hmac.digest(delivery.secret, signed, hashlib.sha256)).decode()


def secret_text(secret: bytes) -> str:
    """As people and the libraries of Standard Webhooks pass it on."""
    return "whsec_" + base64.b64encode(secret).decode()


def _target(url: str) -> bytes:
    parts = urlsplit(url)
    return (parts.path + ("?" + parts.query if parts.query else "")).encode()


def _body(delivery: Delivery) -> bytes:
    data: dict[str, Any] = {**delivery.fields, "test": delivery.test}
    at = delivery.decided_at.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return json.dumps({"type": f"conversion.{delivery.fields['status']}", "timestamp": at, "data": data}).encode()
