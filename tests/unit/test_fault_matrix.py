"""Every row of the fault matrix (RELIABILITY section 3) is named by a test that proves it: `@pytest.mark.fault(row, …)`.

Read from the sources, not by running: a row whose tests were renamed, or left out by a filter, would else seem proven.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
ROWS = range(1, 39)

# Rows that no test proves, and why. It may only become shorter: who proves a row takes it out here.
MISSING: dict[int, str] = {}


def fault_marks(source: str) -> Iterator[tuple[int, str]]:
    """(row, test) of every mark in a file. A mark must stand on a test, and name rows as plain numbers."""
    tree = ast.parse(source)
    placed = 0
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for mark in node.decorator_list:
            if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.fault":
                placed += 1
                assert node.name.startswith("test_"), f"{node.name} is no test"
                assert mark.args, f"{node.name}: a mark without a row"
                for row in mark.args:
                    assert isinstance(row, ast.Constant) and row.value in ROWS, f"{node.name}: {ast.unparse(row)} is no row"
                    yield int(str(row.value)), node.name
    assert placed == source.count("pytest.mark.fault("), "a mark that stands on no test proves nothing"


def proofs() -> dict[int, list[str]]:
    found: dict[int, list[str]] = defaultdict(list)
    for file in sorted(TESTS.rglob("test_*.py")):
        if file != Path(__file__):
            for row, test in fault_marks(file.read_text()):
                found[row].append(f"{file.relative_to(TESTS)}::{test}")
    return found


def test_every_row_is_proven_or_has_a_reason() -> None:
    """A row that nobody tests is a promise that nobody keeps."""
    found = proofs()
    assert [] == [row for row in ROWS if row not in found and row not in MISSING]


def test_no_reason_outlives_its_row() -> None:
    """The list of what is missing must shrink: a row that is proven by now is taken out."""
    assert {} == {row: tests for row, tests in proofs().items() if row in MISSING}
    assert set(MISSING) <= set(ROWS)


def test_marks_are_seen_wherever_they_stand() -> None:
    marked = """
@pytest.mark.fault(1, 2)
@pytest.mark.nightly
async def test_a(): ...

class T:
    @pytest.mark.fault(3)
    def test_b(self): ...
"""
    assert [(1, "test_a"), (2, "test_a"), (3, "test_b")] == sorted(fault_marks(marked))


@pytest.mark.parametrize("wrong", [
    "@pytest.mark.fault(1)\ndef helper(): ...", "@pytest.mark.fault()\ndef test_a(): ...",
    "@pytest.mark.fault(39)\ndef test_a(): ...", "@pytest.mark.fault(ROW)\ndef test_a(): ...", "pytestmark = pytest.mark.fault(3)",
])
def test_a_mark_that_proves_nothing_is_told(wrong: str) -> None:
    with pytest.raises(AssertionError):
        list(fault_marks(wrong))
