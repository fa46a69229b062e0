"""Countries of addresses, from a file the operator brings (.mmdb: DB-IP, IPinfo, MaxMind …). Needs the extra `geo`."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any


class NoCountries(Exception):
    """The file cannot be used; the text says why and what to do."""


class Countries:
    """A memory-mapped file: a look-up costs microseconds and no system call, and never raises, whatever the file holds."""

    def __init__(self, path: Path) -> None:
        """Raises NoCountries."""
        try:
            import maxminddb
        except ImportError as exc:
            raise NoCountries("TRACKER_GEOIP_DB needs the package maxminddb: pip install 'tracker[geo]'") from exc
        try:
            self._reader = maxminddb.open_database(path, maxminddb.MODE_AUTO)
        except (OSError, maxminddb.InvalidDatabaseError) as exc:
            raise NoCountries(f"TRACKER_GEOIP_DB: {path} is no .mmdb file: {exc}") from exc
        self._broken = (maxminddb.InvalidDatabaseError, ValueError)      # a damaged page; an IPv4 file asked for IPv6

    def of(self, address: IPv4Address | IPv6Address) -> bytes | None:
        """ISO 3166 alpha-2, upper case; None when the file does not say. Files in the trade write it in three ways."""
        try:
            found: Any = self._reader.get(address)
        except self._broken:
            return None
        if not isinstance(found, dict):
            return None
        country = found.get("country_code") or found.get("country")
        if isinstance(country, dict):
            country = country.get("iso_code")
        if not isinstance(country, str) or len(country) != 2 or not country.isascii() or not country.isalpha():
            return None
        return country.upper().encode()
