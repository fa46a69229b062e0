"""What a postback's sender is told: one table from reasons to statuses, and the two bodies there are.

200 means kept. 4xx only where sending the same again can never help, since many senders never try twice and some stop
for good; 503 and 429 ask them to. Texts are constants: nothing a request says comes back in an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import orjson
from aiohttp import web

from tracker.domain.refusal import Reason
from tracker.domain.values import valueclass

RETRY_AFTER_SECONDS = 5
AGAIN = (429, 503)      # statuses that ask to send the same again, later

ANSWERS: dict[Reason, tuple[int, str, str]] = {
    Reason.PREFETCH: (400, "prefetch", "A prefetch is no postback"),
    Reason.CONTENT_ENCODING: (400, "content_encoding", "Send the body without Content-Encoding"),
    Reason.UNSUPPORTED_TYPE: (415, "unsupported_type", "Send a form (application/x-www-form-urlencoded) or JSON"),
    Reason.TOO_LARGE: (413, "too_large", "The body is too large"),
    Reason.SLOW_BODY: (408, "slow_body", "The body took too long to arrive"),
    Reason.BAD_BODY: (400, "bad_body", "The body cannot be read"),
    Reason.BAD_IDEMPOTENCY_KEY: (400, "bad_idempotency_key", "Idempotency-Key: 1 to 128 visible ASCII characters"),
    Reason.TOO_MANY_PARAMETERS: (400, "too_many_parameters", "More than 64 parameters"),
    Reason.REPEATED_PARAMETER: (400, "repeated_parameter", "One parameter has two values"),
    Reason.MISSING_CLICK_ID: (400, "missing_click_id", "Give click_id, or program and txid"),
    Reason.UNFILLED_MACRO: (400, "missing_click_id", "A macro was not filled in: give click_id, or program and txid"),
    Reason.TRUNCATED: (400, "bad_click_id", "The click id is cut off"),
    Reason.FOREIGN_FORMAT: (400, "bad_click_id", "This is no click id of ours"),
    Reason.FORGED: (400, "bad_click_id", "This is no click id of ours"),
    Reason.UNKNOWN_KEY: (400, "bad_click_id", "This is no click id of ours"),
    Reason.MISSING_TXID: (400, "missing_txid", "Without click_id a postback needs txid"),
    Reason.MISSING_TOKEN: (401, "bad_token", "Nothing says who sends this"),
    Reason.BAD_TOKEN: (401, "bad_token", "The token is not valid"),
    Reason.BAD_SIGNATURE: (401, "bad_signature", "The signature is not valid"),
    Reason.EXPIRED: (401, "expired", "The signature's timestamp is more than 300 seconds away"),
    Reason.IP_DENIED: (403, "ip_denied", "This address may not send postbacks for the program"),
    Reason.WRONG_PROGRAM: (403, "wrong_program", "The click, the program and the credential do not go together"),
    Reason.UNKNOWN_PROGRAM: (403, "wrong_program", "The click, the program and the credential do not go together"),
    Reason.RATE_LIMITED: (429, "rate_limited", "Too many messages at once; please send it again"),
    Reason.BAD_TXID: (400, "bad_txid", "txid: at most 256 characters of valid UTF-8"),
    Reason.BAD_EVENT: (400, "bad_event", "event: at most 64 characters of valid UTF-8"),
    Reason.BAD_EVENT_ID: (400, "bad_event_id", "event_id: at most 160 characters of valid UTF-8"),
    Reason.BAD_AMOUNT: (400, "bad_amount", "amount: digits, at most one point, at most 6 decimals, below 10^12"),
    Reason.BAD_CURRENCY: (400, "bad_currency", "currency: a code of ISO 4217"),
    Reason.BAD_STATUS: (400, "bad_status", "status: pending, approved, rejected or reversed"),
    Reason.BAD_TS: (400, "bad_ts", "ts: Unix seconds or milliseconds, or RFC 3339 with a zone; not in the future"),
    Reason.PENDING_CAP: (429, "pending_cap", "The program takes no more unconfirmed conversions today"),
    Reason.UNAVAILABLE: (503, "unavailable", "Nothing was kept; please send it again"),
}


@valueclass(frozen=True, slots=True)
class Kept:
    """A message that is kept: what became of it, its conversion, and what its sender should know."""

    status: str                      # recorded, updated, duplicate, conflict, pending_click, queued
    conversion_id: UUID | None       # None: the click's link is not known here yet
    reason: str | None = None        # what conflicts
    absent: Sequence[str] = ()       # parameters that came empty or as unfilled macros


@valueclass(frozen=True, slots=True)
class NotKept:
    """A message that is refused."""

    reason: Reason
    absent: Sequence[str] = ()


Outcome = Kept | NotKept

JSON, PROBLEM_JSON = "application/json", "application/problem+json"


def status_of(outcome: Outcome) -> int:
    """The HTTP status of an outcome."""
    return 200 if isinstance(outcome, Kept) else ANSWERS[outcome.reason][0]


def body_of(outcome: Outcome) -> dict[str, Any]:
    """The JSON of an outcome: the contract's two members, or a problem of RFC 9457."""
    if isinstance(outcome, Kept):
        body: dict[str, Any] = {
            "status": outcome.status,
            "conversion_id": None if outcome.conversion_id is None else str(outcome.conversion_id),
        }
        if outcome.reason is not None:
            body["reason"] = outcome.reason
    else:
        status, code, title = ANSWERS[outcome.reason]
        body = {"type": "about:blank", "title": title, "status": status, "code": code, "reason": outcome.reason.value}
    if outcome.absent:
        body["absent"] = list(outcome.absent)
    return body


def headers_of(status: int) -> dict[str, str]:
    """Of every answer to one message. None may be stored: a cached postback is a sale that is not counted."""
    headers = {"Content-Type": JSON if status == 200 else PROBLEM_JSON, "Cache-Control": "no-store"}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    elif status in AGAIN:
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return headers


def answer(outcome: Outcome) -> web.Response:
    """The response to one message."""
    return answer_json(body_of(outcome), status_of(outcome))


def answer_json(body: Any, status: int = 200) -> web.Response:
    """Any JSON."""
    return web.Response(body=orjson.dumps(body), status=status, headers=headers_of(status))


def answer_method_not_allowed(allowed: str) -> web.Response:
    """HEAD and whatever else: neither a link checker nor a preview may convert."""
    problem = {"type": "about:blank", "title": "Method not allowed", "status": 405, "code": "method_not_allowed"}
    response = answer_json(problem, 405)
    response.headers["Allow"] = allowed
    return response
