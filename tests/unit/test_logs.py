"""Log lines: whatever a visitor sends, one event is one line that parses, and no terminal obeys it."""

import io
import json
import logging
import math
import sys
from collections.abc import Iterator

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tracker.logs import MAX_LINE_BYTES, ConsoleFormatter, JsonFormatter, setup_logging

HOSTILE = [
    "two\nlines", "carriage\rreturn", '"}{"level":"error', "\x1b[2J\x1b]0;title\x07", "c1 \x9b31m", "del \x7f",
    "nul \0", "line separator \u2028", "paragraph \u2029", "right to left \u202e", "back\\slash", "émoji 🦊",
]


def record(message: object, *args: object, **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("tracker.web", logging.WARNING, "file.py", 1, message, args, None)
    vars(made).update(fields)
    return made


def as_json(one: logging.LogRecord) -> str:
    line = JsonFormatter("edge 1").format(one)
    assert line.isascii()
    assert line.isprintable()
    assert len(line) < MAX_LINE_BYTES
    return line


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level, logging.raiseExceptions
    yield
    root.handlers[:], level, logging.raiseExceptions = before
    root.setLevel(level)
    logging.captureWarnings(capture=False)


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.fault(36)
def test_hostile_text_makes_one_line_that_gives_it_back(text: str) -> None:
    """A user agent with a line break would otherwise write a log line of the visitor's own."""
    fields = orjson.loads(as_json(record("agent %s", text, agent=text)))
    assert f"agent {text}" == fields["msg"]
    assert text == fields["agent"]


@given(st.text(st.characters()), st.text(st.characters()))
@example("half a character \ud83d", "\ud83d")      # drawn too seldom to count on
@pytest.mark.fault(36)
def test_any_text_makes_one_line_that_every_parser_reads(message: str, field: str) -> None:
    """Lone surrogates come in with undecodable header bytes; strict parsers refuse their escapes."""
    fields = orjson.loads(as_json(record("%s", message, field=field)))
    assert message.encode(errors="backslashreplace").decode() == fields["msg"]


@pytest.mark.parametrize("value", [10**40, math.nan, math.inf, b"\xff", {"a": 1}, None, True, object(), [1]],
                         ids=lambda value: type(value).__name__)
def test_any_field_can_be_logged(value: object) -> None:
    json.loads(as_json(record("x", value=value)), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def test_a_huge_message_is_cropped_to_one_write_of_a_pipe() -> None:
    """Workers share one pipe: a longer write would be mixed with another worker's line."""
    line = as_json(record("%s", "a" * 10_000_000, agent="\n" * 100_000))
    assert json.loads(line)["msg"].startswith("aaa")
    assert json.loads(line)["msg"].endswith("…")


def test_a_field_cannot_pose_as_the_line_s_own() -> None:
    """`extra` may be built from a request's parameters."""
    fields = json.loads(as_json(record("x", level="critical", ts="never")))
    assert fields["level"] == "warning"
    assert fields["ts"] != "never"


def test_too_many_fields_leave_the_message() -> None:
    fields = json.loads(as_json(record("what happened", **{f"field{number}": "x" * 30 for number in range(1_000)})))
    expected = "what happened"
    assert expected == fields["msg"]
    assert fields["cropped"]


def test_an_exception_stays_in_its_line_and_keeps_its_end() -> None:
    try:
        raise ValueError("long " * 5_000 + "the cause\nforged line")
    except ValueError:
        one = record("failed")
        one.exc_info = sys.exc_info()
    assert json.loads(as_json(one))["exception"].endswith("the cause\nforged line")


def test_a_message_whose_arguments_do_not_fit_is_logged_all_the_same() -> None:
    """Our own slip in a format string must not swallow the event it was to report."""
    expected = "lost %d clicks ('many',)"
    assert expected == json.loads(as_json(record("lost %d clicks", "many")))["msg"]


def test_the_time_is_utc_with_milliseconds() -> None:
    one = record("x")
    one.created = 1_800_000_000.0425
    expected = "2027-01-15T08:00:00.042Z"
    assert expected == json.loads(as_json(one))["ts"]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.fault(36)
def test_a_terminal_is_sent_no_control_character(text: str) -> None:
    """A visitor's escape sequence could retitle, recolour or rewrite the operator's screen."""
    try:
        raise ValueError(text)
    except ValueError:
        one = record("agent %s", text, agent=text)
        one.exc_info = sys.exc_info()
    first, *traceback = ConsoleFormatter("edge 1").format(one).split("\n")
    assert "WARNING  edge 1: agent " in first
    assert first.isprintable()
    assert traceback
    assert all(line.startswith("    ") and line.isprintable() for line in traceback)


def test_setting_up_again_replaces_and_the_level_holds() -> None:
    """A worker that kept its parent's handler would write every line twice."""
    stream = io.StringIO()
    setup_logging("info", "parent", stream)
    setup_logging("warning", "edge 2", stream)
    logging.getLogger("tracker.test").info("not shown")
    logging.getLogger("tracker.test").warning("spool at %d %%", 81, extra={"spool": "00ff"})
    (line,) = stream.getvalue().splitlines()
    fields = json.loads(line)
    expected = {
        "level": "warning", "process": "edge 2", "logger": "tracker.test", "msg": "spool at 81 %", "spool": "00ff",
    }
    assert expected == {name: value for name, value in fields.items() if name != "ts"}


def test_a_terminal_gets_lines_for_people() -> None:
    stream = Terminal()
    setup_logging("info", "serve", stream)
    logging.getLogger("tracker.test").info("listening", extra={"port": 8080})
    assert stream.getvalue().endswith("INFO     serve: listening  port=8080\n")
