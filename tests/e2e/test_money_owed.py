"""From a click to money owed, through real processes: what a shop sends, and what a partner is owed for it."""

from __future__ import annotations

import concurrent.futures
import json
import random
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from demo_world import OTHER_TOKEN, TOKEN, fetch, make_world, own_database, value
from judge import assert_verified
from postgres_fixtures import PostgresFactory
from tracker_process import TrackerProcess, run_tracker, running, tracker_environ, until, within
from visitor import Answer, Connection, click, one_connection_per_worker, postback

from tracker.domain.click_id import ClickIdMaker, Keyring

ROW_SECONDS = 1.0          # the contract: a click's row is there
CREDIT_SECONDS = 2.0       # the contract: a postback sent the instant after the redirect is credited

STATE = "SELECT status, amount, currency, partner_id, credit, commission_owed FROM conversion_state WHERE txid = $1"
LEDGER = "SELECT ledger.amount FROM ledger JOIN conversion_state USING (conversion_id) WHERE txid = $1 ORDER BY ledger.entry"


class Shop:
    """A running `tracker serve` with its database."""

    def __init__(self, tracker: TrackerProcess, dsn: str, environ: dict[str, str]) -> None:
        self.tracker, self.dsn, self.environ = tracker, dsn, environ
        self.port = tracker.public_port

    def ledger(self, txid: str) -> list[Decimal]:
        return [row["amount"] for row in fetch(self.dsn, LEDGER, txid)]

    def state(self, txid: str) -> tuple[Any, ...] | None:
        rows = fetch(self.dsn, STATE, txid)
        return tuple(rows[0]) if rows else None

    def has_row(self, clicked: Answer) -> bool:
        return bool(value(self.dsn, "SELECT count(*) FROM clicks WHERE click_id = $1", uuid.UUID(bytes=clicked.uuid)))

    def stored_click(self, query: str = "") -> Answer:
        """A click whose row is there."""
        clicked = click(self.port, query=query)
        until(lambda: self.has_row(clicked), "the click has a row")
        return clicked


@pytest.fixture
def shop(dsn: str, tmp_path: Path) -> Iterator[Shop]:
    make_world(dsn, links=3)
    environ = tracker_environ(dsn, tmp_path / "spool")
    with running("serve", environ) as tracker:
        yield Shop(tracker, dsn, environ)


def test_a_click_is_a_row_within_a_second_and_its_sale_is_owed_once(shop: Shop) -> None:
    """The whole machine in one test: everything else is about what may go wrong on the way."""
    made: list[Answer] = []

    def visit(_: int) -> Callable[[], bool]:
        made.append(click(shop.port, "l1", "sub1=letter&ext=x-9&colour=blue"))
        return lambda: shop.has_row(made[-1])

    within(ROW_SECONDS, visit, "the click has a row")
    clicked = made[-1]
    assert (302, 32) == (clicked.status, len(clicked.token))
    assert f"https://shop.example/p?cid={clicked.token}&s=letter" == clicked.location
    [row] = fetch(shop.dsn, "SELECT * FROM clicks WHERE click_id = $1", uuid.UUID(bytes=clicked.uuid))
    assert (1, 7, 13, "letter", "x-9", '{"colour": "blue"}') == tuple(
        row[name] for name in ("link_id", "program_id", "partner_id", "sub1", "ext", "query")
    )

    first = postback(shop.port, click_id=clicked.token, txid="order-1", amount="49.90")
    again = postback(shop.port, click_id=clicked.token, txid="order-1", amount="49.90")
    assert (200, "recorded") == (first.status, first.said["status"])
    assert (200, "duplicate") == (again.status, again.said["status"])
    assert first.said["conversion_id"] == again.said["conversion_id"]
    assert ("approved", Decimal("49.9"), "EUR", 13, "click", Decimal("4.99")) == shop.state("order-1")
    assert [Decimal("4.99")] == shop.ledger("order-1")
    assert_verified(shop.environ)


