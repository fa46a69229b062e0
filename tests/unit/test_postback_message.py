"""What a postback says: names, repeats, macros, times, keys, money, read from bytes to a message."""

from __future__ import annotations

from decimal import Decimal

import pytest

from tracker.domain.click_id import ClickIdMaker, Keyring
from tracker.domain.postback import Postback, Status
from tracker.domain.postback_message import Authority, check_subject, compose, parse_ts, read_click_id
from tracker.domain.postback_parameters import Parameters, gather, read_json, read_urlencoded
from tracker.domain.refusal import Reason, Refused

NOW_MS = 1_790_000_000_000
KEYRING = Keyring(((0, b"0123456789abcdef"),))
EURO = Authority(program_id=7, currency="EUR", credential_id=3)


def a_token(link: int = 5, test: bool = False) -> str:
    maker = ClickIdMaker(keyring=KEYRING, worker=1, random_counter=lambda: 0)
    return maker.make(NOW_MS, link, test=test)[1].decode()


def message_of(query: str, authority: Authority = EURO, event_id: str | None = None) -> Postback:
    parameters = gather(read_urlencoded(query.encode()))
    click = read_click_id(parameters, KEYRING)
    return compose(parameters, received_ms=NOW_MS, click=click, authority=authority, event_id=event_id)


def refusal_of(query: str, authority: Authority = EURO) -> Reason:
    with pytest.raises(Refused) as caught:
        message_of(query, authority)
    return caught.value.reason


def test_a_full_postback_becomes_a_message_with_every_field() -> None:
    """The names are the contract: a field lost here is a sale without its order number."""
    query = (
        f"click_id={a_token().upper()}&event=Lead&txid=+A-1+&event_id=x9&amount=12.5&currency=usd&status=PENDING"
        "&ts=1789999999&customer=c%201&coupon=SAVE10&foo=bar&token=s3cret"
    )
    message = message_of(query)
    assert message.click_id is not None
    expected = Postback(
        message_id=bytes(16), received_ms=NOW_MS, program_id=7, click_id=message.click_id, link_id=5, test=False,
        event="lead", txid="A-1", event_id="x9", amount=Decimal("12.50"), currency="USD", status=Status.PENDING,
        ts_ms=1_789_999_999_000, customer="c 1", coupon="SAVE10", credential_id=3, limited=False,
    )
    assert expected == message


def test_the_least_postback_takes_what_the_program_says() -> None:
    """A missing event is a sale, a missing currency the program's, a missing status nobody's claim."""
    message = message_of(f"click_id={a_token()}&amount=5")
    assert ("sale", Decimal("5.00"), "EUR", None, None) == (
        message.event, message.amount, message.currency, message.status, message.txid,
    )


def test_an_amount_is_rounded_to_the_currency_and_a_currency_alone_is_no_pair() -> None:
    """Two edges that round differently would call one sale a conflict."""
    assert Decimal(1235) == message_of(f"click_id={a_token()}&amount=1234.5&currency=JPY").amount
    assert (None, None) == (message_of("txid=1&currency=JPY").amount, message_of("txid=1&currency=JPY").currency)


def test_a_test_click_marks_its_message() -> None:
    """Nothing is ever owed for a test: the flag must not be lost at the door."""
    assert message_of(f"click_id={a_token(test=True)}").test


