"""The whole service on a database where it may do no more than its roles may: clicks, sales, faults, jobs, admin API.

What a role lacks shows only where it is used, so each statement of the service has to be met here once.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from demo_world import fetch, value
from judge import all_is_shipped
from recording import edge as recording_edge
from recording import outcomes, sale
from roled import Roled, roled
from shipping import click_id, click_row, database, eventually, live_spool, nul_row
from tracker_process import KEYRING, TrackerProcess, run_tracker, running, tracker_environ, until
from visitor import click, postback

from tracker.domain.click_id import ClickIdMaker
from tracker.storage.postgres import PostgresError, connect, create_pool
from tracker.storage.spool.cursor import SpoolCursor

DAY_MS = 86_400_000
INSERT_CLICK = """
    INSERT INTO {} (click_id, link_id, link_version, program_id, partner_id, flags, visitor) VALUES ($1, 1, 1, 7, 13, 0, 1)
"""


@pytest.fixture
def world(engine: str, tmp_path: Path) -> Iterator[Roled]:
    with roled(engine, tmp_path / "postgres") as made:
        yield made


def work_for_the_jobs(dsn: str) -> None:
    """What every job finds to do when control starts: a missing day, a stray, unfolded statistics, an old number."""
    last = value(dsn, "SELECT max(inhrelid::regclass::text) FROM pg_inherits WHERE inhparent = 'clicks'::regclass")
    fetch(dsn, f"DROP TABLE {last}")
    fetch(dsn, INSERT_CLICK.format("clicks_stray"), UUID(bytes=click_id()))
    fetch(dsn, "INSERT INTO worker_numbers (number, seen_at) VALUES (3, now() - interval '40 days')")
    land(dsn, click_id())


def land(dsn: str, uuid: bytes) -> None:
    """A click's row, and its part of the statistics."""
    fetch(dsn, INSERT_CLICK.format("clicks"), UUID(bytes=uuid))
    fetch(dsn, """
        INSERT INTO click_stats_new (bucket, kind, link_id, program_id, partner_id, channel, country, device, clicks)
        SELECT date_bin('15 minutes', click_time($1), '2000-01-01 00:00:00+00'), 'click', *
          FROM (VALUES (1, NULL, NULL, NULL, NULL, NULL, 1), (NULL, 7, 13, '', '', '', 1)) AS grains
    """, UUID(bytes=uuid))  # fmt: skip


def the_jobs_did_it(dsn: str) -> bool:
    return fetch(dsn, """
        SELECT (SELECT count(*) FROM clicks_stray) = 0
           AND (SELECT count(*) FROM worker_numbers WHERE number = 3 AND seen_at < now() - interval '39 days') = 0
           AND (SELECT count(*) FROM click_stats_by_link) > 0 AND (SELECT count(*) FROM click_stats_by_source) > 0
           AND (SELECT count(*) FROM pg_inherits WHERE inhparent = 'clicks'::regclass) = 32
    """)[0][0] is True  # fmt: skip


def test_the_service_runs_as_edge_and_control(world: Roled, tmp_path: Path) -> None:
    """A right that is missing in production is an outage at the moment it is first needed: at night, in a failover."""
    spool = tmp_path / "spool"
    work_for_the_jobs(world.dsn)
    as_edge = tracker_environ(world.of("tracker_edge"), spool)
    as_control = tracker_environ(world.of("tracker_control"), spool)
    with ExitStack() as stack:
        control = stack.enter_context(running("control", as_control))
        edge = stack.enter_context(running("edge", as_edge))
        until(lambda: the_jobs_did_it(world.dsn), "each job has done its work")
        manage_everything(control, edge)
        bought = click(edge.public_port, "l1")
        until(lambda: all_is_shipped(world.dsn, spool), "the click is shipped")
        sold = {"click_id": bought.token, "txid": "A-1", "amount": "10"}
        assert "recorded" == postback(edge.public_port, **sold).said["status"]
        assert "duplicate" == postback(edge.public_port, **sold).said["status"]
        decide(control, postback(edge.public_port, **sold).said["conversion_id"])
        tried = "SELECT count(*) FROM outbox WHERE attempts > 0 AND last_reason IS NOT NULL"
        until(lambda: value(world.dsn, tried) == 1, "what an edge has written control has tried to send")
        let_a_sale_wait(world.dsn, edge)
        assert 401 == postback(edge.public_port, **sold, token="wrong").status
        until(lambda: value(world.dsn, "SELECT count(*) FROM postback_log WHERE outcome = 'refused'") == 1, "the refusal is logged")
        for command in (["verify"], ["postbacks", "retry"], ["journal", "replay", "--since", "1h"]):
            ended = run_tracker(command, as_control)
            assert 0 == ended.returncode, ended.stdout + ended.stderr
        sessions = "SELECT usename, count(*) FROM pg_stat_activity WHERE usename LIKE 'tracker%' GROUP BY 1 ORDER BY 1"
        used = fetch(world.dsn, sessions)
        assert ["tracker_control", "tracker_edge"] == [row["usename"] for row in used]
        assert used[0]["count"] <= 14 and used[1]["count"] <= 2 * 10, used      # what roles.sql counts with
        for process in (edge, control):
            process.terminate()
            assert 0 == process.exit_code()
            assert "permission denied" not in process.output
    as_migrator = tracker_environ(world.of("tracker_migrator"), spool)
    for command in (["db", "init"], ["db", "check"]):
        ended = run_tracker(command, as_migrator)
        assert 0 == ended.returncode, ended.stdout + ended.stderr


