"""Requests nobody thought of, made from the two OpenAPI documents, at the real program: schemathesis.

Every answer must be one that its document names (status, type, body), what the document rules out must be refused, who
shows no token must be turned away, and nothing may ever be a 5xx. What means something here (slugs, click ids, a token)
stands beside what is made up, else no request would get past "there is no such link".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, cast
from uuid import UUID

import pytest
from demo_world import TOKEN, execute, make_world
from judge import all_is_shipped, assert_verified
from postgres_fixtures import ENGINES, SharedServer
from schemathesis import Case as AnyCase
from schemathesis.config import SchemathesisConfig
from schemathesis.openapi import from_dict
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance
from tracker_process import ADMIN_TOKEN, KEYRING, TrackerProcess, running, tracker_environ, until
from visitor import click, postback

from tracker.domain.click_id import ClickIdMaker
from tracker.domain.conversion_id import ConversionKey
from tracker.web.openapi import admin_document, public_document

Case = AnyCase[Any]
Test = TypeVar("Test", bound=Callable[..., None])
NOW = datetime.now(UTC)
CLICK_ID = ClickIdMaker(keyring=KEYRING, worker=99, random_counter=lambda: 0).make(int(NOW.timestamp() * 1000), link=1)[1]
CONVERSION = str(UUID(bytes=ConversionKey(7, "sale", "order-1", None).conversion_id))
DESTINATION = "https://shop.example/?cid={click_id}"
KNOWN: dict[str, list[Any]] = {      # and, where a text goes far, what PostgreSQL cannot hold
    "slug": ["other"], "program": ["shop", "other"], "partner": ["anna"], "link": ["l1"], "number": [6], "path id": [CONVERSION],
    "conversion_id": [CONVERSION], "outcome": ["recorded"], "reason": ["called them"], "code": ["SUMMER", "WINTER"],
    "after": [f"{NOW.isoformat()}~{CONVERSION}", "\0", f"0001-01-01T00:00:00+23:59~{CONVERSION}"], "txid": ["order-1", "\0"],
    "from": [(NOW - timedelta(hours=1)).isoformat()], "to": [(NOW + timedelta(hours=1)).isoformat()],
    "commission": ["10%", "5.00 EUR", "none"], "ip_allow": [[], ["203.0.113.0/24"]], "destination": [DESTINATION],
    "fallback": [DESTINATION], "expires_at": [(NOW + timedelta(days=1)).isoformat()], "click_id": [CLICK_ID.decode()],
    "url": ["https://t.invalid/?c={ext}&s={status}"], "endpoint_id": [6], "state": ["given_up", "sent"], "since": [NOW.isoformat()],
    "token": [TOKEN], "event": ["sale", "lead"], "amount": ["10", "12.50"],
    "currency": ["EUR", "JPY"], "coupon": ["SUMMER"], "ts": ["1790000000"], "status": ["approved", "pending", "reversed"],
}  # fmt: skip
_MORE = """     -- so that `other` is a program, a partner and a link, and 6 a credential and a coupon
INSERT INTO partners (partner_id, slug, name) VALUES (14, 'other', 'Other');
INSERT INTO links (link_id, slug, program_id, partner_id, destination) VALUES (4, 'other', 8, 14, 'https://other.example/');
INSERT INTO coupons (coupon_id, program_id, partner_id, code) VALUES (6, 7, 13, 'SUMMER');
INSERT INTO outbox_endpoints (endpoint_id, partner_id, url, host, method, statuses, secret)
    VALUES (6, 14, 'https://t.invalid/', 't.invalid', 'GET', '{approved}', sha256('mine'));