def test_a_limited_sender_has_no_say_in_the_status() -> None:
    """With mode open anybody holding a click id could approve his own sale."""
    limited = Authority(program_id=7, currency="EUR", limited=True)
    message = message_of(f"click_id={a_token()}&status=approved", limited)
    assert (None, True) == (message.status, message.limited)
    assert message_of(f"click_id={a_token()}&status=nonsense", limited).limited


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("amount=-1", Reason.BAD_AMOUNT), ("amount=NaN", Reason.BAD_AMOUNT), ("amount=Infinity", Reason.BAD_AMOUNT),
        ("amount=1e309", Reason.BAD_AMOUNT), ("amount=1e-30", Reason.BAD_AMOUNT), ("amount=1%2C5", Reason.BAD_AMOUNT),
        ("amount=%EF%BC%91%EF%BC%92", Reason.BAD_AMOUNT), ("amount=1000000000000", Reason.BAD_AMOUNT),
        ("amount=0.1234567", Reason.BAD_AMOUNT), ("amount=%2B1", Reason.BAD_AMOUNT), ("amount=0x10", Reason.BAD_AMOUNT),
        ("amount=1&currency=XXZ", Reason.BAD_CURRENCY), ("currency=E", Reason.BAD_CURRENCY),
        ("status=paid", Reason.BAD_STATUS),
        ("ts=0", Reason.BAD_TS), ("ts=946684799", Reason.BAD_TS), ("ts=yesterday", Reason.BAD_TS),
        ("ts=2026-09-21T10:00:00", Reason.BAD_TS), ("ts=2026-13-41T10:00:00Z", Reason.BAD_TS),
        (f"ts={NOW_MS // 1000 + 86_401}", Reason.BAD_TS), ("ts=99999999999999", Reason.BAD_TS),
        ("ts=0001-01-01T00:00:00%2B23:59", Reason.BAD_TS),
        ("txid=" + "x" * 257, Reason.BAD_TXID), ("txid=A%FF1", Reason.BAD_TXID), ("txid=A%001", Reason.BAD_TXID),
        ("event=" + "x" * 65, Reason.BAD_EVENT), ("event_id=" + "x" * 161, Reason.BAD_EVENT_ID),
        ("txid=1&txid=2", Reason.REPEATED_PARAMETER), ("token=a&token=b", Reason.REPEATED_PARAMETER),
        ("&".join(f"a{i}=1" for i in range(65)), Reason.TOO_MANY_PARAMETERS),
        ("click_id=" + a_token()[:-1], Reason.TRUNCATED), ("click_id=" + "x" * 10_000, Reason.FOREIGN_FORMAT),
        ("click_id=" + a_token()[:-1] + ("0" if a_token()[-1] != "0" else "1"), Reason.FORGED),
    ],
)
@pytest.mark.fault(26)
def test_what_cannot_be_believed_is_refused_by_name(query: str, reason: Reason) -> None:
    """Bad money or a damaged key must never be mended into another sale; each has its own reason."""
    assert reason == refusal_of(query)


def test_an_amount_is_refused_when_no_currency_can_be_told() -> None:
    """A provisional credential over programs of several currencies names none: a guess would pay yen for euros."""
    assert Reason.BAD_CURRENCY == refusal_of("amount=1", Authority(program_id=None, currency=None))
    assert "GBP" == message_of("amount=1&currency=GBP", Authority(program_id=None, currency=None)).currency


@pytest.mark.parametrize("query", ["", "token=x", "click_id=&txid=1", "click_id=%7Bclick_id%7D&amount=1"])
def test_without_click_and_program_nothing_is_said(query: str) -> None:
    """A macro nobody filled is the commonest mistake of a first set-up: its reason says so."""
    with pytest.raises(Refused) as caught:
        check_subject(gather(read_urlencoded(query.encode())))
    assert (Reason.UNFILLED_MACRO if "%7B" in query else Reason.MISSING_CLICK_ID) == caught.value.reason


def test_without_a_click_the_order_number_is_needed() -> None:
    """Without click and order there is no key: two sales could not be told apart."""
    with pytest.raises(Refused) as caught:
        check_subject(gather(read_urlencoded(b"program=shop&coupon=SAVE")))
    assert Reason.MISSING_TXID == caught.value.reason
    check_subject(gather(read_urlencoded(b"program=shop&txid=1")))


@pytest.mark.parametrize(
    "macro",
    ["", "  ", "{txid}", "{{txid}}", "${txid}", "[txid]", "[[txid]]", "%%txid%%", "{}", "{{ order.id }}", "{a b}"],
)
def test_empty_values_and_unfilled_macros_are_absent_and_named(macro: str) -> None:
    """Taken as a value, `{txid}` would make all sales of a shop one conversion."""
    parameters = gather([("txid", macro), ("amount", "1")])
    assert ({"amount": "1"}, ("txid",)) == (dict(parameters.values), parameters.absent)
    assert (("txid",) if macro.strip() else ()) == parameters.unfilled


@pytest.mark.parametrize("value", ["{3F2504E0-4F89-11D3-9A0C-0305E82C3301}", "a{b}", "{a}-{b}", "[1]x", "100%", "%%"])
def test_order_numbers_that_only_look_like_macros_stay(value: str) -> None:
    """A GUID in braces is how some shops write an order number."""
    assert value == gather([("txid", value)]).get("txid")


