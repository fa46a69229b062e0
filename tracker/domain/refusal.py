"""Why a postback is not taken: one closed list of reasons, for metrics, for the postback log, and to choose the answer.

It exists so that "exactly one outcome each" can be counted and read. HTTP statuses live in web/.
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """A refusal's reason. Published in metrics, the log and reports: a value never changes."""

    # What the request looked like
    PREFETCH = "prefetch"
    CONTENT_ENCODING = "content_encoding"
    UNSUPPORTED_TYPE = "unsupported_type"
    TOO_LARGE = "too_large"
    SLOW_BODY = "slow_body"
    BAD_BODY = "bad_body"
    BAD_IDEMPOTENCY_KEY = "bad_idempotency_key"
    TOO_MANY_PARAMETERS = "too_many_parameters"
    REPEATED_PARAMETER = "repeated_parameter"
    # What it speaks of
    MISSING_CLICK_ID = "missing_click_id"
    UNFILLED_MACRO = "unfilled_macro"
    TRUNCATED = "truncated"
    FOREIGN_FORMAT = "foreign_format"
    FORGED = "forged"
    UNKNOWN_KEY = "unknown_key"
    MISSING_TXID = "missing_txid"
    # Who says so
    MISSING_TOKEN = "missing_token"  # noqa: S105  a reason, not a password
    BAD_TOKEN = "bad_token"  # noqa: S105
    BAD_SIGNATURE = "bad_signature"
    EXPIRED = "expired"
    IP_DENIED = "ip_denied"
    WRONG_PROGRAM = "wrong_program"
    UNKNOWN_PROGRAM = "unknown_program"
    RATE_LIMITED = "rate_limited"
    # What it says, read only after its sender is known
    BAD_TXID = "bad_txid"
    BAD_EVENT = "bad_event"
    BAD_EVENT_ID = "bad_event_id"
    BAD_AMOUNT = "bad_amount"
    BAD_CURRENCY = "bad_currency"
    BAD_STATUS = "bad_status"
    BAD_TS = "bad_ts"
    # What became of it
    PENDING_CAP = "pending_cap"
    UNAVAILABLE = "unavailable"


CURABLE = frozenset({
    Reason.WRONG_PROGRAM, Reason.UNKNOWN_PROGRAM, Reason.UNKNOWN_KEY,
    Reason.BAD_CURRENCY, Reason.BAD_AMOUNT, Reason.BAD_STATUS,
})
"""What mending a mistake of ours can cure: a token's programs, a missing program or key, a rule for what is said."""


class Refused(Exception):
    """This postback is not taken. `reason` is all that is known: texts for people are chosen where it is answered."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason
