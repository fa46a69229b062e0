"""Secrets and addresses: planted in every place they may come from, then looked for in every place they must not come to."""

from __future__ import annotations

import base64
import http.client
import json
import time
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlencode

import pytest
from demo_world import Database, fetch, own_database, value
from judge import all_is_shipped
from postgres_fixtures import PostgresFactory
from raw_http import Client
from tracker_process import TrackerProcess, running, tracker_environ, until
from visitor import Answer, Connection

from tracker.web.postback_auth import sign, signed_part

KEY = b"planted-key-of-the-click-ids-32b"
SECRETS = {
    "the key of click ids": KEY,
    "the key as it is set": base64.b64encode(KEY),
    "the admin token": b"planted-admin-token-0001",
    "the database's password": b"planted-database-password",
    "a shop's token": b"planted-token-of-the-shop",
    "a token that is wrong here": b"planted-token-of-elsewhere",
    "a secret for signatures": b"planted-secret-for-signatures",
}
ADMIN, PASSWORD, TOKEN, WRONG, HMAC = (
    SECRETS[name].decode() for name in (
        "the admin token", "the database's password", "a shop's token", "a token that is wrong here", "a secret for signatures")
)
ADDRESSES = ("203.0.113.77", "198.51.100.201", "2001:db8:77:88:99:aa:bb:cc")
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
JSON = {"Content-Type": "application/json"}
MALFORMED = {"type": "about:blank", "title": "Malformed request", "status": 400, "code": "malformed_request"}

_PLANT = f"""
UPDATE credentials SET token_hash = sha256('{TOKEN}') WHERE credential_id = 5;
INSERT INTO programs (program_id, slug, name, currency, auth_mode) VALUES (9, 'signed', 'Signed', 'EUR', 'hmac');
INSERT INTO credentials (credential_id, kind, hmac_secret) VALUES (9, 'hmac', '{HMAC}');
INSERT INTO credential_programs (credential_id, program_id) VALUES (9, 9);
INSERT INTO links (link_id, slug, program_id, partner_id, destination) VALUES (9, 'signed', 9, 13, 'https://shop.example/?cid={{click_id}}');
"""  # fmt: skip


@pytest.fixture
def database(postgres_factory: PostgresFactory) -> Iterator[Database]:
    with own_database(postgres_factory(), links=3) as started:
        for statement in filter(None, map(str.strip, _PLANT.split(";"))):
            fetch(started.dsn, statement)
        yield started


