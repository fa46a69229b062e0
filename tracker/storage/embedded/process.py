"""How a PostgreSQL process is started and ended: account, folder, death of its owner, and what a killed owner left.

Knows processes and accounts, nothing of clusters, locks or sockets: those are embedded.py's.
"""

import ctypes
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from tracker.storage.embedded.binaries import EmbeddedPostgresError
from tracker.storage.embedded.folder import server_pid

SERVER_ACCOUNTS = ("postgres", "_postgres", "nobody")
"""Tried in this order for root: an account made for databases does nothing else, while whatever the machine runs as
`nobody` could read the clicks of a server of nobody's."""

ORPHAN_STOP_SECONDS = 30.0  # for a fast stop of a server nobody owns; then SIGKILL, and the next start recovers
STRAGGLER_STOP_SECONDS = 2.0  # for backends whose server is dead: they notice by themselves unless they compute

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def account_for(cluster: Path, name: str | None) -> pwd.struct_passwd | None:
    """The account that must run the server, None for our own (PostgreSQL refuses to run as root).

    As root: the one named, else the owner of the cluster, else the first of SERVER_ACCOUNTS that exists.
    Raises EmbeddedPostgresError when there is none, or when the cluster belongs to another one.
    """
    owner = cluster.stat().st_uid if cluster.exists() else None
    account = _choose(name, owner)
    if owner not in (None, account.pw_uid):
        raise EmbeddedPostgresError(
            f"The database in {cluster} belongs to the account {_name_of(owner)}, this is {account.pw_name}: "
            "run as its owner, or choose another folder with --data."
        )
    return account if account.pw_uid != os.geteuid() else None


def spawn(
    command: Sequence[str | Path],
    *,
    folder: Path,
    account: pwd.struct_passwd | None,
    output: int | IO[bytes],
    on_owner_death: signal.Signals,
) -> subprocess.Popen[bytes]:
    """Start command with `-D folder` as the account, output and errors to `output`; our death sends it on_owner_death.

    Under another account the folder is passed as an open descriptor, /proc/self/fd/N: so a project in a 0700 home works
    without opening one parent folder to anyone. In a session of its own: Ctrl-C must reach us alone, because we still
    need the database in order to stop. A clean environment: PGDATA, PGPORT, LC_* of the caller would steer it.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return subprocess.Popen(
            [*command, "-D", f"/proc/self/fd/{descriptor}" if account else folder],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",
            env={"PATH": os.defpath, "LC_ALL": "C.UTF-8", **_inherited("LD_LIBRARY_PATH")},
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
            extra_groups=[] if account else None,
            umask=0o077,
            pass_fds=[descriptor] if account else [],
            start_new_session=True,
            preexec_fn=_die_with_owner(on_owner_death),
        )
    except (PermissionError, subprocess.SubprocessError) as exc:
        who = account.pw_name if account else "this account"
        raise EmbeddedPostgresError(f"PostgreSQL cannot be started as {who}: {exc}.") from exc
    finally:
        os.close(descriptor)


def end_leftovers(cluster: Path) -> None:
    """End what still runs in this cluster. The caller holds its lock, so nobody owns it.

    A process counts only when its name is postgres and its working directory is the cluster: process ids are reused,
    these are not. The server gets a fast stop, then everything SIGKILL (safe once all are gone: the next start
    recovers). With nothing left, a stale postmaster.pid goes too: its id may by now be any program's, and PostgreSQL
    would take that for a server. Without /proc (not Linux) it is left to PostgreSQL, which refuses and names the id.
    """
    if not Path("/proc/self/cwd").exists() or not cluster.exists():
        return
    left = _running_in(cluster)
    if left:
        server = server_pid(cluster)
        if server in left:
            _kill(server, signal.SIGINT)
        left = _wait_until_gone(cluster, ORPHAN_STOP_SECONDS if server in left else STRAGGLER_STOP_SECONDS)
    for pid in left:
        _kill(pid, signal.SIGKILL)
    if left and (left := _wait_until_gone(cluster, ORPHAN_STOP_SECONDS)):
        raise EmbeddedPostgresError(f"A PostgreSQL process left in {cluster} cannot be ended (process {left[0]}).")
    (cluster / "postmaster.pid").unlink(missing_ok=True)


def _choose(name: str | None, owner: int | None) -> pwd.struct_passwd:
    own = os.geteuid()
    if own != 0:
        # PostgreSQL looks its own account up and ends with a message about the effective user id.
        return _account(own)
    if name is not None:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            raise EmbeddedPostgresError(f"There is no account {name} on this system.") from None
    if owner:
        return _account(owner)
    for candidate in SERVER_ACCOUNTS:
        try:
            return pwd.getpwnam(candidate)
        except KeyError:
            continue
    raise EmbeddedPostgresError(f"PostgreSQL refuses to run as root, and none of {', '.join(SERVER_ACCOUNTS)} exists.")


def _account(uid: int) -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(uid)
    except KeyError:
        raise EmbeddedPostgresError(
            f"User id {uid} has no account on this system (no line in /etc/passwd), and PostgreSQL needs one: "
            "use an account that exists, or set TRACKER_DATABASE_URL to a server that runs already."
        ) from None


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _inherited(name: str) -> dict[str, str]:
    return {name: os.environ[name]} if name in os.environ else {}


def _die_with_owner(death: signal.Signals) -> Callable[[], None] | None:
    """For preexec_fn, which runs after the change of account: that change would clear the setting again."""
    if sys.platform != "linux":
        return None  # no such promise from the kernel: the next start finds the server still there
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # loaded before the fork: the child must not take the loader's lock
    owner = os.getpid()

    def in_child() -> None:
        if prctl(_PR_SET_PDEATHSIG, int(death), 0, 0, 0) != 0 or os.getppid() != owner:
            os._exit(127)

    return in_child


def _running_in(cluster: Path) -> list[int]:
    folder = cluster.stat()
    found = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        process = Path(entry.path)
        try:
            if (process / "comm").read_text() == "postgres\n" and os.path.samestat((process / "cwd").stat(), folder):
                found.append(int(entry.name))
        except OSError:
            continue  # ended meanwhile, or someone else's
    return found


def _wait_until_gone(cluster: Path, timeout_seconds: float) -> list[int]:
    deadline = time.monotonic() + timeout_seconds
    while (left := _running_in(cluster)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def _kill(pid: int, how: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, how)