def test_the_command_line_tells_what_happened(shop: Shop) -> None:
    """Who runs the service without a dashboard finds a click, its sale and every message about it."""

    def told(*words: str) -> str:
        ended = run_tracker(words, shop.environ)
        assert 0 == ended.returncode, ended.stderr
        return ended.stdout

    clicked = shop.stored_click("sub1=letter")
    recorded = postback(shop.port, click_id=clicked.token, txid="order-2", amount="20").said
    postback(shop.port, click_id=clicked.token, txid="order-2", amount="21")
    assert "letter" in told("click", "list", "--link", "l1")
    assert str(uuid.UUID(bytes=clicked.uuid)) in told("click", "show", clicked.token, "--json")
    [sale] = json.loads(told("conversion", "list", "--txid", "order-2", "--json"))
    assert recorded["conversion_id"] == sale["conversion_id"]
    assert "ledger" in told("conversion", "show", sale["conversion_id"])
    messages = json.loads(told("postbacks", "list", "--conversion", sale["conversion_id"], "--json"))
    assert ["conflict", "recorded"] == [message["outcome"] for message in messages]
    assert "order-2" in told("conversion", "list") and "conflict" in told("postbacks", "list", "--outcome", "conflict")


def test_two_hundred_copies_at_once_over_all_workers_are_one_sale(shop: Shop) -> None:
    """A sender's retry storm meets several processes: only the database can hold them to one, and it must."""
    clicked = shop.stored_click()
    connections, workers = [Connection(shop.port) for _ in range(200)], Counter[int]()
    for connection in connections:
        workers[connection.click("l2").worker] += 1
    assert 2 == len(workers), "one worker got all connections"
    gate = threading.Barrier(len(connections))

    def send(connection: Connection) -> Answer:
        gate.wait(20)
        return connection.postback(click_id=clicked.token, txid="storm", amount="10")

    with concurrent.futures.ThreadPoolExecutor(len(connections)) as pool:
        answers = list(pool.map(send, connections))
    for connection in connections:
        connection.close()
    assert {200: 200} == Counter(answer.status for answer in answers)
    assert {"recorded": 1, "duplicate": 199} == Counter(answer.said["status"] for answer in answers)
    assert 1 == len({answer.said["conversion_id"] for answer in answers})
    assert [Decimal(1)] == shop.ledger("storm")
    assert 1 == value(shop.dsn, "SELECT count(*) FROM conversions")
    until(lambda: shop.tracker.metric("tracker_postbacks_total", "duplicate") == 199, "the metrics agree")
    assert 1 == shop.tracker.metric("tracker_postbacks_total", "recorded")
    assert_verified(shop.environ)


@pytest.mark.fault(20)
def test_a_postback_the_instant_after_the_redirect_is_credited(shop: Shop) -> None:
    """Instant sales are real, and their click is still on some worker's disk."""
    sales: list[tuple[str, Answer, Answer]] = []

    def buy(number: int) -> Callable[[], bool]:
        with Connection(shop.port) as connection:
            clicked = connection.click()
            answer = connection.postback(click_id=clicked.token, txid=f"instant-{number}", amount="20")
        assert 200 == answer.status
        assert answer.said["status"] in ("pending_click", "recorded")
        sales.append((f"instant-{number}", clicked, answer))
        return lambda: shop.state(f"instant-{number}") is not None

    within(CREDIT_SECONDS, buy, "the sale is credited")
    txid, clicked, answer = sales[-1]
    assert ("approved", Decimal(20), "EUR", 13, "click", Decimal(2)) == shop.state(txid)
    assert [Decimal(2)] == shop.ledger(txid)
    late = postback(shop.port, click_id=clicked.token, txid=txid, amount="20")
    assert ("duplicate", answer.said["conversion_id"]) == (late.said["status"], late.said["conversion_id"])
    assert_verified(shop.environ)


