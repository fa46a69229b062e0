"""Every setting: its name, its meaning, its default, and how its text becomes a value. Read once, checked together; what
may change while the service runs (secrets given as files) is asked for again by app/live_secrets.py.

The fields of `Settings` are the one table; parsing, `tracker config`, `--help` and the README's list all come from it.
A start that finds mistakes reports all of them at once, because each restart of a deployment costs minutes.
How the text of a value is read lives in `setting_values.py`; what a setting does lives with whoever uses it.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal

from tracker import setting_values as values
from tracker.setting_values import Network, printable

Role = Literal["edge", "control", "serve", "config", "tool"]

# Roles that refuse names they do not know. An edge only warns: after a rollback the environment still carries the newer
# version's settings, and redirects must start. Tools warn too: a stray name must not keep anyone from `tracker verify`.
STRICT_ROLES: Final = frozenset({"control", "serve", "config"})

# What Kubernetes injects for a Service whose name begins with "tracker": never meant for us, though `TRACKER_PORT` and
# `TRACKER_ADMIN_PORT` are our names too (Services "tracker" and "tracker-admin").
_SERVICE_LINK_NAME: Final = re.compile(
    r"TRACKER_(?:[A-Z0-9_]+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)"
)
_SERVICE_LINK_PORT: Final = re.compile(r"TRACKER_(?:[A-Z0-9_]+_)?PORT")
_SERVICE_LINK_VALUE: Final = re.compile(r"(?:tcp|udp|sctp)://")

_SECRET_FILE_MAX_BYTES: Final = 65_536  # sixteen keys of 64 bytes are 1.5 kB; more than this is the wrong file


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table: what people read in `--help`, `tracker config show` and the README."""

    name: str                       # of the environment variable
    values: str                     # what may stand there
    default: str                    # in words; empty: none
    meaning: str
    parse: Callable[[str], Any]     # raises ValueError: why not, and what to give instead
    secret: bool = False            # never printed; may be given as NAME_FILE
    needed_by: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Mistake:
    """A variable and what is wrong with it, in one line that never holds a secret."""

    name: str
    why: str

    def __str__(self) -> str:
        return f"{self.name}: {self.why}"


class SettingsError(Exception):
    """The environment cannot be used; `mistakes` is every reason, at least one."""

    def __init__(self, mistakes: tuple[Mistake, ...]) -> None:
        super().__init__("\n".join(str(mistake) for mistake in mistakes))
        self.mistakes = mistakes


def _cores() -> int:
    """Cores this process may use: a container's cpuset counts, not the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _setting(
    name: str, parse: Callable[[str], Any], meaning: str, *, values: str, default: str = "", value: Any = None,
    secret: bool = False, needed_by: str = "",
) -> Any:
    row = Setting(name, values, default, meaning, parse, secret, frozenset(needed_by.split()))
    if callable(value):
        return field(default_factory=value, repr=not secret, metadata={"setting": row})
    return field(default=value, repr=not secret, metadata={"setting": row})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of one process. Made by `read`; tests may build it directly."""

    database_url: str | None = _setting(
        "TRACKER_DATABASE_URL", values.database_url, "the PostgreSQL database",
        values="postgresql://user:password@host:port/name", secret=True, needed_by="serve edge control",
    )
    hosts: tuple[str, ...] = _setting(  # empty: all addresses; a machine without IPv6 then does without
        "TRACKER_HOST", values.hosts, "addresses both ports listen on",
        values="address,…", default="all IPv4 and IPv6", value=(),
    )
    port: int = _setting(
        "TRACKER_PORT", values.whole(0, 65_535), "public port: clicks and postbacks",
        values="0–65535; 0: any free port", default="8080", value=8080,
    )
    admin_port: int = _setting(
        "TRACKER_ADMIN_PORT", values.whole(0, 65_535), "admin port: API, metrics, probes; never public",
        values="0–65535; 0: any free port", default="8081", value=8081,
    )
    workers: int = _setting(
        "TRACKER_WORKERS", values.whole(1, 256), "edge processes",
        values="1–256", default="the number of cores", value=_cores,
    )
    spool_dir: Path = _setting(  # noqa: RUF009 - a dataclass field, made by `field`
        "TRACKER_SPOOL_DIR", values.path, "where clicks and postbacks are kept until PostgreSQL has them: a local disk",
        values="directory", default="./spool", value=Path("spool"),
    )
    # For all spools under spool_dir together, shipped segments kept for a refill included. A click takes about 470
    # bytes (29 columns and its share of a frame), so 10 GiB is 23 million clicks: a database away for 3 hours at 2,000
    # clicks/s, or for a day at 260/s. Half is a night of 8 hours at 400/s; double fills the disks people start with.
    spool_max_bytes: int = _setting(
        "TRACKER_SPOOL_MAX_BYTES", values.byte_count(1 << 20, 1 << 50), "most that all spools together may take",
        values="bytes, or with a unit: 500MB, 10GiB", default="10GiB", value=10 << 30,
    )
    sync_interval_ms: int | None = _setting(  # 0: before every answer; None: never, the kernel decides
        "TRACKER_SYNC", values.sync_interval_ms, "how often the spool goes to disk; a power cut loses what came since",
        values="1ms–1000ms, always, off", default="50ms", value=50,
    )
    synchronous_commit: bool = _setting(
        "TRACKER_COMMIT", values.switch, "whether PostgreSQL syncs each batch of clicks before it is shipped",
        values="on, off", default="on", value=True,
    )
    # (number, secret), the first signs, all verify.
    secret_keys: tuple[tuple[int, bytes], ...] = _setting(
        "TRACKER_SECRET_KEYS", values.secret_keys, "keys that sign click ids; first signs, all verify",
        values="number:base64,…; numbers 0–15, 16–64 bytes", value=(), secret=True, needed_by="serve edge",
    )
    admin_token: str | None = _setting(
        "TRACKER_ADMIN_TOKEN", values.admin_token, "bearer token of the admin API; without one there is no API",
        values="22–256 printable characters", default="none", secret=True,
    )
    trusted_proxies: tuple[Network, ...] = _setting(
        "TRACKER_TRUSTED_PROXIES", values.networks, "networks whose X-Forwarded-For is believed",
        values="CIDR,…", default="none", value=(),
    )
    outbox_networks: tuple[Network, ...] = _setting(
        "TRACKER_OUTBOX_NETWORKS", values.outbox_networks, "private networks that outgoing postbacks may reach, on any port",
        values="CIDR,…", default="none", value=(),
    )
    ip_mode: Literal["truncate", "full", "drop"] = _setting(
        "TRACKER_IP_MODE", values.one_of("truncate", "full", "drop"), "what is kept of visitors' addresses (/24, /48)",
        values="truncate, full, drop", default="truncate", value="truncate",
    )
    geoip_db: Path | None = _setting(  # noqa: RUF009 - a dataclass field, made by `field`
        "TRACKER_GEOIP_DB", values.existing_file, "countries of addresses", values=".mmdb file", default="none",
    )
    dialect_hosts: tuple[()] = _setting(
        "TRACKER_DIALECT_HOSTS", values.dialect_hosts, "host names that speak another tracker's dialect",
        values="none in this version", default="none", value=(),
    )
    log_level: Literal["debug", "info", "warning", "error"] = _setting(
        "TRACKER_LOG_LEVEL", values.one_of("debug", "info", "warning", "error"), "least severe message that is logged",
        values="debug, info, warning, error", default="info", value="info",
    )
    warnings: tuple[Mistake, ...] = ()  # names this version does not know, where they are not refused
    secret_files: Mapping[str, str] = field(default_factory=dict, compare=False)  # by field: where a secret came from

    @classmethod
    def read(cls, environ: Mapping[str, str], *, role: Role) -> Settings:
        """The settings in `environ`, for `role`. An empty value counts as not given.

        `config` refuses unknown names but needs nothing; `tool` needs nothing and warns.
        Raises SettingsError with every mistake, whatever the environment holds; no other exception.
        """
        mistakes: list[Mistake] = []
        given: dict[str, Any] = {}
        unknown = _unknown(environ)
        for field_name, row in _rows().items():
            try:
                text = _text(row, environ)
                if text:
                    given[field_name] = row.parse(text)
                elif role in row.needed_by:
                    why = f"missing; tracker {role} needs it, or {row.name}_FILE: {row.values}"
                    mistakes.append(Mistake(row.name, why))
            except ValueError as exc:
                mistakes.append(Mistake(row.name, str(exc)))
        settings = cls(**given, warnings=tuple(unknown), secret_files=_secret_files(environ))
        if settings.port == settings.admin_port != 0:
            why = f"{settings.admin_port} is the public port as well; give another, the admin port is never public"
            mistakes.append(Mistake("TRACKER_ADMIN_PORT", why))
        if role in STRICT_ROLES:
            mistakes += unknown
        if mistakes:
            raise SettingsError(tuple(mistakes))
        return settings

    def reread(self, field_name: str) -> Any | None:
        """What the file of a secret holds now; None: it came from no file. Raises ValueError: why it cannot be used."""
        file, row = self.secret_files.get(field_name), _rows()[field_name]
        return None if file is None else row.parse(_secret_from(file, f"{row.name}_FILE"))


