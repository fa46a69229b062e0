"""Framing, case by case: where requests end, what a plain click is, and that no head takes long to judge."""

from __future__ import annotations

import pytest

from tracker.web.framing import CLICK_HEAD_LIMIT, FRAME_LIMIT, HEAD_LIMIT, Visit, frame, is_prefetch, plain_click

CLICK = b"GET /c/a-_9?sub1=x HTTP/1.1\r\nHost: go.example\r\n\r\n"


def head(*lines: bytes, first: bytes = b"GET /c/a HTTP/1.1") -> bytes:
    return b"".join(line + b"\r\n" for line in (first, b"Host: a", *lines, b""))


def test_a_plain_click_is_taken_apart() -> None:
    data = head(
        b"X-Forwarded-For: 192.0.2.1", b"user-agent: \t Mozilla/5.0 \t", b"REFERER:https://t.co/ ", b"Sec-Purpose: prefetch",
        b"Cookie: a=b",
        first=b"HEAD /c/Slug?sub1=%20&x HTTP/1.1",
    )
    visit = Visit(b"Slug", b"sub1=%20&x", b"Mozilla/5.0", b"https://t.co/", head=True, prefetch=True, beacon=False)
    expected = (visit, b"192.0.2.1", 3 + len(data))
    assert expected == plain_click(b"..." + data + CLICK, 3)


def test_what_a_click_does_not_say_is_empty() -> None:
    assert (Visit(b"a-_9", b"sub1=x", b"", b"", False, False, False), b"", len(CLICK)) == plain_click(CLICK, 0)


@pytest.mark.parametrize(
    "line",
    [
        b"Content-Length: 0", b"Transfer-Encoding: chunked", b"Upgrade: x", b"Expect: 100-continue", b"TE: trailers", b"Trailer: x",
        b"Keep-Alive: 1", b"Connection: close", b"Connection: keep-alive, x", b"Proxy-Connection: keep-alive",
        b"Content-Encoding: gzip",
        b"Host: b", b"host:b", b"Content-Type: a/b", b"ETag: a", b"Server: a", b"Max-Forwards: 1", b"Sec-WebSocket-Key1: a",
        b" folded", b"no colon", b"Space : a", b"NUL: \0", b"DEL: \x7f", b"CR: a\rb", b"LF: a\nb", b": a",
    ],
)
def test_a_header_that_needs_a_judgement_makes_no_plain_click(line: bytes) -> None:
    for name in (line, line.swapcase()):
        assert plain_click(head(name), 0) is None
        assert plain_click(head(b"Accept: a", name, b"Accept: b"), 0) is None


@pytest.mark.parametrize("name", [b"User-Agent", b"Referer", b"X-Forwarded-For", b"Sec-Purpose", b"Purpose", b"X-Moz",
    b"Connection"])
def test_a_header_that_matters_may_come_once(name: bytes) -> None:
    """Two lanes that chose differently among repeated headers would store one visit in two ways."""
    line = name + b": keep-alive"
    assert plain_click(head(line), 0) is not None
    assert plain_click(head(line, line), 0) is None
    assert plain_click(head(line, b"Accept: */*", line.lower()), 0) is None


def test_names_that_only_begin_or_end_alike_are_others() -> None:
    lines = [b"X-User-Agent: a", b"User-Agent-X: b", b"Hosts: c", b"X-Host: d", b"Teapot: e", b"Upgrade-Insecure-Requests: 1",
    b"Servers: f"]
    found = plain_click(head(*lines), 0)
    assert found is not None
    assert b"" == found[0].user_agent


@pytest.mark.parametrize(
    "target",
    [b"/c/a", b"/c/a/", b"/c/a).,;:!']>", b"/c/a?", b"/c/a&x=1", b"/c/a?" + bytes(range(0x24, 0x7F)), b"/c/" + b"a" * 64],
)
def test_targets_of_plain_clicks(target: bytes) -> None:
    assert plain_click(head(first=b"GET " + target + b" HTTP/1.1"), 0) is not None


@pytest.mark.parametrize(
    "first",
    [
        b"POST /c/a HTTP/1.1", b"GET /c/a HTTP/1.0", b"GET /c/a HTTP/1.2", b"get /c/a HTTP/1.1", b"GET  /c/a HTTP/1.1",
        b"GET /c/a  HTTP/1.1",
        b"GET /c/ HTTP/1.1", b"GET /c/a#x HTTP/1.1", b"GET /c/a?x#y HTTP/1.1", b"GET /c/%61 HTTP/1.1", b"GET /c/a/b HTTP/1.1",
        b"GET /c/a?\xff HTTP/1.1", b"GET /c/a?\t HTTP/1.1", b"GET /c/" + b"a" * 65 + b" HTTP/1.1", b"GET http://x/c/a HTTP/1.1",
        b" GET /c/a HTTP/1.1", b"GET /c/a HTTP/1.1 ",
    ],
)
def test_other_first_lines_make_no_plain_click(first: bytes) -> None:
    assert plain_click(head(first=first), 0) is None


def test_a_plain_click_has_one_host_a_hundred_headers_and_eight_kilobytes_at_most() -> None:
    assert plain_click(b"GET /c/a HTTP/1.1\r\nAccept: a\r\n\r\n", 0) is None
    assert plain_click(head(*[b"X: y"] * 99), 0) is not None
    assert plain_click(head(*[b"X: y"] * 100), 0) is None
    room = CLICK_HEAD_LIMIT - len(head(b"X: "))
    assert plain_click(head(b"X: " + b"a" * room), 0) is not None
    assert plain_click(head(b"X: " + b"a" * (room + 1)), 0) is None