@pytest.mark.fault(20)
def test_a_reversed_sale_owes_nothing_however_often_the_sale_comes_again(shop: Shop) -> None:
    """Networks deliver out of order and again: money that was taken back must not come alive."""
    clicked = shop.stored_click()
    sale = {"click_id": clicked.token, "txid": "returned", "amount": "30"}
    said = [
        postback(shop.port, **sale, status=status).said["status"]
        for status in ("pending", "approved", "reversed", "approved", "pending", "")
    ]
    assert ["recorded", "updated", "updated", "duplicate", "duplicate", "duplicate"] == said
    state = shop.state("returned")
    assert state is not None
    assert ("reversed", Decimal(0)) == (state[0], state[-1])
    assert [Decimal(3), Decimal(-3)] == shop.ledger("returned")
    assert_verified(shop.environ)


def test_an_admin_decision_holds_against_redelivery(shop: Shop) -> None:
    """A person said no; the machine that sends the sale once more does not know better."""
    clicked = shop.stored_click()
    sale = {"click_id": clicked.token, "txid": "fraud", "amount": "30"}
    recorded = postback(shop.port, **sale)
    decision = {"status": "rejected", "reason": "fraud"}
    status, told = shop.tracker.admin("POST", f"/v1/conversions/{recorded.said['conversion_id']}/decision", decision)
    assert (200, "rejected") == (status, told["status"])
    assert "duplicate" == postback(shop.port, **sale).said["status"]
    assert 0 == sum(shop.ledger("fraud"))
    assert_verified(shop.environ)


def test_the_metrics_agree_with_what_was_sent(shop: Shop) -> None:
    """Each message ends as exactly one result or one reason, whichever worker took it."""
    clicked = shop.stored_click()
    for worker, connection in one_connection_per_worker(shop.port, 2).items():
        with connection:
            sale = {"click_id": clicked.token, "txid": f"order of {worker}", "amount": "10"}
            said = [
                connection.postback(**sale).said["status"],
                connection.postback(**sale).said["status"],
                connection.postback(**sale | {"amount": "11"}).said["status"],
                connection.postback(**sale | {"status": "reversed"}).said["status"],
            ]
            assert ["recorded", "duplicate", "conflict", "updated"] == said
            assert 401 == connection.postback(**sale, token="wrong").status
            assert 400 == connection.postback(**sale | {"amount": "-1"}).status

    def published() -> list[float]:
        metrics = shop.tracker.metrics()
        results = ("recorded", "duplicate", "conflict", "updated")
        return [metrics["tracker_postbacks_total", result] for result in results] + [
            metrics["tracker_postback_refusals_total", reason] for reason in ("bad_token", "bad_amount")
        ]

    until(lambda: published() == [2.0] * 6, "every message is counted once")
    assert_verified(shop.environ)


def forged() -> dict[str, str]:
    """Ids that are not ours, by what is wrong with them."""
    stranger = ClickIdMaker(keyring=Keyring(((1, b"a secret nobody here knows......"),)), worker=3, random_counter=lambda: 9)
    number_9 = ClickIdMaker(keyring=Keyring(((9, b"a secret nobody here knows......"),)), worker=3, random_counter=lambda: 9)
    made = stranger.make(1_790_000_000_000, 1)[1].decode()
    return {
        "of another tracker": made,
        "of an unknown key": number_9.make(1_790_000_000_000, 1)[1].decode(),
        "cut": made[:31],
        "too long": made + "0",
        "the longest that a target takes": made * 220,
        "random": "".join(random.Random(7).choices("0123456789abcdefghijklmnopqrstuv", k=32)),
        "another format": str(uuid.UUID(int=7)),
        "not ascii": "é" * 32,
        "outside the alphabet": "z" * 32,
        "with a NUL": made[:-1] + "\0",
    }


