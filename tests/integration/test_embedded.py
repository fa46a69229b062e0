"""The life of the embedded server: one owner, never outliving it, nothing lost whatever is killed."""

import os
import signal
import subprocess
import tempfile
import threading
from pathlib import Path

import pytest
from owner_process import VISIT, OwnerProcess, query, wait_for_end
from postgres_fixtures import PostgresFactory, engine_bin_dir

from tracker.storage.embedded import folder as pg_folder
from tracker.storage.embedded import process as pg_process
from tracker.storage.embedded.server import (
    EmbeddedPostgres,
    EmbeddedPostgresError,
    FolderInUseError,
    database_at,
    dsn_of_running,
)

A_ROW = "CREATE TABLE kept AS SELECT 42 AS value"
THE_ROW = "SELECT value FROM kept"


def processes_of(data_dir: Path) -> list[int]:
    """All processes of the server on this folder."""
    return pg_process._running_in(pg_folder.cluster(data_dir))


@pytest.fixture
def bin_dir(engine: str) -> Path:
    return engine_bin_dir(engine)


async def test_data_persists_over_a_stop_and_a_start(postgres_factory: PostgresFactory) -> None:
    """The first promise of a database."""
    with postgres_factory() as postgres:
        await query(postgres.dsn, A_ROW)
    assert not postgres.alive
    with postgres_factory() as postgres:
        assert await query(postgres.dsn, THE_ROW) == 42


async def test_the_server_is_durable_and_listens_on_no_network(postgres_factory: PostgresFactory) -> None:
    """fsync off loses money at a power cut; with trust authentication a TCP port is open to every local account."""
    with postgres_factory() as postgres:
        for name, expected in {"fsync": "on", "synchronous_commit": "on", "listen_addresses": "", "jit": "off"}.items():
            assert (name, expected) == (name, await query(postgres.dsn, f"SHOW {name}"))
        run_dir = Path(await query(postgres.dsn, "SHOW unix_socket_directories"))
        assert run_dir.stat().st_mode & 0o777 == 0o700
    assert not run_dir.exists()


async def test_a_data_path_longer_than_a_socket_may_have_works(
    postgres_factory: PostgresFactory, tmp_path: Path
) -> None:
    """Socket paths end at some 100 bytes: a deep project folder must not stop the server."""
    with postgres_factory(tmp_path / ("a" * 100) / ("b" * 100)) as postgres:
        assert await query(postgres.dsn, "SELECT 1") == 1


