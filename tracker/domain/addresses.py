"""Which addresses outgoing postbacks may reach: public ones, and those that the operator names.

Partners choose where their postbacks go. Unchecked, a URL is a door into our own network: the database, the admin port, a
cloud's metadata service. So an address is judged by its number, whatever way it was written or found, and what is left of
old ways to wrap one address in another is unwrapped or refused. Only judgement lives here: names are resolved by
jobs/outbox_client.py, which connects to the very address that was judged.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Final

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

PORTS: Final = frozenset({80, 443})

_NAT64: Final = IPv6Network("64:ff9b::/96")        # RFC 6052: how a machine without IPv4 reaches it
_GLOBAL_UNICAST: Final = IPv6Network("2000::/3")   # all else of IPv6 is local, multicast, or nobody's
# What `is_global` lets pass, in one version of Python or another.
_NEVER: Final = tuple(map(ip_network, (
    "192.0.0.0/24",         # IETF assignments
    "192.88.99.0/24",       # 6to4 relays
    "168.63.129.16/32",     # looks public, and is Azure's own service beside every virtual machine
    "2001::/32",            # Teredo, a tunnel that names an IPv4 address; long dead
    "2002::/16",            # 6to4, the same
    "3fff::/20",            # documentation
)))  # fmt: skip
_NUMBER: Final = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*")


def literal(host: str) -> Address | None:
    """The address that a URL's host says; None: it is a name. ValueError for other spellings, such as 0x7f.1 or 2130706433.

    A host whose last label is a number is an address in every browser and C library, and they read it in a dozen ways
    (WHATWG URL, "ends in a number"). One way is enough.
    """
    if host.startswith("["):
        return IPv6Address(host[1:-1])
    if _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
        return IPv4Address(host)
    return None


def may_reach(address: Address, port: int, allowed: Iterable[Network] = ()) -> bool:
    """Whether a postback may go there. In `allowed` networks, to any port; else to public addresses, ports 80 and 443."""
    meant = _meant(address)
    if any(one.version == network.version and one in network for one in (address, meant) for network in allowed):
        return True
    return port in PORTS and _is_public(meant)


def _meant(address: Address) -> Address:
    """The IPv4 address that an IPv6 address stands for, if it does: ::ffff:10.0.0.1 is 10.0.0.1."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address


def _is_public(address: Address) -> bool:
    if any(address.version == network.version and address in network for network in _NEVER):
        return False
    if isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST:
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved
