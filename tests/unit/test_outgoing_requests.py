"""Templates of endpoints and the requests made of them: no value leaves its place, and others can check the signature."""

import json
import time
from datetime import UTC, datetime
from ipaddress import ip_network
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook
from yarl import URL

from tracker.domain.endpoint import (
    CLICK_MACROS,
    MACROS,
    authority_of,
    check_address,
    default_statuses,
    parse_endpoint_url,
    tells_click,
)
from tracker.domain.link import BadTemplate
from tracker.domain.outgoing import Delivery, Request, compose, message_id, secret_text

SECRET = bytes(range(1, 33))
VALUES = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def request(url: str, method: str = "GET", **fields: str | None) -> Request:
    return compose(Delivery(
        message_id=message_id(UUID(int=7), 3, 5), template=parse_endpoint_url(url), method=method, secret=SECRET,
        fields={**dict.fromkeys(sorted(MACROS)), "status": "approved", **fields}, test=False, decided_at=datetime.now(UTC),
        sent_at=int(time.time()),      # not that of the import: a receiver refuses what is five minutes old
    ))  # fmt: skip


@given(st.sampled_from(sorted(MACROS - {"status"})), VALUES)
def test_a_value_stays_where_its_macro_stands(macro: str, value: str) -> None:
    """Danger: a sub id with &status=… or a line break in it would say something that we never said."""
    made = request(f"https://t.example/a/{{{macro}}}/b?one={{{macro}}}&two=2", **{macro: value})
    parts = urlsplit(made.url)
    assert ("https", "t.example", "") == (parts.scheme, parts.netloc, parts.fragment)
    path = parts.path.split("/")
    assert ["", "a", value, "b"] == [unquote(one) for one in path]
    assert {"one": [value], "two": ["2"]} == parse_qs(parts.query, keep_blank_values=True)
    assert made.url.isascii() and made.url.isprintable() and " " not in made.url
    assert URL(made.url, encoded=True).raw_path_qs == made.url.removeprefix("https://t.example")      # what aiohttp sends


@given(VALUES, st.sampled_from(["GET", "POST"]))
def test_anybody_can_check_the_signature(value: str, method: str) -> None:
    """With the libraries of Standard Webhooks; and whoever changes a byte, or has another secret, is found out."""
    made = request("https://t.example/pb?cid={ext}", method, ext=value)
    content = made.url.removeprefix("https://t.example") if made.body is None else made.body.decode()
    Webhook(secret_text(SECRET)).verify(content, made.headers, json_parse=False)
    for other, secret in ((content + "x", SECRET), (content, SECRET[::-1])):
        with pytest.raises(Exception, match="No matching signature"):
            Webhook(secret_text(secret)).verify(other, made.headers, json_parse=False)
    if made.body is not None:
        assert value == json.loads(made.body)["data"]["ext"]
    assert all(text.isascii() and text.isprintable() for pair in made.headers.items() for text in pair)


def test_the_id_of_a_message_has_no_full_stop() -> None:
    """It is one of three parts that are joined by them and signed."""
    assert "00000000000000000000000000000007-3-5" == message_id(UUID(int=7), 3, 5)


@pytest.mark.parametrize(("url", "position", "message"), [
    ("https://{sub1}.example/", 8, "host"), ("https://t.example:{sub1}/", 18, "host"), ("https://t.example/#{ext}", 18, "#"),
    ("https://t.example/?q={query.x}", 21, "no such macro"), ("https://t.example/?c={channel}", 21, "no such macro"),
    ("https://t.example/?{ext}=1", 19, "name"), ("https://u:p@t.example/", 8, "user name"), ("ftp://t.example/", 0, "http"),
    ("https://t.example/\r\nHost: evil", 18, "character"), ("javascript:alert(1)", 0, "http"),
    ("https:\\\\t.example/", 6, "character"),
])  # fmt: skip
def test_a_template_that_leaves_its_place_is_refused(url: str, position: int, message: str) -> None:
    with pytest.raises(BadTemplate, match=message) as raised:
        parse_endpoint_url(url)
    assert ("url", position) == (raised.value.field, raised.value.position)


@pytest.mark.fault(37)
@pytest.mark.parametrize("url", [
    "http://127.0.0.1/", "http://169.254.169.254/latest/meta-data", "http://[::ffff:10.0.0.1]/", "http://0x7f.1/", "http://2130706433/",
    "http://127.1/", "http://[::1]/", "http://[fd00::1]/", "http://0/", "https://t.example:8080/", "http://t.example:5432/",
    "http://8.8.8.8:22/",
])  # fmt: skip
def test_what_can_never_be_reached_is_refused_when_it_is_saved(url: str) -> None:
    parse_endpoint_url(url)
    with pytest.raises(BadTemplate):
        check_address(url)


@pytest.mark.parametrize("url", ["http://10.1.2.3:9000/", "http://tracker.internal:9000/", "https://t.example/", "http://8.8.8.8/"])
def test_named_networks_open_their_addresses_and_ports(url: str) -> None:
    check_address(url, allowed=(ip_network("10.0.0.0/8"),))


def test_where_a_url_leads() -> None:
    for url, expected in (
        ("https://T.example/a:1", ("t.example", 443)), ("HTTP://t.example", ("t.example", 80)),
        ("http://[2001:DB8::1]:8080/?a=b", ("[2001:db8::1]", 8080)), ("http://[2001:db8::1]", ("[2001:db8::1]", 80)),
        ("https://1.2.3.4:81?x=http://a:9", ("1.2.3.4", 81)),
    ):
        assert expected == authority_of(url), url


def test_a_tracker_that_is_not_told_the_status_hears_of_sales_only() -> None:
    """Danger: it would count a reversal as one more sale."""
    bare, full = parse_endpoint_url("https://t.example/?c={ext}"), parse_endpoint_url("https://t.example/?s={status}")
    told: Any = [default_statuses("GET", bare), default_statuses("POST", bare), default_statuses("GET", full)]
    assert [("approved",), ("approved", "rejected", "reversed"), ("approved", "rejected", "reversed")] == told


def test_only_what_the_click_fills_waits_for_it() -> None:
    for macro in MACROS:
        template = parse_endpoint_url(f"https://t.example/?a={{{macro}}}")
        assert (macro in CLICK_MACROS) == tells_click("GET", template)
        assert tells_click("POST", template)
