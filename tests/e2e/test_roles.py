"""Roles as an operator meets them: started alone, twice, over each other, without their database."""

from __future__ import annotations

import contextlib
import shutil
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from demo_world import Database, make_world, own_database, value
from judge import History, all_is_shipped, assert_verified, clients, stored_clicks
from owner_process import wait_for_end
from postgres_fixtures import PostgresFactory
from tracker_process import KEYRING, children, run_tracker, running, tracker_environ, until, within
from visitor import Connection, click, one_connection_per_worker, postback, urgent_postback

from tracker.storage.embedded.server import dsn_of_running

LINK_SECONDS = 1.0     # the contract: a new or changed link works on every worker


@pytest.fixture
def database(postgres_factory: PostgresFactory) -> Iterator[Database]:
    with own_database(postgres_factory(), links=50) as started:
        yield started


def assert_one_sentence(output: str, *words: str) -> None:
    """What a person can act on: a line that says what is wrong, and no traceback."""
    lines = [line for line in output.splitlines() if line]
    assert 1 == len(lines), output
    assert all(word in lines[0] for word in words), output


def test_control_alone_manages_and_serves_no_clicks(dsn: str, tmp_path: Path) -> None:
    """A control pod must not take clicks: it has no spool that outlives it."""
    make_world(dsn, links=3)
    with running("control", tracker_environ(dsn, tmp_path / "spool")) as tracker:
        assert (200, "ready") == (tracker.admin("GET", "/readyz")[0], tracker.admin("GET", "/readyz")[1]["status"])
        assert 200 == tracker.admin("GET", "/healthz")[0]
        assert 3 == len(tracker.admin("GET", "/v1/links")[1]["items"])
        assert 401 == tracker.admin("GET", "/v1/links", token="somebody-elses")[0]
        assert [] == tracker.workers()
        assert 404 == tracker.admin("GET", "/c/l1")[0]
        tracker.terminate()
        assert 0 == tracker.exit_code()
    assert not (tmp_path / "spool").exists()


def test_an_edge_alone_redirects_records_and_manages_nothing(dsn: str, tmp_path: Path) -> None:
    """An edge faces the internet: the admin API is not there, on either port."""
    make_world(dsn, links=3)
    with running("edge", tracker_environ(dsn, tmp_path / "spool")) as tracker:
        assert 302 == click(tracker.public_port).status
        assert 404 == tracker.admin("GET", "/v1/links")[0]
        with Connection(tracker.public_port) as public:
            for path in ("/metrics", "/readyz", "/healthz", "/v1/links"):
                assert 404 == public.ask("GET", path).status, path
        until(lambda: value(dsn, "SELECT count(*) FROM clicks") == 1, "the click has a row")
        tracker.terminate()
        assert 0 == tracker.exit_code()


def test_readiness_goes_before_the_door_closes(dsn: str, tmp_path: Path) -> None:
    """Balancers need to see it while requests are still answered, or each deployment drops some."""
    make_world(dsn, links=3)
    with running("edge", tracker_environ(dsn, tmp_path / "spool")) as tracker:
        assert 200 == tracker.admin("GET", "/readyz")[0]
        tracker.terminate()
        until(lambda: tracker.admin("GET", "/readyz")[0] == 503, "it says that it is not ready", every=0.001)
        answer = click(tracker.public_port)
        assert 302 == answer.status
        assert "close" == click(tracker.public_port).headers["connection"]
        assert 200 == tracker.admin("GET", "/healthz")[0]
        assert 0 == tracker.exit_code()


@pytest.mark.parametrize(("role", "setting"), [
    ("edge", "TRACKER_PORT"), ("serve", "TRACKER_ADMIN_PORT"), ("control", "TRACKER_ADMIN_PORT"),
])  # fmt: skip
def test_a_taken_port_is_one_sentence(dsn: str, tmp_path: Path, role: str, setting: str) -> None:
    """The commonest mistake of a first try; a traceback would send people away."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ended = run_tracker([role], tracker_environ(dsn, tmp_path / "spool", **{setting: port}))
    assert 1 == ended.returncode
    assert_one_sentence(ended.stdout + ended.stderr, port, "taken", setting)


def test_the_port_of_a_running_tracker_is_taken_too(dsn: str, tmp_path: Path) -> None:
    """SO_REUSEPORT would let a second one in: half of the clicks would go to the wrong database, silently."""
    make_world(dsn, links=3)
    with running("edge", tracker_environ(dsn, tmp_path / "one")) as tracker:
        ended = run_tracker(["edge"], tracker_environ(dsn, tmp_path / "two", TRACKER_PORT=str(tracker.public_port)))
        assert 1 == ended.returncode
        assert_one_sentence(ended.stdout + ended.stderr, str(tracker.public_port), "taken")
        assert 302 == click(tracker.public_port).status


def test_all_mistakes_in_the_settings_are_told_at_once(tmp_path: Path) -> None:
    """Each restart of a deployment costs minutes."""
    wrong = {"TRACKER_PORT": "eighty", "TRACKER_WORKER": "2", "TRACKER_SECRET_KEYS": "1:c2hvcnQ="}
    ended = run_tracker(["serve"], tracker_environ("mysql://nowhere", tmp_path, **wrong))
    assert 2 == ended.returncode
    lines = (ended.stdout + ended.stderr).splitlines()
    assert {"TRACKER_DATABASE_URL", *wrong} == {line.partition(":")[0] for line in lines}
    assert "did you mean TRACKER_WORKERS" in ended.stdout + ended.stderr
    assert "c2hvcnQ" not in ended.stdout + ended.stderr


def test_a_dead_worker_is_replaced_and_the_sums_stay_exact(dsn: str, tmp_path: Path) -> None:
    """A counter that forgot a dead worker's clicks would read as loss, or hide one."""
    make_world(dsn, links=3)
    environ = tracker_environ(dsn, tmp_path / "spool")
    with running("serve", environ) as tracker:
        made = 0

        def visit_each_worker() -> None:
            nonlocal made
            for connection in one_connection_per_worker(tracker.public_port, 2).values():
                with connection:
                    assert {302} == {connection.click("l1").status for _ in range(10)}
            made = int(tracker.metric("tracker_clicks_total", "click"))

        visit_each_worker()
        before = made
        until(lambda: value(dsn, "SELECT count(*) FROM clicks") == before, "the clicks are rows")
        victim = tracker.workers()[0]
        tracker.kill_worker(victim)
        assert before == tracker.metric("tracker_clicks_total", "click")
        until(lambda: len(tracker.workers()) == 2 and victim not in tracker.workers(), "the worker is replaced")
        until(lambda: tracker.metric("tracker_ready") == 2, "both workers are ready")
        assert (1, 2) == (tracker.metric("tracker_worker_restarts_total"), tracker.metric("tracker_workers"))
        visit_each_worker()
        assert made >= before + 20
        until(lambda: value(dsn, "SELECT count(*) FROM clicks") == made, "as many rows as the metrics say")
        assert made == tracker.metric("tracker_clicks_appended_total")
        assert_verified(environ)


def test_sigterm_to_a_worker_that_is_just_starting_is_an_orderly_end(dsn: str, tmp_path: Path) -> None:
    """It had answered nobody; an exit code of 1 would have a deployment called failed. Found by rounds of random faults."""
    make_world(dsn)
    with running("serve", tracker_environ(dsn, tmp_path / "spool")) as tracker:
        victim = tracker.workers()[0]
        tracker.kill_worker(victim)
        until(lambda: victim not in tracker.workers() and len(tracker.workers()) == 2, "its successor has begun", every=0.002)
        tracker.terminate()
        assert 0 == tracker.exit_code()


def test_an_edge_starts_without_postgres_and_knows_everything_it_knew(database: Database, tmp_path: Path) -> None:
    """A node is rebooted during an outage of the database: every link must work, every shop must be believed."""
    environ = tracker_environ(database.dsn, tmp_path / "spool")
    with running("edge", environ) as tracker:
        bought = click(tracker.public_port)
        until(lambda: value(database.dsn, "SELECT count(*) FROM clicks") == 1, "the click has a row")
        until(lambda: len(list((tmp_path / "spool" / "numbers").glob("*.json"))) >= 4, "the stock of worker numbers is full")
        tracker.terminate()
        assert 0 == tracker.exit_code()
    database.stop_immediately()
    with running("edge", environ) as tracker:
        tokens = {click(tracker.public_port, f"l{number}").token for number in range(1, 51)}
        assert 50 == len(tokens)
        assert 404 == click(tracker.public_port, "never-made").status
        sale = {"click_id": bought.token, "txid": "in-the-dark", "amount": "10"}
        answer = urgent_postback(tracker.public_port, **sale)
        assert (200, "queued") == (answer.status, answer.said["status"])
        assert 401 == urgent_postback(tracker.public_port, **sale, token="wrong").status
        database.start()
        until(lambda: value(database.dsn, "SELECT count(*) FROM clicks") == 51, "all clicks are rows")
        until(lambda: value(database.dsn, "SELECT count(*) FROM ledger") == 1, "the sale is recorded")
        known = {"status": "duplicate", "conversion_id": answer.said["conversion_id"]}
        until(lambda: known.items() <= postback(tracker.public_port, **sale).said.items(),
              "the other worker has found the database, too, and says `queued` no more")
    assert_verified(environ)


def test_a_new_and_a_changed_link_work_on_every_worker_within_a_second(dsn: str, tmp_path: Path) -> None:
    """Whoever makes a link shares it at once; whoever mends one has visitors on the wrong page until then."""
    make_world(dsn, links=3)
    with running("serve", tracker_environ(dsn, tmp_path / "spool")) as tracker, contextlib.ExitStack() as stack:
        workers = [stack.enter_context(one) for one in one_connection_per_worker(tracker.public_port, 2).values()]

        def on_every_worker(slug: str, destination: str) -> bool:
            answers = [connection.click(slug) for connection in workers]
            return all(answer.status == 302 and answer.location.startswith(destination) for answer in answers)

        def make(number: int) -> Callable[[], bool]:
            link = {"slug": f"new-{number}", "program": "shop", "partner": "anna", "destination": "https://new.example/?c={click_id}"}
            assert 201 == tracker.admin("POST", "/v1/links", link)[0]
            return lambda: on_every_worker(f"new-{number}", "https://new.example/")

        def change(number: int) -> Callable[[], bool]:
            assert 200 == tracker.admin("PATCH", "/v1/links/l1", {"destination": f"https://to{number}.example/?c={{click_id}}"})[0]
            return lambda: on_every_worker("l1", f"https://to{number}.example/")

        within(LINK_SECONDS, make, "the new link works on every worker")
        within(LINK_SECONDS, change, "the changed link leads to its new place on every worker")
        assert 200 == tracker.admin("PATCH", "/v1/links/l1", {"status": "paused"})[0]
        until(lambda: {connection.click("l1").status for connection in workers} == {410}, "the paused link is closed")


def stored_ids(dsn: str) -> list[bytes]:
    return sorted(row.click_id for row in stored_clicks(dsn))


def acked_ids(*histories: History) -> list[bytes]:
    assert all(history.flawless for history in histories), histories
    return sorted(KEYRING.verify(token).uuid for history in histories for token, _ in history.acks)


@pytest.mark.fault(17)
def test_two_edges_share_a_spool_directory_and_every_row_comes_once(dsn: str, tmp_path: Path) -> None:
    """Two starts over one volume, by mistake or while one replaces the other: each writes its own spool."""
    make_world(dsn)
    environ = tracker_environ(dsn, tmp_path / "spool")
    with contextlib.ExitStack() as stack:
        edges = [stack.enter_context(running("edge", environ)) for _ in range(2)]
        crowds = [stack.enter_context(clients(edge.public_port, tmp_path / str(edge.pid), connections=8)) for edge in edges]
        for crowd in crowds:
            crowd.wait_for_acks(500)
        histories = [crowd.stop() for crowd in crowds]
        edges[0].kill_everything()      # what it leaves is shipped by the other at its next look, or by the next start
        stack.enter_context(running("edge", environ))
        until(lambda: all_is_shipped(dsn, tmp_path / "spool"), "every click is shipped")
        assert acked_ids(*histories) == stored_ids(dsn)
        assert_verified(environ)


