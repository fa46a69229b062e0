"""Raw requests against both lanes: whichever takes one, the answer, the destination and the stored row are the same.

The requests are data: tests/corpus/requests.json. `raw` is Latin-1 text, or [text, times]; `answers` are the statuses in order;
`after` says what becomes of the connection: open (in step: the next request gets the next answer), close, waits (an unfinished
request: no answer, closed at its deadline), silent (nothing was sent), any (aiohttp's own business). `alone`: the answers of an
aiohttp that gets it all at once; after a bad request it forgets the good ones before it. The fast lane does not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from click_tuples import decode_row
from lane_server import KEYRING, HttpOnlyLanes, LaneServer, lane_server
from raw_http import Answer, Client

from tracker.storage.clicks.rows import CLICK_COLUMNS, FLOOD
from tracker.web.fastlane import DEADLINE_SECONDS, IDLE_SECONDS, Lanes

Case = dict[str, Any]
Row = dict[str, Any]
CASES: list[Case] = json.loads((Path(__file__).parent.parent / "corpus" / "requests.json").read_text())
for_each_case = pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])


@pytest.fixture(scope="module")
def lanes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LaneServer]:
    """The product."""
    with lane_server(tmp_path_factory.mktemp("spools")) as server:
        yield server


@pytest.fixture(scope="module")
def http_only(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LaneServer]:
    """The same without its fast lane: every connection is aiohttp's from the first byte."""
    with lane_server(tmp_path_factory.mktemp("spools"), lanes=HttpOnlyLanes) as server:
        yield server


def raw_of(case: Case) -> bytes:
    return b"".join((part if isinstance(part, str) else part[0] * part[1]).encode("latin-1") for part in case["raw"])


def play(server: LaneServer, case: Case) -> tuple[list[Answer], list[Row]]:
    """Send the case, check what it promises, and return its answers and rows."""
    before = server.appended
    answers: list[Answer] = []
    with Client(server.port) as client:
        client.send(raw_of(case))
        statuses = case["alone" if "alone" in case and type(server.lanes) is HttpOnlyLanes else "answers"]
        for number, status in enumerate(statuses):
            answer = client.answer(head=number in case.get("head", ()))
            assert answer is not None, f"closed before answer {number}"
            assert status == answer.status
            answers.append(answer)
        if case["after"] == "open":
            client.assert_in_step()
        elif case["after"] == "close":
            assert b"" == client.rest()
        elif case["after"] in ("waits", "silent"):
            if type(server.lanes) is Lanes:
                client.assert_swept(server, DEADLINE_SECONDS if case["after"] in ("waits", "silent") else IDLE_SECONDS)
            server.seconds_pass(IDLE_SECONDS + 1)
            assert b"" == client.rest()
    rows = [{**row, "flags": row["flags"] & ~FLOOD} for row in server.rows(before)]      # by how many came lately, not by the lane
    if case.get("rows") != "any":
        assert [302] * len(rows) == [answer.status for answer in answers if answer.status == 302], "one row for each redirect"
    server.do(server.counts.assert_law)
    return answers, rows


def comparable(answer: Answer) -> dict[str, Any]:
    """What must not depend on the lane."""
    headers = {name: value for name, value in answer.headers.items() if name not in (b"date", b"location", b"connection")}
    return {"status": answer.status, "location": answer.location, "body": answer.body, "headers": headers}


def without_id(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "click_id"}


@for_each_case
@pytest.mark.fault(27, 28, 30, 33, 34)
def test_a_request_is_answered_as_the_corpus_says(lanes: LaneServer, case: Case) -> None:
    """Smuggling, splitting, overtaking: each shows as an answer too many, one too few, or a connection out of step."""
    answers, rows = play(lanes, case)
    found = [answer for answer in answers if answer.status == 302]
    for answer, row in zip(found, rows, strict=case.get("rows") != "any"):
        assert b"no-store" == answer.headers[b"cache-control"]
        assert b"tracker" == answer.headers[b"server"]
        for token in answer.tokens:
            assert KEYRING.verify(token).uuid == row["click_id"]
    if "location" in case:
        assert case["location"] == (found[-1].location or b"").decode()
    if "body" in case:
        assert case["body"] == answers[-1].body.decode()
    for name, value in case.get("row", {}).items():
        assert value == rows[-1][name], name


@for_each_case
@pytest.mark.fault(33)
def test_both_lanes_answer_and_store_alike(lanes: LaneServer, http_only: LaneServer, case: Case) -> None:
    """Two opinions about one request are how requests are smuggled, and how two visitors of one link are counted apart."""
    answers, rows = play(lanes, case)
    expected_answers, expected_rows = play(http_only, case)
    if "alone" in case:
        return
    assert list(map(comparable, expected_answers)) == list(map(comparable, answers))
    assert list(map(without_id, expected_rows)) == list(map(without_id, rows))


@pytest.mark.fault(27)
async def test_every_row_of_the_corpus_is_taken_by_postgresql_as_it_is(http_only: LaneServer, lanes: LaneServer, dsn: str) -> None:
    """A row that PostgreSQL refuses costs its batch a search, and eleven of them stop the shipper: no visitor may make one."""
    raw = []
    for server in (lanes, http_only):
        before = server.appended
        for case in CASES:
            if case["after"] in ("open", "close"):
                play(server, case)
        raw += server.raw_rows(before)
    assert len(raw) > 800
    connection = await asyncpg.connect(dsn)
    try:
        framed = b"".join((b"PGCOPY\n\xff\r\n\0", bytes(8), *raw, b"\xff\xff"))
        names = [column.name for column in CLICK_COLUMNS]
        status = await connection.copy_to_table("clicks", source=BytesIO(framed), columns=names, format="binary")
        assert f"COPY {len(raw)}" == status
        stored = {record["click_id"].bytes: record for record in await connection.fetch("SELECT * FROM clicks")}
    finally:
        await connection.close()
    for row in map(decode_row, raw):
        record = stored[row["click_id"]]
        for name in names[1:]:
            value = record[name]
            if name == "query":
                value = value and json.loads(value)
            elif name == "ip":
                value = value and str(value)
            assert row[name] == value, name
