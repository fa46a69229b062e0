"""Which addresses postbacks may reach: nothing that is not public, however it is written or wrapped."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker.domain.addresses import Address, literal, may_reach

# The special-purpose registries of IANA (RFC 6890 and its updates), multicast, and what is reserved: written down here
# once more, so that what Python or we left out shows.
PRIVATE4 = tuple(map(IPv4Network, (
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24",
    "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
    "168.63.129.16/32",
)))  # fmt: skip
PRIVATE6 = tuple(map(IPv6Network, (
    "::/128", "::1/128", "::/96", "64:ff9b:1::/48", "100::/64", "2001::/32", "2001:2::/48", "2001:db8::/32", "2002::/16",
    "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
)))  # fmt: skip


def inside(networks: tuple[IPv4Network, ...] | tuple[IPv6Network, ...]) -> st.SearchStrategy[Address]:
    return st.one_of(*(st.integers(0, one.num_addresses - 1).map(one.__getitem__) for one in networks))


def wrapped(address: Address) -> list[Address]:
    """All the ways in which an IPv6 address can mean an IPv4 one."""
    if isinstance(address, IPv6Address):
        return [address]
    number = int(address)
    return [
        address,
        IPv6Address(0xFFFF << 32 | number),                              # v4-mapped
        IPv6Address(number),                                             # v4-compatible
        IPv6Address((0x64_FF9B << 96) | number),                         # NAT64
        IPv6Address((0x2002 << 112) | number << 80 | 1),                 # 6to4
        IPv6Address((0x2001_0000 << 96) | (number ^ 0xFFFF_FFFF)),       # Teredo: the client's, obscured
        IPv6Address((0x2001_0000 << 96) | number << 64),                 # Teredo: the server's
        IPv6Address((0xFFFF_0000 << 32) | number),                       # v4-translated
    ]


def spellings(address: Address) -> list[str]:
    """What URLs, browsers and C libraries take for it."""
    if isinstance(address, IPv6Address):
        return [f"[{address}]", f"[{address.exploded}]", f"[{address.exploded.upper()}]"]
    n = int(address)
    a, b, c, d = address.packed
    return [
        str(address), f"{address}.", str(n), hex(n), f"0{n:o}", f"{a}.{b}.{c << 8 | d}", f"{a}.{n & 0xFFFFFF}",
        f"{a:#x}.{b:#x}.{c:#x}.{d:#x}", f"0{a:o}.0{b:o}.0{c:o}.0{d:o}", f"{a:#x}.{n & 0xFFFFFF}", f"{a:03}.{b:03}.{c:03}.{d:03}",
    ]  # fmt: skip


def reachable(host: str, port: int = 443) -> bool:
    try:
        address = literal(host)
    except ValueError:
        return False
    assert address is not None, f"{host} would be looked up as a name"
    return may_reach(address, port)


@pytest.mark.fault(37)
@given(st.one_of(inside(PRIVATE4), inside(PRIVATE6)))
def test_what_is_not_public_is_refused_in_every_spelling(address: Address) -> None:
    """Danger: one spelling that a check reads otherwise than the library that connects, and the database is reachable."""
    assert [] == [host for one in wrapped(address) for host in spellings(one) if reachable(host)]


@given(st.integers(0, 2**128 - 1).map(IPv6Address))
def test_outside_of_global_unicast_nothing_of_ipv6_is_reached_but_public_ipv4(address: IPv6Address) -> None:
    if may_reach(address, 443) and address not in IPv6Network("2000::/3"):
        assert address in IPv6Network("64:ff9b::/96") or address.ipv4_mapped


@pytest.mark.parametrize("text", [
    "8.8.8.8", "1.1.1.1", "172.15.0.1", "172.32.0.1", "2606:4700::1111", "2a00:1450:4001::200e", "64:ff9b::808:808",
    "::ffff:8.8.8.8",
])  # fmt: skip
def test_public_addresses_are_reached_on_the_two_ports_of_the_web(text: str) -> None:
    """A check that refuses everything would pass all other tests."""
    address = ip_address(text)
    assert [True, True, False, False] == [may_reach(address, port) for port in (80, 443, 8080, 5432)]


def test_named_networks_are_reached_on_any_port_and_open_nothing_else() -> None:
    allowed = (ip_network("10.1.0.0/16"), ip_network("fd00:1::/32"))
    for text, expected in (
        ("10.1.2.3", True), ("::ffff:10.1.2.3", True), ("fd00:1::9", True), ("10.2.0.1", False), ("127.0.0.1", False),
        ("fd00:2::9", False), ("8.8.8.8", False),
    ):
        assert expected == may_reach(ip_address(text), 8080, allowed), text
    assert may_reach(IPv4Address("8.8.8.8"), 443, allowed)


@pytest.mark.parametrize("host", ["shop.example", "localhost", "1.example", "0x7f.example", "a1", "xn--bcher-kva.example"])
def test_names_are_names(host: str) -> None:
    assert literal(host) is None


@pytest.mark.parametrize("host", [
    "0x7f.1", "2130706433", "127.1", "0177.0.0.1", "0x7f000001", "017700000001", "127.0.0.1.", "1.2.3", "1.2.3.4.5", "256.1.1.1",
    "a.0x", "a.1", "[::ffff:10.0.0.1.2]", "[127.0.0.1]", "[]",
])  # fmt: skip
def test_other_spellings_are_neither_names_nor_addresses(host: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - ipaddress has its own words
        literal(host)