def settings_table() -> list[Setting]:
    """Every setting, in the order people should read them."""
    return list(_rows().values())


def shown(environ: Mapping[str, str]) -> list[tuple[str, str]]:
    """Name and value as given, or the default, of every setting; secrets masked. It shows and does not judge."""
    out = []
    for row in settings_table():
        if row.secret and environ.get(f"{row.name}_FILE", "").strip():
            text = f"*** (from {printable(environ[f'{row.name}_FILE'].strip())})"
        elif not environ.get(row.name, "").strip() or _is_service_link(row.name, environ[row.name]):
            text = f"{row.default} (default)" if row.default else "(not given)"
        else:
            text = "***" if row.secret else printable(environ[row.name].strip())
        out.append((row.name, text))
    return out


def _rows() -> dict[str, Setting]:
    return {one.name: one.metadata["setting"] for one in fields(Settings) if "setting" in one.metadata}


def _is_service_link(name: str, value: str) -> bool:
    if _SERVICE_LINK_NAME.fullmatch(name):
        return True
    return bool(_SERVICE_LINK_PORT.fullmatch(name) and _SERVICE_LINK_VALUE.match(value.strip()))


def _unknown(environ: Mapping[str, str]) -> list[Mistake]:
    """A mistake for every TRACKER_ name that is neither ours, nor a test's, nor put there by Kubernetes."""
    rows = settings_table()
    known = [row.name for row in rows] + [f"{row.name}_FILE" for row in rows if row.secret]
    out = []
    for name in sorted(environ):
        if not name.startswith("TRACKER_") or name.startswith("TRACKER_TEST_") or name in known:
            continue
        if _is_service_link(name, environ[name]):
            continue
        close = difflib.get_close_matches(name[:100], known, n=1)
        hint = f"did you mean {close[0]}?" if close else "remove it, or see `tracker config show` for all names"
        out.append(Mistake(printable(name), f"no such setting; {hint}"))
    return out


def _secret_files(environ: Mapping[str, str]) -> dict[str, str]:
    given = {name: environ.get(f"{row.name}_FILE", "").strip() for name, row in _rows().items() if row.secret}
    return {name: file for name, file in given.items() if file}


def _text(row: Setting, environ: Mapping[str, str]) -> str:
    """What is given for a setting, stripped; empty: nothing. Raises ValueError."""
    text = environ.get(row.name, "").strip()
    if _is_service_link(row.name, text):
        text = ""
    file = environ.get(f"{row.name}_FILE", "").strip() if row.secret else ""
    if not file:
        return text
    if text:
        raise ValueError(f"given twice, here and as {row.name}_FILE; keep one of them")
    return _secret_from(file, f"{row.name}_FILE")


def _secret_from(file: str, name: str) -> str:
    """The stripped text of a mounted secret. Raises ValueError. Ordinary files only: a pipe could keep us waiting."""
    path = values.existing_file(file, name)
    try:
        with path.open("rb") as stream:
            content = stream.read(_SECRET_FILE_MAX_BYTES + 1)
        text = content.decode().strip()
    except OSError as exc:
        raise ValueError(f"{name} {printable(file)} cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ValueError(f"{name} {printable(file)} is not text; is it the right file?") from exc
    if not text:
        raise ValueError(f"{name} {printable(file)} is empty")
    if len(content) > _SECRET_FILE_MAX_BYTES:
        raise ValueError(f"{name} {printable(file)} is over {_SECRET_FILE_MAX_BYTES} bytes; is it the right file?")
    return text
