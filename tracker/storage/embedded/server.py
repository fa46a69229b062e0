"""PostgreSQL as a child of this process, for `tracker dev` and the tests: nothing to install, nothing to configure.

Rules: the server never outlives its owner; data is never at risk (fsync on, and after `kill -9` of everything the next
start recovers); nobody's folder is opened to others; a data folder has one owner. Synchronous on purpose: the command
line calls it before the event loop starts.

Here: the life of one server. Not here: the folder and how a command finds a running server (embedded/folder.py), finding the
programs (embedded/binaries.py), starting and ending processes (embedded/process.py), and any SQL.
"""

import fcntl
import logging
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tracker.storage.embedded import folder as pg_folder
from tracker.storage.embedded.binaries import CACHE_DIR, Binaries, EmbeddedPostgresError, find_binaries, readable_by
from tracker.storage.embedded.folder import PORT, FolderInUseError, dsn_of_running
from tracker.storage.embedded.process import account_for, end_leftovers, spawn

__all__ = ["EmbeddedPostgres", "EmbeddedPostgresError", "FolderInUseError", "database_at", "dsn_of_running"]

log = logging.getLogger(__name__)

START_TIMEOUT_SECONDS = 900.0  # recovery replays up to max_wal_size: minutes on a slow disk; past this it is stuck
STOP_TIMEOUT_SECONDS = 120.0  # a fast stop writes what shared_buffers hold; past this SIGKILL, the next start recovers
POLL_SECONDS = 0.01
LONGEST_BASE = 60  # bytes; a socket's path may have 103 (macOS), our folder's and PostgreSQL's names take 40 of them
RUN_DIR_PREFIX = "tracker-"

SETTINGS: Mapping[str, str] = {
    "shared_buffers": "256MB",  # twice the default, taken only as needed: a trial's hot days stay in memory
    "max_wal_size": "2GB",  # at 10,000 clicks/s of some 700 B of WAL a checkpoint every 2 minutes, not every one
    "max_connections": "100",
    "jit": "off",  # tried: 127 to 334 ms instead of 0.85 for a look-up over many partitions
    "max_parallel_workers_per_gather": "0",  # /dev/shm is 64 MB in containers; and the other cores are the workers'
    "timezone": "UTC",
    "log_timezone": "UTC",
    "unix_socket_permissions": "0700",
    "log_min_error_statement": "panic",  # statements carry visitors' data, which has no place in a log
    "cluster_name": "tracker",
}
"""Given at every start, never written into the cluster: a new release's values hold for old data too."""

NOT_DURABLE: Mapping[str, str] = {"fsync": "off", "full_page_writes": "off"}


