"""The embedded database's data folder: what lies where, who owns it, and which server runs on it.

Everything is read from files and sockets, so that a command finds the server that another process started. Under the
folder given with --data all of it is in `postgres/`: `data/` (the cluster), `server.log`, `owner.lock`, `guests.lock`.
Starts and ends nothing: that is embedded.py.
"""

import fcntl
import os
import socket
from pathlib import Path

from tracker.storage.embedded.binaries import EmbeddedPostgresError

PORT = 5432  # only part of the socket's name: there is no TCP


class FolderInUseError(EmbeddedPostgresError):
    """Another process owns the database of this data folder."""


def home(data_dir: Path) -> Path:
    """The part of the data folder that is the database's."""
    return data_dir.absolute() / "postgres"


def cluster(data_dir: Path) -> Path:
    """PostgreSQL's own data folder, 0700, of the account that the server runs as."""
    return home(data_dir) / "data"


def own(data_dir: Path) -> tuple[int, Path | None]:
    """Become the owner: the locked open file, and the socket folder that the last owner noted, if any.

    A lock on a file of ours and not postmaster.pid: it goes with its owner, however that ends, and no reused process id
    can pose as one. Raises FolderInUseError while another process is the owner.
    """
    lock = os.open(home(data_dir) / "owner.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    pid, _, run_dir = os.read(lock, 4096).decode().strip().partition("\n")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise FolderInUseError(
            f"The database in {data_dir} is in use by another process ({pid}): "
            "stop it, or choose another folder with --data."
        ) from None
    note(lock, "")
    return lock, Path(run_dir) if run_dir else None


def note(lock: int, run_dir: str) -> None:
    """Write our process id and socket folder into the lock file: for the sentence above, and for the next owner."""
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n{run_dir}\n".encode(), 0)


def server_pid(cluster_dir: Path) -> int | None:
    """The process id that the cluster's last server wrote; it may be long gone. None without one."""
    first = _pid_file(cluster_dir)[:1]
    return int(first[0]) if first and first[0].isdigit() else None


def ready_run_dir(cluster_dir: Path) -> Path | None:
    """The socket's folder as the server wrote it when it began to take queries; None before that."""
    lines = _pid_file(cluster_dir)
    return Path(lines[4]) if len(lines) > 7 and lines[7].strip() == "ready" else None


def dsn_in(run_dir: Path, database: str) -> str:
    """DSN of a database behind the socket in run_dir; with the port, since a client's PGPORT must not matter."""
    return f"postgresql://postgres@/{database}?host={run_dir}&port={PORT}"


def dsn_of_running(data_dir: Path) -> str | None:
    """The DSN of the server that runs on this data folder, whoever started it; None when none takes queries.

    Raises EmbeddedPostgresError when the database belongs to another account.
    """
    try:
        run_dir = ready_run_dir(cluster(data_dir))
    except PermissionError as exc:
        raise EmbeddedPostgresError(
            f"The database in {data_dir} belongs to another account: run as its owner."
        ) from exc
    if run_dir is None or not _lives(server_pid(cluster(data_dir))):      # its children hold the socket for a moment more
        return None
    with socket.socket(socket.AF_UNIX) as probe:  # the file may be a killed server's
        try:
            probe.connect(str(run_dir / f".s.PGSQL.{PORT}"))
        except OSError:
            return None
    return dsn_in(run_dir, "postgres")


def _lives(pid: int | None) -> bool:
    """Whether the process runs; one that has ended and was not waited for does not."""
    try:
        return pid is not None and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def _pid_file(cluster_dir: Path) -> list[str]:
    """postmaster.pid: process, folder, start, port, socket folder, address, shared memory, status."""
    try:
        return (cluster_dir / "postmaster.pid").read_text().split("\n")
    except FileNotFoundError:
        return []
