"""The text of each kind of value: what is taken, what is refused, and that refusing says what to give instead."""

import base64
import ipaddress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker import setting_values as values

KEY = base64.b64encode(bytes(range(32))).decode()
OTHER_KEY = base64.b64encode(bytes(range(32, 64))).decode()

size = values.byte_count(1 << 20, 1 << 50)


@pytest.mark.parametrize(("text", "count"), [
    ("1048576", 1 << 20), ("500MB", 500_000_000), ("500m", 500_000_000), ("10GiB", 10 << 30), ("10Gi", 10 << 30),
    ("2 tib", 2 << 40), ("4096kB", 4_096_000),
])
def test_bytes_may_have_units(text: str, count: int) -> None:
    assert count == size(text)


@pytest.mark.parametrize("text", ["0", "1", "1.5GiB", "-1", "10XB", "GiB", "9999TiB", "1e9", "١MB", "10 GiB 2"])
def test_bytes_that_are_no_size_of_a_spool_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"like 500MB or 10GiB|give between 1048576 and"):
        size(text)


@pytest.mark.parametrize("text", ["", "-1", "257", "0", "1.0", "٣", "0x10", "1_0", "9" * 5000])
def test_a_whole_number_is_digits_within_its_limits(text: str) -> None:
    with pytest.raises(ValueError, match="whole number from 1 to 256"):
        values.whole(1, 256)(text)


@pytest.mark.parametrize(("text", "milliseconds"), [
    ("50ms", 50), ("1ms", 1), ("1000ms", 1000), ("always", 0), ("OFF", None),
])
def test_sync_is_an_interval_always_or_off(text: str, milliseconds: int | None) -> None:
    assert milliseconds == values.sync_interval_ms(text)


@pytest.mark.parametrize("text", ["0ms", "1001ms", "50", "50 ms", "1s", "on", "-5ms"])
def test_sync_refuses_what_nobody_could_mean(text: str) -> None:
    """A sync interval of minutes would be `off` under a name that sounds safe."""
    with pytest.raises(ValueError, match="usually 50ms"):
        values.sync_interval_ms(text)


def test_a_switch_is_on_or_off() -> None:
    assert values.switch("on")
    assert not values.switch("Off")
    with pytest.raises(ValueError, match="one of on, off"):
        values.switch("yes")


def test_hosts_are_a_list_of_addresses_and_names() -> None:
    expected = ("127.0.0.1", "::1", "localhost")
    assert expected == values.hosts("127.0.0.1, [::1], localhost,127.0.0.1")


@pytest.mark.parametrize("text", ["300.1.1.1", "a b", "host:80", "-" * 64, "*", "é.example", "\u212a"])
def test_hosts_that_cannot_be_listened_on_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="neither an IP address nor a host name"):
        values.hosts(text)


@pytest.mark.parametrize("text", [",", "a,", ",a", "a,,b", "a, ,b"])
def test_an_empty_part_of_a_list_is_refused(text: str) -> None:
    """It is a value that someone's template lost."""
    with pytest.raises(ValueError, match="extra comma"):
        values.hosts(text)


def test_proxies_are_networks() -> None:
    expected = tuple(ipaddress.ip_network(text) for text in ("10.0.0.0/8", "192.0.2.1/32", "fd00::/8"))
    assert expected == values.networks("10.0.0.0/8, 192.0.2.1,fd00::/8,10.0.0.0/8")


@pytest.mark.parametrize("text", ["10.0.0.0/33", "example.com", "10.0.0.0/8;192.0.2.1"])
def test_what_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a network"):
        values.networks(text)


@pytest.mark.parametrize("text", ["0.0.0.0/0", "::/0", "10.0.0.0/8,::/0"])
def test_trusting_every_address_as_a_proxy_is_refused(text: str) -> None:
    """Believing everybody's X-Forwarded-For lets everybody pass an address list."""
    with pytest.raises(ValueError, match="would believe any visitor"):
        values.networks(text)