@pytest.mark.fault(17)
def test_a_copied_spool_brings_nothing_twice(database: Database, tmp_path: Path) -> None:
    """A restored volume, a copied disk: two machines ship the same rows at the same time, each sure that they are its own."""
    environ = tracker_environ(database.dsn, tmp_path / "spool")
    with running("edge", environ) as tracker, clients(tracker.public_port, tmp_path / "acks", links=50) as crowd:
        database.stop_immediately()
        crowd.wait_for_acks(5_000)
        history = crowd.stop()
        tracker.kill_everything()
    database.start()
    shutil.copytree(tmp_path / "spool", tmp_path / "copy")
    copied = tracker_environ(database.dsn, tmp_path / "copy")
    with running("edge", environ, all_workers=False), running("edge", copied, all_workers=False):
        for spool_dir in (tmp_path / "spool", tmp_path / "copy"):
            until(partial(all_is_shipped, database.dsn, spool_dir), "the spools are shipped")
    assert acked_ids(history) == stored_ids(database.dsn)
    assert_verified(environ)
    assert_verified(copied)


def dev_environ() -> dict[str, str]:
    return {name: value for name, value in tracker_environ("", Path()).items() if not name.startswith("TRACKER_")}


def test_a_second_dev_on_the_same_data_is_one_sentence(tmp_path: Path) -> None:
    """Two terminals, one folder: the second must say so, and must not harm the first."""
    arguments = ("--data", str(tmp_path / "data"), "--port", "0", "--admin-port", "0", "--workers", "1")
    with running("dev", dev_environ(), *arguments) as tracker:
        ended = run_tracker(["dev", *arguments], dev_environ())
        assert 1 == ended.returncode
        assert_one_sentence(ended.stdout + ended.stderr, "in use by another process", str(tracker.pid))
        other = ("--data", str(tmp_path / "other"), "--port", str(tracker.public_port), "--admin-port", "0")
        taken = run_tracker(["dev", *other], dev_environ())
        assert 1 == taken.returncode
        assert_one_sentence(taken.stdout + taken.stderr, str(tracker.public_port), "taken")
        assert 302 == click(tracker.public_port, "demo").status


def test_dev_comes_back_after_kill_9_of_everything_and_leaves_no_server_behind(tmp_path: Path) -> None:
    """The laptop's battery, or an impatient person: the next start recovers, with every click that was acknowledged."""
    data = tmp_path / "data"
    arguments = ("--data", str(data), "--port", "0", "--admin-port", "0", "--workers", "2")
    with running("dev", dev_environ(), *arguments) as tracker:
        postgres = [pid for pid in children(tracker.pid) if pid not in tracker.workers()]
        dsn = dsn_of_running(data)
        assert dsn
        with Connection(tracker.public_port) as visitor:
            locations = [visitor.click("demo", f"sub1={number}").location for number in range(100)]
        tracker.kill_everything()
        for pid in postgres:
            wait_for_end(pid)
    with running("dev", dev_environ(), *arguments) as tracker:
        dsn = dsn_of_running(data)
        assert dsn
        until(lambda: value(dsn, "SELECT count(DISTINCT sub1) FROM clicks") == 100, "every click is a row")
        assert 100 == len(set(locations)) == value(dsn, "SELECT count(*) FROM clicks")
        postgres = [pid for pid in children(tracker.pid) if pid not in tracker.workers()]
        verified = run_tracker(["verify", "--json", "--data", str(data)], dev_environ())
        assert 0 == verified.returncode, verified.stdout + verified.stderr
        tracker.terminate()
        assert 0 == tracker.exit_code()
        for pid in postgres:
            wait_for_end(pid)
