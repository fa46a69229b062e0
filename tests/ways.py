"""The ways in which connections may be served: a port whose hot calls are compiled, the same in Python, and the loop's own."""

from __future__ import annotations

import pytest
from support import missing

from tracker import speedups
from tracker.web import port, wire

OURS = ["compiled", "python"]
WAYS = [*OURS, "loop"]


def take_way(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on ports work in this way. Skips where it was not built."""
    if way == "compiled" and not speedups.AVAILABLE:
        missing("tracker/_speedups.c was not built, or from other sources: pip install -e . where there is a C compiler")
    if way == "python":
        monkeypatch.setattr(port, "receive", port.receive_in_python)
        monkeypatch.setattr(port, "accept", port.accept_in_python)
        monkeypatch.setattr(wire, "send", wire.send_in_python)
    if way == "loop":
        monkeypatch.setattr(port, "HAS_EPOLL", False)