@pytest.mark.parametrize("cut", range(len(CLICK)))
def test_a_head_that_is_not_whole_is_waited_for(cut: int) -> None:
    assert plain_click(CLICK[:cut], 0) is None
    if cut:
        assert 0 == frame(CLICK[:cut], 0)


def test_a_request_ends_where_its_body_ends() -> None:
    data = head(b"Content-Length: 5", first=b"POST /x HTTP/1.1")
    for body in (b"", b"hel", b"hello", b"hello" + CLICK):
        assert 2 + len(data) + 5 == frame(b".." + data + body, 2)


@pytest.mark.parametrize(
    "line",
    [
        b"Content-Length: 1\r\nContent-Length: 1", b"Content-Length: 1, 1", b"Content-Length: +1", b"Content-Length: -1",
        b"Content-Length:",
        b"Content-Length: 0x1", b"Content-Length: 1 1", b"Content-Length: \xd9\xa1", b"Content-Length: 00000000001",
        b"Content-Length : 1",
        b"Transfer-Encoding: chunked", b"transfer-encoding:\tidentity", b"Upgrade: h2c", b"Expect: 100-continue", b"TE: x",
        b"Trailer: x",
        b"Keep-Alive: 1", b"Proxy-Connection: x", b"Connection: close", b"Connection:", b"Host: b", b" folded", b"no colon",
        b": x", b"X: a\0",
        b"X: a\nb: c", b"X: a\rb: c", b"X: \x7f",
    ],
)
def test_what_could_be_read_in_two_ways_is_not_framed(line: bytes) -> None:
    """Its end would be one opinion and aiohttp's another: that is how requests are smuggled."""
    assert -1 == frame(head(line, first=b"POST /x HTTP/1.1"), 0)


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n", b"\r", b"\n", b"\0", b"get", b"GET\t", b"GET /\xff", b"GET / HTTP/2", b"GET / HTTP/1.1\n",
        b"GET / HTTP/1.0\r\n", b"HELO x\r\n",
        b"GET / HTTP/1.1\r\nA: b\nC", b"\x16\x03\x01\x02\x00", b"SSH-2.0-x\r\n", b"A" * 17, b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.0\r\nHost: a\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n",
    ],
)
def test_garbage_is_told_at_once(data: bytes) -> None:
    assert -1 == frame(data, 0)


def test_no_request_larger_than_the_limit_is_held() -> None:
    room = FRAME_LIMIT - len(head(b"Content-Length: 12345", first=b"POST /x HTTP/1.1"))
    assert FRAME_LIMIT == frame(head(b"Content-Length: %d" % room, first=b"POST /x HTTP/1.1"), 0)
    assert -1 == frame(head(b"Content-Length: %d" % (room + 1), first=b"POST /x HTTP/1.1"), 0)
    unfinished = b"GET / HTTP/1.1\r\nX: "
    assert 0 == frame(unfinished + b"a" * (HEAD_LIMIT - len(unfinished)), 0)
    assert -1 == frame(unfinished + b"a" * (HEAD_LIMIT + 1 - len(unfinished)), 0)


HOSTILE = [
    head(b"User-Agent:" + b" " * 7900 + b"\0"), head(b"Host:" + b"\t" * 7900 + b"\0"),
    b"GET /c/a HTTP/1.1\r\nHost: " + b"a" * 7900 + b"\0\r\n\r\n",
    head(b"Connection:" + b" " * 7900 + b"x"), head(b"Connection: keep-alive" + b" " * 7900 + b"x"),
    head(*[b"X:" + b" " * 70] * 99, b"\0"),
    head(*[b"Ab: c"] * 99, b"\0"), head(*[b"User-Agent: a", b"Referer: b", b"X-Forwarded-For: c"] * 33, b"\0"), head(b"X" * 7900),
    b"GET /c/a" + b"." * 7900 + b"\r\n\r\n", b"GET /c/a?" + b"x" * 7900 + b"\r\n\r\n",
    b"GET /c/a?" + b"?" * 7900 + b" HTTP/1.1\r\nHost: a\r\n\0\r\n\r\n",
]


@pytest.mark.timeout(60)
def test_no_head_takes_long_to_refuse() -> None:
    """Time must grow with the bytes, not with their square: two thousand of these take a second, or else many minutes."""
    for hostile in HOSTILE:
        for _ in range(200):
            assert plain_click(hostile, 0) is None


@pytest.mark.timeout(60)
def test_no_request_takes_long_to_frame() -> None:
    """Linear, a hundredth of a second each; with the square of two million, an hour. The lane's limit is not relied on."""
    spaces = b" " * 2_000_000
    for hostile in (head(b"X:" + spaces + b"\0"), head(b"X" + spaces + b":"), head(b"Content-Length:" + spaces + b"\0"),
                    head(*[b"X:"] * 500_000, b"\0"), b"GET /" + b"a" * 2_000_000 + b"\r\n\r\n", b"G" * 2_000_000 + b"\r\n\r\n"):
        assert -1 == frame(hostile, 0)


@pytest.mark.parametrize(("value", "expected"), [
    (b"prefetch", True), (b"prefetch;prerender", True), (b"PREVIEW", True), (b"prerender", True), (b"", False), (b"navigate",
    False),
])
def test_which_purposes_are_prefetches(value: bytes, expected: bool) -> None:
    assert expected is is_prefetch(value)