def test_keys_keep_their_numbers_and_their_order() -> None:
    """The first signs: sorting them would undo the second step of a rotation."""
    expected = ((15, bytes(range(32))), (0, bytes(range(32, 64))))
    assert expected == values.secret_keys(f"15:{KEY}, 0:{OTHER_KEY}")


@given(st.binary(min_size=16, max_size=64), st.booleans(), st.booleans())
def test_every_spelling_of_base64_gives_the_same_key(secret: bytes, padded: bool, url_safe: bool) -> None:
    text = (base64.urlsafe_b64encode if url_safe else base64.b64encode)(secret).decode()
    assert ((7, secret),) == values.secret_keys(f"7:{text if padded else text.rstrip('=')}")


@pytest.mark.parametrize(("text", "why"), [
    pytest.param(KEY, "number from 0 to 15", id="no number"),
    pytest.param(f"16:{KEY}", "number from 0 to 15", id="number 16"),
    pytest.param(f"-1:{KEY}", "number from 0 to 15", id="negative number"),
    pytest.param(f"1:{KEY}é", "key 1 is not", id="not ASCII"),
    pytest.param(f"1:{KEY} 2:{OTHER_KEY}", "key 1 is not", id="no comma"),
    pytest.param("1:", "key 1 is not", id="no key"),
    pytest.param(f"1:{KEY},", "extra comma", id="nothing after the comma"),
    pytest.param(f"1:{KEY},1:{OTHER_KEY}", "number 1 is given twice", id="number twice"),
    pytest.param(f"1:{KEY},2:{KEY}", "same secret", id="secret twice"),
    pytest.param("1:c2hvcnQ=", "has 40 bits; it needs 128 to 512", id="too short"),
    pytest.param("1:" + "A" * 88, "has 528 bits", id="too long for blake2b"),
    pytest.param("1:AAAAAAAAAAAAAAAAAAAAAAAAA", "is not base64", id="impossible length"),
])
def test_keys_that_could_not_protect_click_ids_are_refused(text: str, why: str) -> None:
    """Two keys of one number cannot both verify; a short one can be guessed."""
    with pytest.raises(ValueError, match=why):
        values.secret_keys(text)


@pytest.mark.parametrize("text", ["mysql://db/tracker", "db/tracker", "postgresql://db/my db", "postgresql://db/a\tb"])
def test_a_database_url_of_another_kind_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a PostgreSQL URL|control character"):
        values.database_url(text)


@pytest.mark.parametrize("text", [
    "postgres://db", "postgresql://u:p@one:5432,two:5433/tracker", "postgresql:///tracker?host=/run/postgresql",
])
def test_every_form_of_a_postgres_url_is_taken_as_it_is(text: str) -> None:
    assert text == values.database_url(text)


@pytest.mark.parametrize("text", ["short", "with space in the middle of it", "t" * 257, "é" * 30])
def test_an_admin_token_that_can_be_guessed_or_not_sent_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="visible ASCII"):
        values.admin_token(text)


@pytest.mark.parametrize("text", ["old.example=redtrack", "a=b, c=d", "old.example", "=redtrack", "a b=c"])
def test_dialect_hosts_are_refused_while_there_is_no_dialect(text: str) -> None:
    """Taking the setting and answering in our own words would lose a moved network's conversions without a sign."""
    with pytest.raises(ValueError, match=r"speaks no dialect|is not host=dialect"):
        values.dialect_hosts(text)


def test_a_file_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "country.mmdb").write_bytes(b"")
    assert tmp_path / "country.mmdb" == values.existing_file(str(tmp_path / "country.mmdb"))
    for text in (str(tmp_path / "gone.mmdb"), str(tmp_path), "a\0b", "/" + "x" * 5000):
        with pytest.raises(ValueError, match=r"not there|cannot be looked at|not a path"):
            values.existing_file(text)


@given(st.text())
def test_what_is_shown_of_a_text_from_outside_is_one_short_line_of_ascii(text: str) -> None:
    out = values.printable(text)
    assert out.isascii()
    assert out == "" or out.isprintable()
    assert len(out) <= 800
