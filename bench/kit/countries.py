"""A country file of two networks, so that the look-up is part of what is measured: no data set is downloaded for it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path


def write_countries(path: Path) -> Path | None:
    """Write an .mmdb file that knows 127.0.0.0/8; None when mmdb-writer or the reader is not installed."""
    try:
        import maxminddb  # noqa: F401 - the edge needs it to read what we write
        from mmdb_writer import MMDBWriter

        netaddr = import_module("netaddr")      # mmdb-writer brings it; it has no types
    except ImportError:
        return None
    writer = MMDBWriter(ip_version=6, ipv4_compatible=True, database_type="Country")
    writer.insert_network(netaddr.IPSet(["127.0.0.0/8"]), {"country": {"iso_code": "DE"}})
    writer.insert_network(netaddr.IPSet(["2001:db8::/32"]), {"country": {"iso_code": "FR"}})
    writer.to_db_file(str(path))
    return path