class Sender:
    """Whoever sends to the public port, each time from another of the planted addresses."""

    def __init__(self, port: int) -> None:
        self._port, self._sent = port, 0

    def ask(self, method: str, target: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Answer:
        self._sent += 1
        with Connection(self._port) as connection:
            address = {"X-Forwarded-For": ADDRESSES[self._sent % len(ADDRESSES)]}
            return connection.ask(method, target, body=body, headers={**address, **(headers or {})})

    def click_id(self, slug: str = "l1") -> str:
        return self.ask("GET", f"/c/{slug}").location.partition("cid=")[2].partition("&")[0]

    def every_way(self, token: str, txid: str) -> set[int]:
        """A sale with a token in every place that it can be shown in, some of them wrong; the statuses."""
        sale = {"click_id": self.click_id(), "txid": txid, "amount": "5"}
        shown = urlencode({**sale, "token": token}).encode()
        bearer = {"Authorization": f"Bearer {token}"}
        asked = [
            self.ask("GET", "/postback?" + shown.decode()),
            self.ask("POST", "/postback", body=shown, headers=FORM),
            self.ask("POST", "/postback?" + urlencode({"token": token}), body=urlencode(sale).encode(), headers=FORM),
            self.ask("GET", "/postback?" + urlencode(sale), headers=bearer),
            self.ask("POST", "/v1/conversions", body=b'[{"click_id": "%b", "txid": "%b-2"}]' % (
                sale["click_id"].encode(), txid.encode()), headers={**JSON, **bearer}),
            self.ask("GET", "/postback?" + urlencode({**sale, "apikey": token, token: "x", "amount": "-1"})),
            self.ask("GET", "/postback?" + urlencode({"click_id": "0" * 32, "token": token})),
            self.ask("POST", "/postback", body=b'{"token": "' + token.encode() + b'", "click_id": [', headers=JSON),
            self.ask("POST", "/postback", body=shown, headers={"Content-Type": "text/plain"}),
            self.ask("PUT", "/postback?" + shown.decode()),
            self.ask("GET", "/nothing?" + shown.decode()),
        ]
        for answer in asked:
            assert token not in str(answer.said) + str(answer.headers), "an answer repeats what was sent"
        return {answer.status for answer in asked}

    def signed(self, secret: str, txid: str) -> int:
        query = urlencode({"click_id": self.click_id("signed"), "txid": txid, "amount": "5", "sig_ts": int(time.time())})
        at = query.rpartition("=")[2]
        made = sign(secret.encode(), at, signed_part("GET", b"/postback?" + query.encode(), b""))
        return self.ask("GET", f"/postback?{query}&sig={made}").status


def speak_badly(tracker: TrackerProcess) -> None:
    """What is no request, with a token in it, on either port; and on the admin port what is asked with the wrong one."""
    for raw in (
        b"GET /postback?token=%b HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"%b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n %b\r\n\r\n", b"GET / HTTP/1.1\nHost: a\nAuthorization: Bearer %b\n\n",
    ):
        for port in (tracker.public_port, tracker.admin_port):
            with Client(port) as client:
                answer = client.ask(raw % TOKEN.encode())
                assert (400, b"tracker") == (answer.status, answer.headers[b"server"])
                assert MALFORMED == json.loads(answer.body)
                assert b"" == client.rest()
    assert 401 == tracker.admin("GET", "/v1/links", token=WRONG)[0]
    assert 200 == tracker.admin("GET", "/v1/links", token=ADMIN)[0]
    assert 400 == tracker.admin("POST", "/v1/links", {"slug": WRONG, "token": TOKEN}, token=ADMIN)[0]
    connection = http.client.HTTPConnection("127.0.0.1", tracker.admin_port, timeout=20)
    connection.request("POST", "/v1/links", b"{" + TOKEN.encode(), {"Authorization": f"Bearer {ADMIN}", **JSON})
    assert TOKEN.encode() not in connection.getresponse().read()
    connection.close()


def tables(dsn: str) -> dict[str, str]:
    """Every row of every table as text; of credentials all but the secret that has to be there."""
    names = fetch(dsn, "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p', 'v') AND relnamespace = 'public'::regnamespace")
    found: dict[str, str] = {}
    for name in (str(row[0]) for row in names):
        columns = "credential_id, kind, label, token_hash" if name == "credentials" else "*"
        rows = fetch(dsn, f'SELECT row(t.*)::text FROM (SELECT {columns} FROM "{name}") AS t')
        found[name] = "\n".join(str(row[0]) for row in rows)
    return found


def spellings(secret: bytes) -> tuple[bytes, ...]:
    return secret, secret.hex().encode(), base64.b64encode(secret)[:-3], secret.upper()


@pytest.mark.fault(25)
def test_no_secret_and_no_address_leaves_by_a_side_door(database: Database, tmp_path: Path) -> None:
    """Logs, metrics, spools and tables are read by more people than those who may know, and kept for longer."""
    spool = tmp_path / "spool"
    environ = tracker_environ(
        database.dsn.replace("//postgres@", f"//postgres:{PASSWORD}@"), spool, TRACKER_WORKERS="1", TRACKER_LOG_LEVEL="debug",
        TRACKER_ADMIN_TOKEN=ADMIN, TRACKER_SECRET_KEYS="1:" + base64.b64encode(KEY).decode(), TRACKER_TRUSTED_PROXIES="127.0.0.0/8",
    )
    with running("serve", environ) as tracker:
        sender = Sender(tracker.public_port)
        assert 200 in sender.every_way(TOKEN, "good")
        assert {200} != sender.every_way(WRONG, "bad") <= {400, 401, 404, 405, 415}
        assert (200, 401) == (sender.signed(HMAC, "signed"), sender.signed(WRONG, "forged"))
        speak_badly(tracker)
        refused = "SELECT count(*) FROM postback_log WHERE reason = 'bad_token'"
        until(lambda: value(database.dsn, refused) > 0, "refusals are logged")
        database.stop_immediately()
        assert 200 in sender.every_way(TOKEN, "outage")
        assert sender.every_way(WRONG, "outage") <= {400, 401, 404, 405, 415}
        metrics = tracker.admin("GET", "/metrics")[1]
        held = {path: path.read_bytes() for path in spool.rglob("*") if path.is_file()}
        database.start()
        until(lambda: all_is_shipped(database.dsn, spool), "every click is shipped")
        until(lambda: value(database.dsn, "SELECT count(*) FROM conversion_state") == 5, "every sale is recorded")
        metrics += tracker.admin("GET", "/metrics")[1]
        tracker.terminate()
        assert 0 == tracker.exit_code()
        assert "PostgreSQL is away" in tracker.output, "an outage that nobody tells of proves nothing of the password"
    places = {"the log": tracker.output.encode(), "the metrics": metrics.encode()}
    places |= {f"table {name}": text.encode() for name, text in tables(database.dsn).items()}
    snapshots = {str(path): data for path, data in held.items() if "catalog" in path.name}
    assert snapshots
    assert {0o600} == {Path(path).stat().st_mode & 0o777 for path in snapshots}
    places |= {str(path): data for path, data in held.items()}
    for place, data in places.items():
        for name, secret in SECRETS.items():
            if place in snapshots and name == "a secret for signatures":
                continue      # the one place that has to have it: who may read this file is said by its mode
            assert not [one for one in spellings(secret) if one in data], f"{name} in {place}"
        for address in ADDRESSES:
            assert address.encode() not in data, f"{address} in {place}"
            assert ip_address(address).packed not in data, f"{address} in {place}"
    assert b"203.0.113.0/24" in places["table clicks"]
    assert b"2001:db8:77::/48" in places["table clicks"]
