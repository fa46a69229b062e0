"""Log lines: one JSON object a line for machines, one readable line for a person at a terminal. Written to stderr.

stderr, for every command: stdout carries what the command was asked for (an export, `--json`, the demo link), and
containers collect both. What a visitor sends can reach a log line through a message, a field or an exception, so
nothing here passes on a line break or a terminal's escape sequence. What must not be logged at all (tokens, query
strings of postbacks, full addresses) is for the caller to leave out. Nothing logs once per request.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from typing import Any, Final, TextIO

# PIPE_BUF on Linux: writes up to this size to a pipe are never mixed with those of other processes, and all workers of
# one `tracker serve` share their parent's stderr.
MAX_LINE_BYTES: Final = 4_096

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_LEVEL_WIDTH: Final = len("CRITICAL")


def setup_logging(level: str, process: str, stream: TextIO | None = None) -> None:
    """Send records from `level` on (`debug` … `error`) to stderr; `process` says in each line who speaks ("edge 2").

    Replaces what an earlier call set up, so a forked worker calls it again with its own name.
    """
    out = sys.stderr if stream is None else stream
    handler = logging.StreamHandler(out)
    handler.setFormatter(ConsoleFormatter(process) if out.isatty() else JsonFormatter(process))
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    logging.captureWarnings(capture=True)
    logging.raiseExceptions = False  # a full disk under the log must not print a traceback per line, and cannot stop us


class JsonFormatter(logging.Formatter):
    """ts (UTC), level, process, logger, msg, the record's `extra` fields, exception: printable ASCII, one line.

    The standard library's encoder, since orjson leaves DEL, C1 controls and U+2028 as they are.
    """

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        own: dict[str, Any] = {
            "ts": _timestamp(record.created), "level": record.levelname.lower(), "process": self._process,
            "logger": record.name, "msg": _message(record),
        }
        fields = {**own, **_extra(record), **own}
        error = self._error(record)
        if error:
            fields["exception"] = error
        return _fitting({name: _plain(value) for name, value in fields.items()})

    def _error(self, record: logging.LogRecord) -> str:
        parts = [self.formatException(record.exc_info)] if record.exc_info else []
        return "\n".join(parts + ([self.formatStack(record.stack_info)] if record.stack_info else []))


class ConsoleFormatter(JsonFormatter):
    """Time of day (local), level, process, message, fields as name=value; a traceback follows, indented."""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        extra = "".join(f"  {name}={value}" for name, value in _extra(record).items())
        line = f"{clock} {record.levelname:{_LEVEL_WIDTH}} {self._process}: {_message(record)}{extra}"
        lines = [line, *(f"    {part}" for part in self._error(record).splitlines())]
        return "\n".join(_visible(part[:MAX_LINE_BYTES]) for part in lines)


def _message(record: logging.LogRecord) -> str:
    """The message; where its arguments do not fit it, both as they are: the event counts more than our slip."""
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):
        return f"{record.msg} {record.args!r}"


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


def _timestamp(seconds: float) -> str:
    milliseconds = int(seconds * 1_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(milliseconds // 1_000))}.{milliseconds % 1_000:03d}Z"


def _plain(value: Any) -> Any:
    """A value every JSON parser reads: numbers and truth as they are, all else as text without lone surrogates."""
    if value is None or isinstance(value, bool) or (isinstance(value, int | float) and math.isfinite(value)):
        return value
    return str(value).encode(errors="backslashreplace").decode()


def _fitting(fields: dict[str, Any]) -> str:
    """The fields as JSON of at most MAX_LINE_BYTES, newline included: the longest texts are halved until it fits.

    An exception keeps its end, where its type and message stand; any other text keeps its beginning.
    """
    for name, value in fields.items():
        if isinstance(value, str):
            fields[name] = _cropped(name, value, MAX_LINE_BYTES)
    line = json.dumps(fields)
    while len(line) >= MAX_LINE_BYTES:
        longest = max(fields, key=lambda name: len(fields[name]) if isinstance(fields[name], str) else 0)
        if len(str(fields[longest])) < 64:  # so many fields that none is long
            fields = {name: fields[name] for name in ("ts", "level", "process", "logger", "msg")} | {"cropped": True}
        else:
            fields[longest] = _cropped(longest, fields[longest], len(fields[longest]) // 2)
        line = json.dumps(fields)
    return line


def _cropped(name: str, text: str, length: int) -> str:
    if len(text) <= length:
        return text
    return f"…{text[-length:]}" if name == "exception" else f"{text[:length]}…"


def _visible(text: str) -> str:
    """Text whose control characters, and those that turn the direction of writing, stand as escapes."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape", "surrogatepass").decode() for one in text)
