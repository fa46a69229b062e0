"""Countries of addresses, from a file the operator brings (.mmdb: DB-IP, IPinfo, MaxMind …). Needs the extra `geo`."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class NoCountries(Exception):
    """The file cannot be used; the text says why and what to do."""


class CountryReader(Protocol):
    def get(self, ip_address: str) -> object: ...


def open_countries(path: Path) -> CountryReader:
    """A reader over the memory-mapped file: look-ups cost microseconds and no system call. Raises NoCountries."""
    try:
        import maxminddb
    except ImportError as exc:
        raise NoCountries("TRACKER_GEOIP_DB needs the package maxminddb: pip install 'tracker[geo]'") from exc
    try:
        return maxminddb.open_database(path, maxminddb.MODE_AUTO)
    except (OSError, maxminddb.InvalidDatabaseError) as exc:
        raise NoCountries(f"TRACKER_GEOIP_DB: {path} is no .mmdb file: {exc}") from exc
