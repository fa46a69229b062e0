"""The ack rule at its hardest: no byte of an answer before the write has returned, even when it ends in what nobody foresaw."""

from pathlib import Path
from typing import Any

import pytest
from lane_server import HttpOnlyLanes, lane_server
from raw_http import Client, click

from tracker.web.fastlane import Lanes


@pytest.mark.fault(14)
@pytest.mark.parametrize("lanes", [Lanes, HttpOnlyLanes], ids=["fast lane", "aiohttp"])
def test_no_answer_leaves_when_the_write_does_not_return(tmp_path: Path, lanes: type[Lanes]) -> None:
    """Danger: an answer sent before the write looks right in every test in which the write succeeds."""
    with lane_server(tmp_path, lanes=lanes) as server, Client(server.port) as client, Client(server.port) as other:
        append = server.log.append

        def dying(rows: list[bytes]) -> int:
            raise MemoryError("in the middle of the write")

        def break_append(by: Any) -> None:
            server.log.append = by  # type: ignore[method-assign]

        server.do(lambda: break_append(dying))
        client.send(click(query=b"sub1=never") * 3)
        assert client.answer() is None, "acknowledged, and not written"
        server.do(lambda: break_append(append))
        other.ask(click(query=b"sub1=after"))
        assert ["after"] == [row["sub1"] for row in server.rows()]
        server.errors.clear()     # the error itself, told to the loop
