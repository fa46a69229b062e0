"""Framing over any bytes: a second, slower reader agrees with the fast one, and pieces of a stream give what the whole gives."""

from __future__ import annotations

import re

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tracker.web.framing import (
    CLICK_HEAD_LIMIT,
    FRAME_LIMIT,
    PlainClick,
    Visit,
    frame,
    is_prefetch,
    plain_click,
    plain_click_in_python,
)

names = st.sampled_from([
    b"Host", b"host", b"User-Agent", b"user-agent", b"Referer", b"X-Forwarded-For", b"Sec-Purpose", b"Purpose", b"X-Moz",
    b"Connection",
    b"Content-Length", b"Transfer-Encoding", b"Keep-Alive", b"KEEP-ALIVE", b"TE", b"te", b"Trailer", b"Upgrade", b"Expect",
    b"Accept", b"Cookie",
    b"Content-Type", b"Content-Encoding", b"ETag", b"Server", b"Max-Forwards", b"Upgrade-Insecure-Requests", b"X-A", b"X", b"K",
    b"M", b"Proxy-Connection",
    b"Sec-WebSocket-Key1", b"A B", b"", b"\xff",
])
values = st.one_of(
    st.sampled_from([b"a", b"keep-alive", b"Keep-Alive ", b"close", b"chunked", b"0", b"5", b"go.example:80", b"prefetch",
    b" \t x \t ", b"", b"\xc3\xa9"]),
    st.binary(max_size=8),
)
spaces = st.sampled_from([b" ", b"", b"\t", b"  \t"])
ends = st.sampled_from([b"\r\n"] * 12 + [b"\n", b"\r", b"\r\n ", b"\r\n\r\n", b""])
headers = st.builds(lambda name, colon, space, value, end: name + colon + space + value + end,
                    names, st.sampled_from([b":"] * 9 + [b" :", b""]), spaces, values, ends)
targets = st.one_of(
    st.sampled_from([b"/c/a", b"/c/open/", b"/c/a?sub1=x", b"/c/a&b", b"/c/a#", b"/c/%61", b"/x", b"*", b"http://a/c/b", b"/c/",
    b"/c/a?" + b"q" * 300]),
    st.text("/cab?&#%=.:)]>\x00 \t", max_size=12).map(str.encode),
)
firsts = st.builds(lambda method, target, version: method + b" " + target + b" " + version,
                   st.sampled_from([b"GET"] * 5 + [b"HEAD", b"POST", b"CONNECT", b"get", b"FOO", b""]), targets,
                   st.sampled_from([b"HTTP/1.1\r\n"] * 9 + [b"HTTP/1.0\r\n", b"HTTP/1.1\n", b"HTTP/1.1 \r\n"]))
requests = st.builds(lambda first, lines, end: first + b"".join(lines) + end, firsts, st.lists(headers, max_size=6),
        st.sampled_from([b"\r\n"] * 9 + [b"", b"\n"]))
hosted = st.builds(lambda first, lines, more: first + b"".join(lines) + b"Host: a\r\n" + b"".join(more) + b"\r\n",
                   firsts, st.lists(headers, max_size=3), st.lists(headers, max_size=3))
streams = st.one_of(st.binary(max_size=100), st.lists(st.one_of(requests, hosted, st.binary(max_size=5)), max_size=4).map(b"".join))

REFUSED = {
    b"proxy-connection", b"content-length", b"content-encoding", b"content-type", b"content-location", b"content-range",
    b"transfer-encoding",
    b"te", b"trailer", b"upgrade", b"expect", b"keep-alive", b"etag", b"max-forwards", b"server", b"sec-websocket-key1",
}
SINGLE = (b"user-agent", b"host", b"referer", b"x-forwarded-for", b"purpose", b"connection")


def slow_click(data: bytes, start: int) -> PlainClick | None:
    """What plain_click promises, written with a dictionary and without haste."""
    size = data[start:start + CLICK_HEAD_LIMIT].find(b"\r\n\r\n")
    if size < 0:
        return None
    first, *lines = data[start:start + size].split(b"\r\n")
    line = re.fullmatch(rb"(GET|HEAD) /c/([A-Za-z0-9_-]{1,64})[/.,;:!)'\]>]*([?&][!-~]*)? HTTP/1\.1", first)
    if line is None or b"#" in (line[3] or b"") or len(lines) > 100:
        return None
    found: dict[bytes, bytes] = {}
    for text in lines:
        name, colon, value = text.partition(b":")
        key = name.lower()
        if not colon or key in REFUSED or not re.fullmatch(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
            return None
        if re.search(rb"[\x00-\x08\x0a-\x1f\x7f]", value):
            return None
        if key in (b"sec-purpose", b"x-moz"):
            key = b"purpose"
        if key in SINGLE:
            if key in found:
                return None
            found[key] = value.strip(b" \t") if key != b"x-forwarded-for" else value.lstrip(b" \t")
    if not re.fullmatch(rb"[A-Za-z0-9._:\[\]-]+", found.get(b"host", b"")):
        return None
    if found.get(b"connection", b"keep-alive").lower() != b"keep-alive":
        return None
    visit = Visit(
        line[2], (line[3] or b"?")[1:], found.get(b"user-agent", b""), found.get(b"referer", b""), line[1] == b"HEAD",
        is_prefetch(found.get(b"purpose", b"")), beacon=False,
    )
    return visit, found.get(b"x-forwarded-for", b""), start + size + 4


@settings(max_examples=600)
@given(streams, st.binary(max_size=3))
@example(b"GET /c/a HTTP/1.1\r\nHost: a\r\nKeep-Alive: 1\r\n\r\n", b"")
def test_the_fast_reader_and_the_slow_one_agree(stream: bytes, before: bytes) -> None:
    """The expression is possessive and conditional, and such expressions have been wrong in Python itself."""
    expected = slow_click(before + stream, len(before))
    assert expected == plain_click_in_python(before + stream, len(before))
    assert expected == plain_click(before + stream, len(before))


@settings(max_examples=600)
@given(streams)
@example(b"GET /c/a HTTP/1.1\r\nHost: a\r\nKeep-Alive: 1\r\n\r\n")
def test_a_plain_click_ends_where_its_frame_ends(stream: bytes) -> None:
    """Else one of the two lanes would begin its next request in the middle of a visitor's bytes."""
    click = plain_click(stream, 0)
    if click is not None:
        assert click[2] == frame(stream, 0)


@settings(max_examples=400)
@given(streams)
def test_more_bytes_never_change_what_was_said_of_a_whole_request(stream: bytes) -> None:
    """frame of a beginning is: not whole yet, or what it is of the whole stream; refused stays refused."""
    said = frame(stream, 0)
    for cut in range(1, len(stream)):
        early = frame(stream[:cut], 0)
        assert early == 0 or early == said or (early == -1 and said == -1)
        if early != 0:
            break
    if said > 0:
        assert said <= FRAME_LIMIT
        assert plain_click(stream, 0) == plain_click(stream[:said], 0)


@given(streams, st.integers(0, 3))
def test_where_a_request_stands_in_the_stream_does_not_matter(stream: bytes, shift: int) -> None:
    said, moved = frame(stream, 0), frame(b"\r\n:"[:shift] + stream, shift)
    assert (said + shift if said > 0 else said) == moved
