"""The error classes of DESIGN section 4, word by word."""

import pytest
from asyncpg.exceptions import ConnectionDoesNotExistError, PostgresError

from tracker.storage.clicks.copy_errors import Fault, fault_of


def error(state: str, *, constraint: str | None = None, severity: str = "ERROR") -> PostgresError:
    """As the driver makes it from what the server sent."""
    fields = {"S": severity, "V": severity, "C": state, "M": "message"}
    made: PostgresError = PostgresError.new(fields | ({"n": constraint} if constraint else {}))
    return made


@pytest.mark.parametrize("state", ["22021", "22P03", "22P04", "22003", "23502", "08P01", "54000"])
def test_a_row_at_fault_is_poison(state: str) -> None:
    """Taken for an outage, one such row would stop its spool for ever."""
    assert Fault.POISON is fault_of(error(state))


def test_a_check_is_poison_by_name_and_a_missing_partition_without() -> None:
    """Both are 23514; one row is bad, the other only too early or too late."""
    assert Fault.POISON is fault_of(error("23514", constraint="clicks_flags_check"))
    assert Fault.NO_PARTITION is fault_of(error("23514"))
    assert Fault.DUPLICATE is fault_of(error("23505", constraint="clicks_20261122_pkey"))


@pytest.mark.parametrize(
    "state", ["57014", "57P01", "57P03", "53100", "53300", "25006", "40001", "40P01", "42P01", "42703", "55P03", "XX000"]
)
def test_everything_else_is_an_outage(state: str) -> None:
    """Taken for poison, a full disk would empty the spool into the quarantine."""
    assert Fault.OUTAGE is fault_of(error(state))


def test_a_broken_connection_is_an_outage_whatever_its_number() -> None:
    """08P01 is a verdict on the row only when the server sent it and went on living."""
    assert Fault.OUTAGE is fault_of(error("08P01", severity="FATAL"))
    assert Fault.OUTAGE is fault_of(ConnectionDoesNotExistError("connection was closed in the middle of operation"))
