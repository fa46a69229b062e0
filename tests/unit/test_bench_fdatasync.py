"""What a row that comes at any moment waits for the disk."""

import pytest

from bench.kit.fdatasync import two_in_a_row_ms


@pytest.mark.parametrize(("counts", "expected"), [
    ([(1.0, 0), (1.0, 500)], 1.99),                           # all take 1 ms: what is left of the first, and the second
    ([(1.0, 0), (1.0, 990), (10.0, 0), (10.0, 10)], 10.5),    # one in a hundred takes 10: a row in eleven comes in such a one
])
def test_slow_flushes_are_met_as_often_as_they_are_long(counts: list[tuple[float, int]], expected: float) -> None:
    assert two_in_a_row_ms(counts) == pytest.approx(expected, rel=0.05)