def test_an_unfilled_macro_beside_the_value_does_not_count() -> None:
    """A template that names a parameter twice, once filled: there is one value."""
    parameters = gather([("txid", "{txid}"), ("txid", "9"), ("txid", " 9")])
    assert ("9", ()) == (parameters.get("txid"), parameters.absent)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1790000000", 1_790_000_000_000), ("1790000000.25", 1_790_000_000_250), ("1790000000123", 1_790_000_000_123),
        ("946684800", 946_684_800_000), ("99999999999", 99_999_999_999_000), ("100000000000", 100_000_000_000),
        ("2026-09-21T13:33:20Z", 1_789_997_600_000), ("2026-09-21t13:33:20.5z", 1_789_997_600_500),
        ("2026-09-21T15:33:20+02:00", 1_789_997_600_000), ("2026-09-21T15:33:20 02:00", 1_789_997_600_000),
        ("2026-09-21 11:33:20.123456789-02:00", 1_789_997_600_123),
    ],
)
def test_a_time_has_one_meaning(text: str, expected: int) -> None:
    """Order of statuses hangs on it: milliseconds read as seconds would win over every later message."""
    assert expected == parse_ts(text)


@pytest.mark.parametrize(
    "text", ["", "12345678", "-1790000000", "123456789012345", "1790000000.", "١٧٩٠٠٠٠٠٠٠", "2026-09-21"]
)
def test_a_time_with_two_meanings_is_none(text: str) -> None:
    """A date without a zone is a different moment in each of them."""
    with pytest.raises(ValueError, match="neither"):
        parse_ts(text)


@pytest.mark.fault(26)
def test_json_numbers_stay_as_written() -> None:
    """0.1 through a float is not 0.1; an order number through a float loses its last digits."""
    body = b'{"amount": 12.10, "txid": 12345678901234567890, "coupon": null, "nested": {"a": [1]}}'
    [pairs], several = read_json(body)
    parameters = gather(pairs)
    assert not several
    assert {"amount": "12.10", "txid": "12345678901234567890"} == dict(parameters.values)
    assert (("coupon",), ("nested",)) == (parameters.absent, parameters.ignored)


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"1", b"null", b'"x"', b"{", b"[" * 60_000, b'{"txid": true}', b'{"txid": ["1"]}', b'{"sig": {}}'],
)
def test_json_that_is_no_object_of_texts_is_refused(body: bytes) -> None:
    """No body may end in anything but an answer, however deep it is nested."""
    with pytest.raises(Refused) as caught:
        read_json(body)
    assert Reason.BAD_BODY == caught.value.reason


def test_json_repeats_and_surrogates_are_judged_like_a_querys() -> None:
    """A parser that lets the last repeated name win lets two systems read two amounts in one message."""
    [pairs], _ = read_json(b'{"amount": 1, "amount": 2}')
    with pytest.raises(Refused):
        gather(pairs)
    [pairs], _ = read_json(rb'{"customer": "a\ud800b\u0000c\ud83d\ude00"}')
    assert "a�b�c😀" == gather(pairs).get("customer")


def test_an_array_is_read_item_by_item_up_to_its_limit() -> None:
    """A thousand is the contract; the thousand and first must not be dropped silently."""
    items, several = read_json(b'[{"txid": 1}, {"txid": 2}]', most_items=2)
    assert (2, True) == (len(items), several)
    with pytest.raises(Refused):
        read_json(b"[{},{},{}]", most_items=2)


def test_what_is_only_kept_is_cropped() -> None:
    """A long customer name is no reason to lose a sale."""
    message = message_of("txid=1&customer=" + "é" * 300 + "&coupon=" + "x" * 99)
    assert (256, 64) == (len(message.customer or ""), len(message.coupon or ""))


def test_an_event_id_of_the_request_serves_messages_that_name_none() -> None:
    """With an Idempotency-Key the same array sent twice is the same conversions."""
    assert ("key#0", "own") == (
        message_of("txid=1", event_id="key#0").event_id, message_of("txid=1&event_id=own", event_id="key#0").event_id,
    )


def test_the_log_form_holds_no_secret_and_comes_back() -> None:
    """The postback log is read by people and exported: a token in it is a token lost."""
    secrets = [("token", "S3CRET"), ("sig", "S3CRET"), ("sig_ts", "1"), ("apikey", "S3CRET"), ("S3CRET" * 5, "")]
    parameters = gather([*secrets, ("txid", "7"), ("amount", ""), ("event", "{event}")])
    logged = parameters.to_log()
    assert {"txid": "7", "_absent": ["amount", "event"], "_unfilled": ["event"], "_ignored": ["apikey"]} == logged
    assert "S3CRET" not in repr(parameters)
    assert Parameters({"txid": "7"}) == Parameters.from_log({**logged, "credential_id": 3})


def test_a_key_too_long_stays_too_long_in_the_log() -> None:
    """Cropped to its cap, a refused order number would be taken on retry, as another order's."""
    logged = gather([("txid", "x" * 9_999)]).to_log()
    with pytest.raises(Refused):
        compose(Parameters.from_log(logged), received_ms=NOW_MS, click=None, authority=EURO)
