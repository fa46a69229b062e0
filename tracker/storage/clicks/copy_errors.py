"""What a refusal of PostgreSQL means for a batch of rows that was being copied. Pure: an error in, a verdict out.

It stands alone because the shipper and the tests must agree on the classes word by word.
What is done about a verdict lives in clicks/store.py and shipper.py.
"""

from enum import Enum

from tracker.storage.postgres import PostgresError


class Fault(Enum):
    """Poison: one row is at fault. The others concern the batch; an outage concerns nobody's data: wait and retry."""

    POISON = "poison"
    NO_PARTITION = "no_partition"
    DUPLICATE = "duplicate"
    OUTAGE = "outage"


_NOT_NULL_VIOLATION = "23502"
_UNIQUE_VIOLATION = "23505"
_CHECK_VIOLATION = "23514"
_SENT_BY_SERVER_ONLY = ("08P01", "54000")  # malformed message, row too big; our driver raises the first one too


def fault_of(error: PostgresError) -> Fault:
    """The verdict on an error that a COPY or INSERT into clicks, clicks_stray or a staging table raised."""
    state = error.sqlstate or ""
    if state == _UNIQUE_VIOLATION:
        return Fault.DUPLICATE
    if state == _CHECK_VIOLATION and not error.constraint_name:
        return Fault.NO_PARTITION
    if state[:2] == "22" or state in (_NOT_NULL_VIOLATION, _CHECK_VIOLATION):
        return Fault.POISON
    if state in _SENT_BY_SERVER_ONLY and error.severity_en == "ERROR":  # None: the driver's; FATAL: ended the session
        return Fault.POISON
    return Fault.OUTAGE
