"""Fuzzed, shortly in CI and for a minute each at night: see targets.py for what may never happen.

In CI the number of inputs and the seed are fixed, so a red run is red again. At night libFuzzer draws another seed each time
and prints it with what it found; the input is then a plain test beside what it broke.
"""

import platform
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from support import missing

FUZZ = Path(__file__).with_name("fuzz.py")
TARGETS = ("click_id", "framing", "postback", "query", "spool")
SECONDS = 60


@pytest.fixture(autouse=True)
def _installed() -> None:
    if find_spec("atheris") is None:
        missing(f"atheris has no wheel for Python {platform.python_version()} on {platform.platform()}")


def run(target: str, *options: str) -> tuple[int, str]:
    ran = subprocess.run([sys.executable, str(FUZZ), target, *options], capture_output=True, text=True, timeout=110, check=False)
    return ran.returncode, ran.stdout + ran.stderr


@pytest.mark.parametrize("target", TARGETS)
def test_a_thousand_inputs_break_no_promise(target: str) -> None:
    code, said = run(target, "--runs=1000", "--seed=1")
    assert (0, "1000") == (code, _number_of(r"executed_units: +(\d+)", said)), said[-3000:]


@pytest.mark.nightly
@pytest.mark.parametrize("target", TARGETS)
def test_no_input_breaks_a_promise(target: str, record_property: Callable[[str, object], None]) -> None:
    code, said = run(target, f"--seconds={SECONDS}")
    record_property("executions", _number_of(r"executed_units: +(\d+)", said))
    record_property("seed", _number_of(r"Seed: (\d+)", said))
    assert 0 == code, said[-3000:]


def test_a_broken_promise_is_found(tmp_path: Path) -> None:
    """A fuzzer that cannot fail would be green for ever: here the checksum of a frame is not looked at."""
    broken = tmp_path / "sitecustomize.py"
    broken.write_text(
        "import tracker.storage.spool.segments as segments\nsegments.frame_is_whole = lambda data, at: True\n"
    )
    ran = subprocess.run(
        [sys.executable, str(FUZZ), "spool", "--runs=1000", "--seed=1"], capture_output=True, text=True, timeout=110, check=False,
        env={"PYTHONPATH": str(tmp_path), "PATH": ""},
    )
    assert 77 == ran.returncode, ran.stderr[-3000:]
    found = re.search(r"Test unit written to (\S+)", ran.stderr)
    assert found
    Path(found[1]).unlink()


def _number_of(pattern: str, said: str) -> str | None:
    found = re.search(pattern, said)
    return found and found[1]
