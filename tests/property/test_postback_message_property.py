"""Any bytes in a postback's query or body are a message or a refusal, in any order, and never carry a secret on."""

from __future__ import annotations

import json
from urllib.parse import quote_plus

from hypothesis import given
from hypothesis import strategies as st

from tracker.domain.click_id import ClickIdMaker, Keyring
from tracker.domain.postback import Postback
from tracker.domain.postback_message import Authority, check_subject, compose, read_click_id
from tracker.domain.postback_parameters import KNOWN, Pair, Parameters, gather, read_json, read_urlencoded
from tracker.domain.refusal import Refused

NOW_MS = 1_790_000_000_000
KEYRING = Keyring(((0, b"0123456789abcdef"),))
TOKEN = ClickIdMaker(keyring=KEYRING, worker=1, random_counter=lambda: 0).make(NOW_MS, 5)[1].decode()
SECRET = "s3cr3tvalue"                            # looks like a parameter name
TOKEN_SHAPED = "q9XbT4vLw2Yz7RkM0sNcJh5Q"         # a secret that stands where a name should

names = st.sampled_from(sorted(KNOWN)) | st.text(max_size=8)
texts = (
    st.text(max_size=20)
    | st.sampled_from([TOKEN, "{txid}", "%%x%%", "12.50", "EUR", "approved", "1789999999", "2026-09-21T10:00:00Z"])
    | st.from_regex(r"[0-9.,eE+-]{1,20}", fullmatch=True)
)
pair_lists = st.lists(st.tuples(names, texts), max_size=12)
documents = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
)
authorities = st.builds(
    Authority, program_id=st.none() | st.just(7), currency=st.none() | st.just("JPY"), limited=st.booleans()
)


def judged(pairs: list[Pair], authority: Authority) -> Postback | str:
    """The message, or the reason of its refusal; anything else is the bug these tests look for."""
    try:
        parameters = gather(pairs)
        click = read_click_id(parameters, KEYRING)
        if click is None:
            check_subject(parameters)
        return compose(parameters, received_ms=NOW_MS, click=click, authority=authority)
    except Refused as refused:
        return refused.reason


@given(st.binary(max_size=300), authorities)
def test_any_query_is_a_message_or_a_refusal(raw: bytes, authority: Authority) -> None:
    """An exception here would be a 500, told apart by nobody from a lost sale."""
    assert isinstance(judged(read_urlencoded(raw), authority), Postback | str)


@given(st.binary(max_size=300) | documents.map(lambda value: json.dumps(value).encode()), authorities)
def test_any_json_is_messages_or_refusals(raw: bytes, authority: Authority) -> None:
    """The same for bodies, deep or broken."""
    try:
        items, _ = read_json(raw, most_items=3)
    except Refused:
        return
    for pairs in items:
        assert isinstance(judged(pairs, authority), Postback | str)


@given(pair_lists, authorities)
def test_a_message_can_be_stored_and_read_back(pairs: list[Pair], authority: Authority) -> None:
    """What goes to the journal must be UTF-8 without NUL, of bounded length, and come back equal."""
    message = judged([*pairs, ("click_id", TOKEN)], authority)
    if isinstance(message, Postback):
        stored = json.dumps(message.to_json(), ensure_ascii=False).encode()
        assert b"\0" not in stored
        assert len(stored) < 4_000
        assert message == Postback.from_json(message.message_id, json.loads(stored))
        assert (message.amount is None) == (message.currency is None)


@given(pair_lists.flatmap(lambda pairs: st.tuples(st.just(pairs), st.permutations([*pairs, *pairs[:3]]))))
def test_order_and_equal_repeats_change_nothing(lists: tuple[list[Pair], list[Pair]]) -> None:
    """Senders and proxies reorder parameters: the same sale must stay the same message."""
    authority = Authority(program_id=7, currency="EUR")
    assert judged(lists[0], authority) == judged(lists[1], authority)


@given(pair_lists)
def test_a_query_and_a_json_body_say_the_same(pairs: list[Pair]) -> None:
    """The door has three spellings of one contract: GET, form and JSON must not drift apart."""
    query = "&".join(f"{quote_plus(name)}={quote_plus(value or '')}" for name, value in pairs)
    body = "{" + ",".join(f"{json.dumps(name)}:{json.dumps(value)}" for name, value in pairs) + "}"
    [json_pairs], _ = read_json(body.encode())
    authority = Authority(program_id=7, currency="EUR")
    assert judged(read_urlencoded(query.encode()), authority) == judged(json_pairs, authority)


@given(pair_lists, st.sampled_from(["token", "sig", "sig_ts", "api_key", TOKEN_SHAPED]), st.integers(0, 12))
def test_a_planted_secret_goes_no_further(pairs: list[Pair], name: str, at: int) -> None:
    """Tokens arrive among the parameters, under right names and wrong ones; journal and log must not hold them."""
    planted = [*pairs[:at], (name, SECRET), *pairs[at:], ("click_id", TOKEN)]
    message = judged(planted, Authority(program_id=7, currency="EUR"))
    kept = json.dumps(message.to_json()) if isinstance(message, Postback) else message
    assert [] == [secret for secret in (SECRET, TOKEN_SHAPED) if secret in kept]
    try:
        parameters = gather(planted)
    except Refused:
        return
    logged = json.dumps(parameters.to_log()) + repr(parameters)
    assert [] == [secret for secret in (SECRET, TOKEN_SHAPED) if secret in logged]
    assert dict(parameters.values) == dict(Parameters.from_log(parameters.to_log()).values)