FORGED_ROUNDS = 50
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.mark.fault(23)
def test_a_forged_click_id_is_refused_without_a_query(postgres_factory: PostgresFactory, tmp_path: Path) -> None:
    """Whoever sends a million forged ids must not reach the database. The server's own log of statements is the witness."""
    with own_database(postgres_factory(settings={"log_statement": "all"}), links=3) as database:
        environ = tracker_environ(database.dsn, tmp_path / "spool", TRACKER_WORKERS="1")
        with running("serve", environ) as tracker:
            clicked = click(tracker.public_port)
            until(lambda: value(database.dsn, "SELECT count(*) FROM clicks") == 1, "the click has a row")
            token = clicked.token
            flipped = token[:20] + ("0" if token[20] != "0" else "1") + token[21:]
            moved = token[:11] + "000002" + token[17:]      # six characters: the link
            cases = {**forged(), "one letter changed": flipped, "moved to another link": moved}
            before = database.statements()
            with Connection(tracker.public_port) as connection:
                for _ in range(FORGED_ROUNDS):
                    for what, click_id in cases.items():
                        answer = connection.postback(click_id=click_id, txid="of-a-forger", amount="66.61")
                        assert (400, "bad_click_id") == (answer.status, answer.said["code"]), what
                    body = b"token=%b&txid=of-a-forger&click_id=%b" % (TOKEN.encode(), token.encode() * 313)      # 10 kB
                    answer = connection.ask("POST", "/postback", body=body, headers=FORM)
                    assert (400, "bad_click_id") == (answer.status, answer.said["code"])
                    answer = connection.postback(click_id="")
                    assert (400, "missing_click_id") == (answer.status, answer.said["code"])
            # Jobs and the batch of refusals go on meanwhile: a few statements, where one for each request would be 650.
            assert database.statements() - before < FORGED_ROUNDS
            for table in ("conversion_state", "conversions", "pending", "ledger"):
                assert 0 == value(database.dsn, f"SELECT count(*) FROM {table}")
            refused = "SELECT count(*) FROM postback_log WHERE outcome = 'refused'"
            until(lambda: value(database.dsn, refused) >= len(cases), "refusals are logged")


BAD = [
    *(({"amount": amount}, 400, "bad_amount") for amount in (
        "-1", "NaN", "Infinity", "1e309", "1e-30", "1,5", "１２", "1000000000000", "1.0000001", "0x10", "1_000", "1 2",
    )),
    *(({"currency": currency}, 400, "bad_currency") for currency in ("XYZ", "EURO", "€", "E", "12")),
    ({"status": "paid"}, 400, "bad_status"),
    ({"token": "not-the-token"}, 401, "bad_token"),
    ({"token": "TOKEN-OF-THE-SHOP"}, 401, "bad_token"),
    ({"token": ""}, 401, "bad_token"),
    ({"token": OTHER_TOKEN}, 403, "wrong_program"),
    ({"program": "other"}, 403, "wrong_program"),
    ({"click_id": "{click_id}"}, 400, "missing_click_id"),
]  # fmt: skip


@pytest.mark.fault(25, 26)
def test_a_bad_message_is_refused_and_leaves_nothing_behind(shop: Shop) -> None:
    """A refusal that wrote half, or an answer that repeats what a stranger said, would be worse than none."""
    clicked = shop.stored_click()
    good = {"click_id": clicked.token, "txid": "echo-me-not", "amount": "10"}
    with Connection(shop.port) as connection:
        for changed, status, code in BAD:
            answer = connection.postback(**{**good, **changed})
            assert (status, code) == (answer.status, answer.said.get("code")), changed
            assert "application/problem+json" == answer.headers["content-type"].partition(";")[0]
            assert "echo-me-not" not in str(answer.said)
        repeated = connection.ask("GET", f"/postback?click_id={clicked.token}&txid=x&amount=1&amount=2")
        assert (400, "repeated_parameter") == (repeated.status, repeated.said["code"])
        for table in ("conversion_state", "conversions", "pending", "ledger"):
            assert 0 == value(shop.dsn, f"SELECT count(*) FROM {table}")
        equal = f"token={TOKEN}&click_id={clicked.token}&txid=x&amount=1&amount=1&currency=eur"
        same = connection.ask("GET", f"/postback?{equal}")
        assert (200, "recorded") == (same.status, same.said["status"])
    assert_verified(shop.environ)