async def test_a_temporary_folder_longer_than_a_socket_may_have_works(
    postgres_factory: PostgresFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TMPDIR may be deep too: macOS and CI systems set such."""
    deep = tmp_path / ("c" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with postgres_factory() as postgres:
        assert await query(postgres.dsn, "SELECT 1") == 1


def test_ctrl_c_in_the_terminal_does_not_reach_the_server(postgres_factory: PostgresFactory) -> None:
    """It goes to the whole foreground group: the database would be gone before we have flushed."""
    with postgres_factory() as postgres:
        assert os.getsid(postgres.pid) != os.getsid(0)


async def test_a_second_start_on_the_same_data_is_refused_in_one_sentence(
    postgres_factory: PostgresFactory, tmp_path: Path, bin_dir: Path
) -> None:
    """Two servers on one folder destroy it; an endless stack trace helps nobody."""
    with OwnerProcess(tmp_path / "data", bin_dir=bin_dir) as owner:
        with pytest.raises(FolderInUseError) as refusal:
            postgres_factory().start()
        assert f"in use by another process ({owner.pid})" in str(refusal.value)
        assert "\n" not in str(refusal.value)
        assert await query(owner.answer["dsn"], "SELECT 1") == 1


async def test_a_killed_owner_takes_its_server_along_and_nothing_is_lost(
    postgres_factory: PostgresFactory, tmp_path: Path, bin_dir: Path
) -> None:
    """A server left behind holds memory and the folder; its socket folder would stay in /tmp for ever."""
    with OwnerProcess(tmp_path / "data", bin_dir=bin_dir) as owner:
        await query(owner.answer["dsn"], A_ROW)
        run_dir = pg_folder.ready_run_dir(pg_folder.cluster(tmp_path / "data"))
        assert run_dir is not None
        owner.kill()
        wait_for_end(owner.answer["pid"])
    assert processes_of(tmp_path / "data") == []
    with postgres_factory() as postgres:
        assert await query(postgres.dsn, THE_ROW) == 42
        assert not run_dir.exists()


async def test_after_kill_9_of_everything_the_next_start_recovers(
    postgres_factory: PostgresFactory, tmp_path: Path, bin_dir: Path
) -> None:
    """A power cut, an out-of-memory kill, a removed container: committed is committed."""
    with OwnerProcess(tmp_path / "data", bin_dir=bin_dir) as owner:
        await query(owner.answer["dsn"], A_ROW)
        everything = processes_of(tmp_path / "data")
        assert owner.answer["pid"] in everything
        for pid in (owner.answer["pid"], *everything):
            pg_process._kill(pid, signal.SIGKILL)
        owner.kill()
    with postgres_factory() as postgres:
        assert await query(postgres.dsn, THE_ROW) == 42
        assert "was not properly shut down; automatic recovery" in postgres.log_path.read_text()


async def test_a_server_whose_owner_vanished_is_stopped_by_the_next_start(
    postgres_factory: PostgresFactory, tmp_path: Path, bin_dir: Path
) -> None:
    """Where the kernel sends no death signal, a server would be left behind and block its folder."""
    with OwnerProcess(tmp_path / "data", bin_dir=bin_dir, without_death_signal=True) as owner:
        await query(owner.answer["dsn"], A_ROW)
        owner.kill()
    assert await query(owner.answer["dsn"], THE_ROW) == 42
    with postgres_factory() as postgres:
        assert await query(postgres.dsn, THE_ROW) == 42
        assert owner.answer["pid"] not in processes_of(tmp_path / "data")
        assert "database system is shut down" in postgres.log_path.with_suffix(".log.1").read_text()


async def test_a_server_that_does_not_react_is_killed_by_the_next_start(
    postgres_factory: PostgresFactory, tmp_path: Path, bin_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped or stuck process answers no signal but the last one; its backends must go with it."""
    monkeypatch.setattr(pg_process, "ORPHAN_STOP_SECONDS", 1.0)
    with OwnerProcess(tmp_path / "data", bin_dir=bin_dir) as owner:
        await query(owner.answer["dsn"], A_ROW)
        os.kill(owner.answer["pid"], signal.SIGSTOP)
        owner.kill()
    with postgres_factory() as postgres:
        assert await query(postgres.dsn, THE_ROW) == 42


async def test_a_reused_process_id_in_a_stale_pid_file_does_not_block_the_start(
    postgres_factory: PostgresFactory, tmp_path: Path
) -> None:
    """After a restart of the machine or container any program may have the dead server's number, and must live on."""
    with postgres_factory() as postgres:
        pass
    cluster = pg_folder.cluster(tmp_path / "data")
    with subprocess.Popen(["sleep", "60"], user=cluster.stat().st_uid) as stranger:
        (cluster / "postmaster.pid").write_text(f"{stranger.pid}\n{cluster}\n0\n5432\n/tmp\n\n0 0\nready\n")
        with postgres_factory() as postgres:
            assert await query(postgres.dsn, "SELECT 1") == 1
        assert stranger.poll() is None
        stranger.kill()


def test_a_server_that_died_is_reported_at_the_stop(postgres_factory: PostgresFactory) -> None:
    """A crash that passes for a clean stop is never looked into."""
    postgres = postgres_factory()
    postgres.start()
    os.kill(postgres.pid, signal.SIGKILL)
    wait_for_end(postgres.pid)
    with pytest.raises(EmbeddedPostgresError, match="ended with -9"):
        postgres.stop()


async def test_a_killed_initdb_leaves_nothing_that_looks_like_data(
    postgres_factory: PostgresFactory, tmp_path: Path
) -> None:
    """Half a cluster would refuse to start for ever."""
    half = tmp_path / "data" / "postgres" / "initdb-killed"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    with postgres_factory() as postgres:
        assert await query(postgres.dsn, "SELECT 1") == 1
    assert not half.exists()


def test_a_failed_start_says_why_and_leaves_nothing_behind(postgres_factory: PostgresFactory, tmp_path: Path) -> None:
    """The reason stands in a log that nobody would find, and a lock kept would refuse the next try."""
    with pytest.raises(EmbeddedPostgresError, match="no_such_setting"):
        postgres_factory(settings={"no_such_setting": "1"}).start()
    assert processes_of(tmp_path / "data") == []
    with postgres_factory():
        pass


def test_the_log_holds_this_run_and_the_last(postgres_factory: PostgresFactory) -> None:
    """Without a bound it fills the disk that the clicks need."""
    for _ in range(3):
        with postgres_factory() as postgres:
            pass
    logs = sorted(postgres.log_path.parent.glob("server.log*"))
    assert [postgres.log_path, postgres.log_path.with_suffix(".log.1")] == logs
    assert all(log.read_text().count("starting PostgreSQL") == 1 for log in logs)


def test_a_start_outside_the_main_thread_is_refused(tmp_path: Path) -> None:
    """Linux would end the server with that thread, at a time nobody expects."""
    raised: list[BaseException] = []

    def start() -> None:
        try:
            EmbeddedPostgres(tmp_path).start()
        except RuntimeError as error:
            raised.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    (refusal,) = raised
    assert "main thread" in str(refusal)


def test_another_command_finds_the_running_server_by_its_folder(tmp_path: Path, bin_dir: Path) -> None:
    """`tracker link add --data DIR` works beside `tracker dev`, and is not misled by the files of a killed server."""
    data_dir = tmp_path / "data"
    assert dsn_of_running(data_dir) is None
    with OwnerProcess(data_dir, bin_dir=bin_dir) as owner:
        assert owner.answer["dsn"] == dsn_of_running(data_dir)
        os.kill(owner.answer["pid"], signal.SIGKILL)
        wait_for_end(owner.answer["pid"])
        assert dsn_of_running(data_dir) is None


async def test_commands_side_by_side_share_a_server_until_the_last_has_left(tmp_path: Path) -> None:
    """The command that started it would else cut the other one's work."""
    data_dir = tmp_path / "data"
    with OwnerProcess(data_dir, code=VISIT) as host, OwnerProcess(data_dir, code=VISIT) as guest:
        assert host.answer == guest.answer
        host.ask_to_leave()
        assert await query(guest.answer["dsn"], "SELECT 1 FROM pg_sleep(0.3)") == 1
        assert not host.has_ended
        guest.ask_to_leave()
        assert guest.exit_code() == host.exit_code() == 0
    assert dsn_of_running(data_dir) is None
    assert processes_of(data_dir) == []


async def test_a_command_joins_the_server_of_a_long_running_owner(tmp_path: Path) -> None:
    """It must neither refuse nor stop what is not its own."""
    with OwnerProcess(tmp_path) as owner, OwnerProcess(tmp_path, code=VISIT) as guest:
        assert owner.answer["dsn"] == guest.answer["dsn"]
        guest.ask_to_leave()
        assert guest.exit_code() == 0
        assert await query(owner.answer["dsn"], "SELECT 1") == 1


def test_a_command_makes_no_database_in_a_mistyped_folder(tmp_path: Path) -> None:
    """The new link would be in an empty database, and nowhere to be seen."""
    with pytest.raises(EmbeddedPostgresError, match="no database in"), database_at(tmp_path / "typo"):
        pass
    assert not (tmp_path / "typo").exists()


async def test_a_database_from_the_template_is_fresh_every_time(dsn: str) -> None:
    """Rows that leak from test to test make both lie."""
    assert await query(dsn, "SELECT count(*) FROM clicks") == 0
