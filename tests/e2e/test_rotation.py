"""Secrets are changed while everything runs: no restart, no refused sale, no click id that is not believed."""

from __future__ import annotations

import base64
import contextlib
from pathlib import Path

from buyers import buyers, click_id_of
from demo_world import TOKEN, make_world, value
from judge import accusations, all_is_shipped, assert_verified, clients, stored_clicks
from tracker_process import ADMIN_TOKEN, SECRET, TrackerProcess, running, tracker_environ, until
from visitor import Connection, click, one_connection_per_worker, postback

from tracker.domain.click_id import Keyring

SECRETS = {1: SECRET, 2: b"another secret, of 32 bytes too."}
RING = Keyring(tuple(SECRETS.items()))


def keys(*numbers: int) -> str:
    return ",".join(f"{number}:{base64.b64encode(SECRETS[number]).decode()}" for number in numbers)


def change(tracker: TrackerProcess, file: Path, text: str, *, processes: int) -> None:
    """As a mounted Secret changes, by rename; until so many processes have taken it."""
    before = tracker.metric("tracker_secret_reloads_total")
    draft = file.with_suffix(".new")
    draft.write_text(text)
    draft.replace(file)
    until(lambda: tracker.metric("tracker_secret_reloads_total") == before + processes, "every process has taken the new secret")


def signing_key(token: str) -> int:
    """The number in an id: four bits behind 45 of time and 6 of flags."""
    return int.from_bytes(base64.b32hexdecode(token.upper())[:15], "big") >> 65 & 15


def test_keys_are_rotated_under_load_without_one_refused_sale(dsn: str, tmp_path: Path) -> None:
    """A key that leaked has to go, and shops send sales for clicks of last month: neither may wait for a night with no traffic."""
    make_world(dsn)
    file = tmp_path / "keys"
    file.write_text(keys(1))
    environ = tracker_environ(dsn, tmp_path / "spool", TRACKER_SECRET_KEYS="", TRACKER_SECRET_KEYS_FILE=str(file))
    with contextlib.ExitStack() as stack:
        tracker = stack.enter_context(running("serve", environ))
        workers = tracker.workers()
        crowd = stack.enter_context(clients(tracker.public_port, tmp_path / "acks", connections=8))
        shops = stack.enter_context(buyers(tracker.public_port, TOKEN))
        early = [click_id_of(click(tracker.public_port)) for _ in range(2)]
        crowd.wait_for_acks(500)
        change(tracker, file, keys(1, 2), processes=2)
        shops.wait_for_sales(100)
        change(tracker, file, keys(2, 1), processes=2)
        crowd.wait_for_acks(500)
        shops.wait_for_sales(100)
        assert 200 == postback(tracker.public_port, click_id=early[0], txid="early", amount="10").status
        change(tracker, file, keys(2), processes=2)
        shops.wait_for_sales(100)
        late = postback(tracker.public_port, click_id=early[1], txid="too-late", amount="10")
        assert (400, "unknown_key") == (late.status, late.said["reason"])
        late_click = click_id_of(click(tracker.public_port))
        shops.stop()
        history = crowd.stop()
        assert history.flawless, history
        assert {(200, "kept")} == set(shops.answers), shops.answers
        until(lambda: all_is_shipped(dsn, tmp_path / "spool"), "every click is shipped", every=0.1)
        tokens = [token.decode() for token, _ in history.acks] + shops.click_ids
        assert {1, 2} == set(map(signing_key, tokens))
        others = {RING.verify(token).uuid for token in (*shops.click_ids, *early, late_click)}
        rows = [row for row in stored_clicks(dsn) if row.click_id not in others and row.sub1 is not None]
        assert [] == accusations(history, rows, uuid_of=lambda token: RING.verify(token).uuid)
        until(lambda: value(dsn, "SELECT count(*) FROM pending") == 0, "no sale waits")
        assert shops.answers.total() + 1 == value(dsn, "SELECT count(*) FROM conversions")
        assert workers == tracker.workers()
        assert 0 == tracker.metric("tracker_worker_restarts_total")
        assert all(base64.b64encode(secret).decode() not in tracker.output for secret in SECRETS.values())
    assert_verified(environ)


def test_the_admin_token_is_changed_in_its_file(dsn: str, tmp_path: Path) -> None:
    """Who leaves takes it with him; control has to forget it, and its jobs need not stop for that."""
    make_world(dsn, links=1)
    file = tmp_path / "token"
    file.write_text(ADMIN_TOKEN)
    environ = tracker_environ(dsn, tmp_path / "spool", TRACKER_ADMIN_TOKEN="", TRACKER_ADMIN_TOKEN_FILE=str(file))
    with running("control", environ) as tracker:
        assert 200 == tracker.admin("GET", "/v1/links")[0]
        change(tracker, file, "the-next-admin-token-of-the-tests\n", processes=1)
        assert 401 == tracker.admin("GET", "/v1/links")[0]
        assert 200 == tracker.admin("GET", "/v1/links", token="the-next-admin-token-of-the-tests")[0]


def test_a_shops_token_is_changed_without_a_401(dsn: str, tmp_path: Path) -> None:
    """Many senders never try again after a 401: for as long as a shop takes to change over, both tokens are good."""
    make_world(dsn)
    environ = tracker_environ(dsn, tmp_path / "spool")
    with contextlib.ExitStack() as stack:
        tracker = stack.enter_context(running("serve", environ))
        each_worker = one_connection_per_worker(tracker.public_port, 2).values()
        for connection in each_worker:
            stack.enter_context(connection)
        shops = stack.enter_context(buyers(tracker.public_port, TOKEN))
        shops.wait_for_sales(50)
        status, issued = tracker.admin("POST", "/v1/programs/shop/tokens", {"label": "2027"})
        assert 201 == status
        until(lambda: {probe(one, issued["token"]) for one in each_worker} == {200}, "each worker knows the new token")
        shops.tokens = (TOKEN, issued["token"])
        shops.wait_for_sales(50)
        shops.tokens = (issued["token"],)
        shops.wait_for_sales(50)
        assert 200 == tracker.admin("DELETE", "/v1/programs/shop/credentials/5")[0]
        until(lambda: {probe(one, TOKEN) for one in each_worker} == {401}, "each worker refuses the old token")
        shops.wait_for_sales(50)
        shops.stop()
        assert {(200, "kept")} == set(shops.answers), shops.answers
        sold = "SELECT count(*) FROM conversion_state WHERE txid LIKE 'sale-%'"
        until(lambda: value(dsn, sold) == shops.answers.total(), "each sale is one conversion")


def probe(connection: Connection, token: str) -> int:
    """What a worker says to a token, with a sale that it has already or takes once."""
    return connection.postback(click_id=click_id_of(connection.click("l1")), txid="probe", token=token).status