"""


def _with_known(document: Any) -> Any:
    """The document with known values beside what a parameter or a member of a body may be. It rules out the same."""
    if isinstance(document, list):
        return [_with_known(one) for one in document]
    if not isinstance(document, dict):
        return document
    made = {name: value if name == "responses" else _with_known(value) for name, value in document.items()}
    if "in" in made and (known := KNOWN.get(made["name"]) or KNOWN.get(f"{made['in']} {made['name']}")):
        made |= {"schema": {"anyOf": [{"enum": known}, made["schema"]]}} | ({"example": known[0]} if made["in"] == "path" else {})
    for name in made.get("properties", {}).keys() & KNOWN.keys():
        said = made["properties"][name]
        if known := [one for one in KNOWN[name] if one in said.get("enum", [one])]:
            made["properties"][name] = {"anyOf": [{"enum": known}, said]}
    return made


def _each_operation(document: dict[str, Any], examples: int, *, deterministic: bool = True) -> Callable[[Test], Test]:
    """A test for each operation. `deterministic`: the same requests each time, none of them made of earlier answers, so that
    CI says the same twice."""
    learning = {"extra-data-sources": {"responses": not deterministic}}
    config = {
        # Tokens are ours to give: schemathesis would count a bad one as sent, and we would have put ours in its place.
        "generation": {"max-examples": examples, "deterministic": deterministic, "with-security-parameters": False},
        "phases": {"examples": learning, "coverage": learning, "fuzzing": learning},
        # Of 64 kB that break a rule we see that they are 64 kB.
        "checks": {"negative_data_rejection": {"expected-statuses": [400, 401, 403, 404, 405, 409, 413, 415, 429]}},
    } | ({"seed": 1} if deterministic else {})
    tests = from_dict(_with_known(document), config=SchemathesisConfig.from_dict(config)).parametrize()
    return cast("Callable[[Test], Test]", tests)


ADMIN = _each_operation(admin_document(), 10)
PUBLIC = _each_operation(public_document(), 60)
ADMIN_AT_LENGTH = _each_operation(admin_document(), 500, deterministic=False)
PUBLIC_AT_LENGTH = _each_operation(public_document(), 1000, deterministic=False)


@pytest.fixture(scope="module")
def tracker(shared_servers: Callable[[str], SharedServer], tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackerProcess]:
    """One program for all requests, with a click and a sale in it. Whatever it was told, its sums are right at the end."""
    server, spool = shared_servers(ENGINES[0]), tmp_path_factory.mktemp("spool")
    name = server.create(with_schema=True)
    dsn = server.postgres.dsn_for(name)
    make_world(dsn, links=3)
    execute(dsn, _MORE)
    environ = tracker_environ(dsn, spool, TRACKER_WORKERS="1")
    with running("serve", environ) as process:
        assert 302 == click(process.public_port).status
        assert "recorded" == postback(process.public_port, program="shop", txid="order-1", amount="10").said["status"]
        until(lambda: all_is_shipped(dsn, spool), "the click is stored")
        yield process
        assert "unforeseen" not in process.output and "Traceback" not in process.output, process.output
    assert_verified(environ)
    server.drop(name)


def _ask_admin(case: Case, tracker: TrackerProcess) -> None:
    case.call_and_validate(
        f"http://127.0.0.1:{tracker.admin_port}",
        headers={"Authorization": f"Bearer {ADMIN_TOKEN}"},
        excluded_checks=[positive_data_acceptance],      # what is well formed may name a program that does not exist
    )


def _ask_public(case: Case, tracker: TrackerProcess) -> None:
    headers: dict[str, str] = {}
    excluded: list[Any] = [positive_data_acceptance]
    if case.path == "/v1/conversions":
        headers = {"Authorization": f"Bearer {TOKEN}"}
        if isinstance(case.body, list):
            excluded.append(negative_data_rejection)      # 200, and each item is refused by itself
    case.call_and_validate(f"http://127.0.0.1:{tracker.public_port}", headers=headers, excluded_checks=excluded)


@ADMIN
def test_the_admin_port_does_what_its_document_says(case: Case, tracker: TrackerProcess) -> None:
    _ask_admin(case, tracker)


@PUBLIC
def test_the_doors_do_what_their_document_says(case: Case, tracker: TrackerProcess) -> None:
    _ask_public(case, tracker)


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@ADMIN_AT_LENGTH
def test_the_admin_port_does_what_its_document_says_at_length(case: Case, tracker: TrackerProcess) -> None:
    _ask_admin(case, tracker)


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@PUBLIC_AT_LENGTH
def test_the_doors_do_what_their_document_says_at_length(case: Case, tracker: TrackerProcess) -> None:
    _ask_public(case, tracker)
