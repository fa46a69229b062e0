"""Programs, coupons and credentials as the doors judge by them."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker.domain.program import Coupon, Credential, Program, coupon_key

PROGRAM = Program(
    program_id=1, slug="shop", name="Shop", currency="EUR", auth_mode="ip",
    ip_allow=(ip_network("203.0.113.0/24"), ip_network("2001:db8::/32")),
)  # fmt: skip


@pytest.mark.parametrize(
    ("address", "expected"),
    [("203.0.113.9", True), ("203.0.114.9", False), ("::ffff:203.0.113.9", True), ("::ffff:203.0.114.9", False),
     ("2001:db8::1", True), ("2001:db9::1", False)],
)  # fmt: skip
def test_an_address_is_let_in_by_its_network_however_it_is_written(address: str, expected: bool) -> None:
    """A dual-stack socket shows IPv4 senders as ::ffff:…; they must not be turned away, nor others let in by it."""
    assert expected == PROGRAM.allows_address(ip_address(address))


def test_a_program_without_networks_lets_nobody_in() -> None:
    empty = Program(program_id=1, slug="shop", name="Shop", currency="EUR", auth_mode="ip")
    assert not empty.allows_address(ip_address("203.0.113.9"))


def test_a_coupon_counts_from_its_beginning_and_not_at_its_end() -> None:
    coupon = Coupon(coupon_id=1, program_id=1, partner_id=1, code="X", valid_from_ms=10, valid_to_ms=20)
    assert [False, True, True, False] == [coupon.valid_at(moment) for moment in (9, 10, 19, 20)]
    endless = Coupon(coupon_id=1, program_id=1, partner_id=1, code="X", valid_from_ms=10)
    assert endless.valid_at(1 << 60)


@given(st.text(min_size=1))
def test_a_coupon_is_the_same_in_any_case_and_with_spaces_around(code: str) -> None:
    """The same key must come of what is stored and of what a customer types."""
    assert coupon_key(code) == coupon_key(f" {code}\t")
    assert coupon_key(code) == coupon_key(coupon_key(code))


@pytest.mark.parametrize(("one", "other"), [("SUMMER", "summer"), ("Straße", "STRASSE"), ("Mu\u0308ller", "MÜLLER")])
def test_people_see_these_codes_as_one(one: str, other: str) -> None:
    assert coupon_key(one) == coupon_key(other)


def test_a_credential_in_a_log_shows_no_secret() -> None:
    credential = Credential(credential_id=5, kind="hmac", program_ids=frozenset({1}), hmac_secret=b"top secret")
    assert "secret" not in repr(credential)