def test_serve_runs_as_control(world: Roled, tmp_path: Path) -> None:
    """One process tree has one database URL: the role of the commands and jobs does what its edge workers do, too."""
    with running("serve", tracker_environ(world.of("tracker_control"), tmp_path / "spool")) as tracker:
        bought = click(tracker.public_port)
        until(lambda: all_is_shipped(world.dsn, tmp_path / "spool"), "the click is shipped")
        assert "recorded" == postback(tracker.public_port, click_id=bought.token, txid="A-1", amount="10").said["status"]
        assert 1 == len(tracker.admin("GET", "/v1/conversions")[1]["items"])
        tracker.terminate()
        assert 0 == tracker.exit_code()
        assert "permission denied" not in tracker.output


def manage_everything(control: TrackerProcess, edge: TrackerProcess) -> None:
    """Every kind that the admin API makes, changes, lists; a new link works at the edge at once."""
    terms = {"slug": "new", "currency": "EUR", "commission": "5%"}
    made: list[tuple[str, str, Any]] = [
        ("POST", "/v1/programs", terms), ("PATCH", "/v1/programs/new", {"commission": "6%"}),
        ("POST", "/v1/partners", {"slug": "bob", "name": "Bob"}), ("PATCH", "/v1/partners/bob", {"name": "Robert"}),
        ("POST", "/v1/links", {"slug": "n1", "program": "new", "partner": "bob", "destination": "https://new.example/?c={click_id}"}),
        ("PATCH", "/v1/links/n1", {"channel": "facebook"}),
        ("POST", "/v1/coupons", {"program": "new", "partner": "bob", "code": "BOB10"}),
        ("POST", "/v1/partners/anna/postbacks", {"url": "https://t.invalid/?c={ext}"}), ("POST", "/v1/outbox/retry", None),
        ("POST", "/v1/programs/new/tokens", None), ("POST", "/v1/programs/new/hmac", None),
    ]
    for method, path, body in made:
        status, said = control.admin(method, path, body)
        assert status in (200, 201), (method, path, said)
    assert 200 == control.admin("DELETE", f"/v1/programs/new/credentials/{said['credential_id']}")[0]
    for kind in ("programs", "partners", "links", "coupons", "conversions", "postbacks", "outbox",
                 "partners/anna/postbacks"):
        assert 200 == control.admin("GET", f"/v1/{kind}")[0], kind
    until(lambda: click(edge.public_port, "n1").status == 302, "the new link works")


def decide(control: TrackerProcess, conversion_id: str) -> None:
    decision = {"status": "rejected", "reason": "sent back"}
    status, said = control.admin("POST", f"/v1/conversions/{conversion_id}/decision", decision)
    assert (200, "rejected") == (status, said["status"]), said
    assert 200 == control.admin("GET", f"/v1/conversions/{conversion_id}")[0]


def let_a_sale_wait(dsn: str, edge: TrackerProcess) -> None:
    """A sale before its click: pending, then resolved by control when the row lands."""
    maker = ClickIdMaker(keyring=KEYRING, worker=9, random_counter=lambda: 7)
    uuid, token = maker.make(time.time_ns() // 1_000_000, 1)
    answer = postback(edge.public_port, click_id=token.decode(), txid="A-2", amount="20")
    assert "pending_click" == answer.said["status"]
    land(dsn, uuid)
    # Its mark, too: `tracker verify` counts clicks by the spools that brought them.
    fetch(dsn, "INSERT INTO spool_cursors (spool_id, log, next_seq, rows_stored) VALUES (1, 'clicks', 3, 3)")
    resolved = "SELECT count(*) FROM conversion_state WHERE txid = 'A-2' AND status = 'approved'"
    until(lambda: value(dsn, resolved) == 1, "it is resolved")


async def test_an_edge_puts_aside_what_postgres_refuses_and_lets_in_once_what_is_there(world: Roled, tmp_path: Path) -> None:
    """The careful ways (quarantine, strays, a lost mark, a poisoned sale) need rights that the plain ones never use."""
    as_edge = world.of("tracker_edge")
    twice, far = click_row(), click_row(click_id(int(time.time() * 1000) + 90 * DAY_MS))
    async with database(world.dsn) as db, live_spool(tmp_path) as shipping:
        shipping.append([twice, nul_row(), far])
        shipper = shipping.shipper(as_edge)
        assert await shipper.drain(20.0)
        mark = "SELECT rows_stored, rows_stray, rows_quarantined FROM spool_cursors WHERE log = 'clicks'"
        assert (1, 1, 1) == tuple(await db.fetchrow(mark))
        await db.execute("DELETE FROM spool_cursors")
        assert await shipping.shipper(as_edge).drain(20.0)
        assert (1, 1, 1) == tuple(await db.fetchrow(mark))
        assert 1 == await db.fetchval("SELECT count(*) FROM clicks")
    async with database(world.dsn) as db, recording_edge(as_edge, tmp_path) as made:
        poisoned = sale(None, program_id=7, link_id=None, customer="nul \0 here")
        assert "queued" == (await made.post(poisoned)).status
        await eventually(lambda: outcomes_are(db, {"quarantined": 1}))


async def outcomes_are(db: Any, expected: dict[str, int]) -> bool:
    return await outcomes(db) == expected


async def test_a_password_in_a_passfile_is_changed_while_sessions_are_open(world: Roled, tmp_path: Path) -> None:
    """A password that leaked has to go without a restart: open sessions go on, and new ones read the file."""
    hba = next((tmp_path / "postgres").rglob("pg_hba.conf"))
    hba.write_text("local all tracker_edge scram-sha-256\n" + hba.read_text())
    passfile = tmp_path / "pgpass"
    passfile.touch(mode=0o600)
    url = world.of("tracker_edge") + f"&passfile={passfile}"
    async with database(world.dsn) as db:
        await db.execute("ALTER ROLE tracker_edge PASSWORD 'one'")
        loaded = value(world.dsn, "SELECT pg_conf_load_time()")
        await db.execute("SELECT pg_reload_conf()")
        until(lambda: value(world.dsn, "SELECT pg_conf_load_time()") > loaded, "new sessions are asked for a password")
        passfile.write_text("*:*:*:*:one\n")
        pool = await create_pool(url, max_size=2)
        async with pool.acquire() as early:
            await db.execute("ALTER ROLE tracker_edge PASSWORD 'two'")
            with pytest.raises(PostgresError, match="password authentication failed"):
                await connect(url)
            passfile.write_text("*:*:*:*:two\n")
            async with pool.acquire() as late:
                assert ["tracker_edge"] * 2 == [await one.fetchval("SELECT current_user") for one in (early, late)]
        pool.terminate()


async def test_an_edge_ends_the_backend_that_holds_its_spool(world: Roled) -> None:
    """A backend stuck inside COPY holds the mark for ever; only ending it lets the rows behind it go on."""
    async with database(world.dsn) as db:
        for holder_role, role in (("edge", "edge"), ("edge", "control")):
            holder = await connect(world.of(f"tracker_{holder_role}"))
            pid = holder.get_server_pid()
            cursor = SpoolCursor(9, "clicks")
            await cursor.claim(holder)
            await holder.execute("BEGIN")
            await cursor.hold(holder, 0)
            other = await connect(world.of(f"tracker_{role}"))
            assert 0 == await SpoolCursor(9, "clicks").claim(other)
            assert 0 == await db.fetchval("SELECT count(*) FROM pg_stat_activity WHERE pid = $1", pid)
            holder.terminate()
            await other.close()
        # The other way round it may not, and waits: control's sessions are not an edge's to end.
        control, edge = await connect(world.of("tracker_control")), await connect(world.of("tracker_edge"))
        await cursor.claim(control)
        await control.execute("BEGIN")
        await cursor.hold(control, 0)
        with pytest.raises(PostgresError, match="lock timeout"):
            await SpoolCursor(9, "clicks").claim(edge)
        assert 1 == await db.fetchval("SELECT count(*) FROM pg_stat_activity WHERE pid = $1", control.get_server_pid())
        control.terminate()
        edge.terminate()