class EmbeddedPostgres:
    """The server of one data folder: a context manager, or start() and stop().

    data_dir: the folder given with --data, made when missing.
    bin_dir: the binaries to use; None: what pg_binaries.find_binaries finds.
    account: for root only: name of the account that the server runs as; None: pg_process.account_for chooses.
    durable: False, for tests only, is `initdb --no-sync` and fsync off.
    settings: further server settings; they win over SETTINGS.
    cache_dir: see pg_binaries.readable_by.

    start() belongs to the main thread, since Linux ends the server with the *thread* that started it. A process that
    forks shares its ownership of the folder with its children until the last of them has ended.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        bin_dir: Path | None = None,
        account: str | None = None,
        durable: bool = True,
        settings: Mapping[str, str] | None = None,
        cache_dir: Path = CACHE_DIR,
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.log_path = pg_folder.home(self.data_dir) / "server.log"
        self._bin_dir = bin_dir
        self._account_name = account
        self._durable = durable
        self._settings = {**SETTINGS, **({} if durable else NOT_DURABLE), **(settings or {})}
        self._cache_dir = cache_dir
        self._cluster = pg_folder.cluster(self.data_dir)
        self._account: pwd.struct_passwd | None = None
        self._lock: int | None = None
        self._run_dir: Path | None = None
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def dsn(self) -> str:
        """Connects as the superuser to the database `postgres`; asyncpg and psql read it. Only while started."""
        return self.dsn_for("postgres")

    def dsn_for(self, database: str) -> str:
        """As dsn, for the database of this name (letters, digits, underscores)."""
        if self._run_dir is None:
            raise RuntimeError("not started")
        return pg_folder.dsn_in(self._run_dir, database)

    @property
    def pid(self) -> int:
        """Process id of the server. Only while started."""
        if self._server is None:
            raise RuntimeError("not started")
        return self._server.pid

    @property
    def alive(self) -> bool:
        """Whether the server process runs: False before start(), after stop() and when it has died."""
        return self._server is not None and self._server.poll() is None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Own the folder, make the cluster when there is none, start the server, return when it takes queries.

        Waits as long as the server lives and recovers. Raises FolderInUseError when another process owns the folder,
        EmbeddedPostgresError for whatever else is in the way; then nothing is left running or locked.
        """
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("start() belongs to the main thread")
        if self._lock is not None:
            raise RuntimeError("started already")
        try:
            self._start()
        except OSError as exc:
            self._release()
            raise EmbeddedPostgresError(f"The database in {self.data_dir} cannot be started: {exc}.") from exc
        except BaseException:
            self._release()
            raise

    def stop(self) -> None:
        """Fast stop: connections are cut, everything is written, the folder is free. Nothing happens when not started.

        Raises EmbeddedPostgresError when the server had died or would not stop cleanly; the next start recovers.
        """
        server = self._server
        try:
            if server is None:
                return
            server.send_signal(signal.SIGINT)  # none is sent to a server that has ended
            try:
                code = server.wait(STOP_TIMEOUT_SECONDS)
            except subprocess.TimeoutExpired:
                raise EmbeddedPostgresError(f"PostgreSQL did not stop in time; its log: {self.log_path}.") from None
            if code != 0:
                raise EmbeddedPostgresError(f"PostgreSQL ended with {code}: {self._last_words()}")
        finally:
            self._release()

    def _start(self) -> None:
        home = pg_folder.home(self.data_dir)
        home.mkdir(parents=True, exist_ok=True)
        self._account = account_for(self._cluster, self._account_name)
        self._lock, stale_run_dir = pg_folder.own(self.data_dir)
        self._give_to_account(self._lock)
        binaries = find_binaries(self._bin_dir)
        if self._account:
            binaries = readable_by(binaries, self._account, self._cache_dir)
        end_leftovers(self._cluster)
        self._remove_run_dir(stale_run_dir)
        if not self._cluster.exists():
            self._make_cluster(binaries)
        self._refuse_other_version(binaries)
        self._run_dir = self._make_run_dir(self._lock)
        self._server = self._spawn(binaries)
        self._wait_until_ready(self._server)

    def _make_cluster(self, binaries: Binaries) -> None:
        """Made beside its place and renamed when whole: a killed initdb leaves nothing that looks like data."""
        home = self._cluster.parent
        for unfinished in home.glob("initdb-*"):
            shutil.rmtree(unfinished)
        fresh = Path(tempfile.mkdtemp(prefix="initdb-", dir=home))
        self._give_to_account(fresh)
        options = ["-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8"]
        initdb = spawn(
            [binaries.initdb, *options, *([] if self._durable else ["--no-sync"])],
            folder=fresh, account=self._account, output=subprocess.PIPE, on_owner_death=signal.SIGKILL,
        )  # fmt: skip
        output, _ = initdb.communicate()
        if initdb.returncode != 0:
            raise EmbeddedPostgresError(f"PostgreSQL could not make {self._cluster}: {_last_error(output)}")
        fresh.rename(self._cluster)
        _sync_folder(home)

    def _refuse_other_version(self, binaries: Binaries) -> None:
        version = (self._cluster / "PG_VERSION").read_text().strip()
        if version != str(binaries.major):
            raise EmbeddedPostgresError(
                f"The database in {self.data_dir} was made by PostgreSQL {version}, but {binaries.bin_dir} "
                f"is {binaries.major}: install {version}, move it with pg_dump, or choose another folder with --data."
            )

    def _make_run_dir(self, lock: int) -> Path:
        """The socket's folder, mode 0700, short whatever the data folder's path is, noted in the lock file.

        PostgreSQL touches its socket every hour, so that cleaners of /tmp leave it alone.
        """
        base = tempfile.gettempdir()
        if len(os.fsencode(base)) > LONGEST_BASE:
            base = "/tmp"  # noqa: S108 (a random name, made 0700)
        run_dir = Path(tempfile.mkdtemp(prefix=RUN_DIR_PREFIX, dir=base))
        self._give_to_account(run_dir)
        pg_folder.note(lock, str(run_dir))
        return run_dir

    def _spawn(self, binaries: Binaries) -> subprocess.Popen[bytes]:
        with suppress(FileNotFoundError):
            self.log_path.replace(self.log_path.with_suffix(".log.1"))  # the bound: this run's log and the last one's
        settings = [argument for name, value in self._settings.items() for argument in ("-c", f"{name}={value}")]
        # O_EXCL follows no link: root may be starting this in somebody's folder.
        output = os.open(self.log_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        try:
            self._give_to_account(output)
            return spawn(
                [binaries.postgres, "-k", str(self._run_dir), "-h", "", "-p", str(PORT), *settings],
                folder=self._cluster, account=self._account, output=output, on_owner_death=signal.SIGINT,
            )  # fmt: skip
        finally:
            os.close(output)

    def _wait_until_ready(self, server: subprocess.Popen[bytes]) -> None:
        begun = time.monotonic()
        told = 0.0
        while pg_folder.server_pid(self._cluster) != server.pid or not pg_folder.ready_run_dir(self._cluster):
            if server.poll() is not None:
                raise EmbeddedPostgresError(f"PostgreSQL did not start: {self._last_words()}")
            waited = time.monotonic() - begun
            if waited > START_TIMEOUT_SECONDS:
                raise EmbeddedPostgresError(f"PostgreSQL is not ready after {waited:.0f} s; its log: {self.log_path}.")
            if waited > told + 10:
                told = waited
                log.warning("PostgreSQL is recovering since %.0f s", waited)
            time.sleep(POLL_SECONDS)

    def _last_words(self) -> str:
        with suppress(OSError):
            return f"{_last_error(self.log_path.read_bytes())} (its log: {self.log_path})"
        return f"its log is not readable: {self.log_path}"

    def _release(self) -> None:
        """Whatever state we are in: no server, no socket folder, no lock. Safe to repeat."""
        if self._server is not None:
            self._server.kill()  # only after a failed start or stop: the next start ends its backends and recovers
            self._server.wait()
        self._server = None
        self._remove_run_dir(self._run_dir)
        self._run_dir = None
        if self._lock is not None:
            os.close(self._lock)
        self._lock = None

    def _remove_run_dir(self, run_dir: Path | None) -> None:
        """Only what a server of this account can have left: the name was read from a file."""
        if run_dir is None or not run_dir.name.startswith(RUN_DIR_PREFIX):
            return
        owner = self._account.pw_uid if self._account else os.geteuid()
        with suppress(OSError):
            if run_dir.lstat().st_uid == owner:
                for name in (f".s.PGSQL.{PORT}", f".s.PGSQL.{PORT}.lock"):
                    (run_dir / name).unlink(missing_ok=True)
                run_dir.rmdir()

    def _give_to_account(self, target: Path | int) -> None:
        if self._account is None:
            return
        if isinstance(target, int):
            os.fchown(target, self._account.pw_uid, self._account.pw_gid)
        else:
            os.chown(target, self._account.pw_uid, self._account.pw_gid, follow_symlinks=False)


@contextmanager
def database_at(data_dir: Path, *, create: bool = False, timeout_seconds: float = 60.0) -> Iterator[str]:
    """The DSN of the database in data_dir, for the time of a command: the running server's, else of one started for it.

    Commands run side by side share one server: the one that started it is the last to leave. Waits while another
    process starts or stops its server, at most timeout_seconds, then raises FolderInUseError; else as start().
    Without `create` a folder that holds no database is refused: it is a slip of the pen, not a wish for a new one.
    """
    if not create and not pg_folder.home(data_dir).exists():
        raise EmbeddedPostgresError(f"There is no database in {data_dir}: `tracker dev --data {data_dir}` makes one.")
    pg_folder.home(data_dir).mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + timeout_seconds
    with (pg_folder.home(data_dir) / "guests.lock").open("ab") as guests:
        fcntl.flock(guests, fcntl.LOCK_SH)  # waits while a server started for a command is being stopped
        server = EmbeddedPostgres(data_dir)
        while (dsn := dsn_of_running(data_dir)) is None:
            try:
                server.start()
            except FolderInUseError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        try:
            yield dsn
        finally:
            if server.alive:
                fcntl.flock(guests, fcntl.LOCK_EX)  # until the other guests have left
            server.stop()


def _last_error(output: bytes) -> str:
    lines = output[-20_000:].decode(errors="replace").strip().split("\n")
    errors = [line for line in lines if any(word in line for word in ("PANIC:", "FATAL:", "error:"))]
    return (errors or lines)[-1].strip()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
