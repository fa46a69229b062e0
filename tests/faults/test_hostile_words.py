"""What strangers may say, through the whole program: in a link's answer, in PostgreSQL, on the operator's screen."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote_from_bytes, urlsplit

import pytest
from demo_world import fetch, make_world, value
from judge import all_is_shipped, assert_verified
from raw_http import Answer, Client, click
from tracker_process import TrackerProcess, running, tracker_environ, until

HOST = "shop.example"
LINKS = {
    "path": "https://shop.example/{sub1}/x?cid={click_id}",
    "query": "https://shop.example/?a={sub1}&cid={click_id}",
    "end": "https://shop.example/#cid={click_id}&a={sub1}",
    "passed": "https://shop.example?cid={click_id}",
}

WORDS = {
    "line ends": b"\r\nSet-Cookie: a=b\r\n\r\n<script>", "a lone LF": b"\nLocation: https://evil.example/", "NUL": b"a\0b",
    "invalid UTF-8": b"\xff\xfe\x80", "overlong UTF-8": b"\xc0\xaf\xe0\x80\xaf", "a surrogate": b"\xed\xa0\x80",
    "beyond Unicode": b"\xf4\x90\x80\x80", "right to left": "‮gpj.exe​".encode(), "7 kB": b"a" * 7_000,
    "two slashes": b"//evil.example", "slash backslash": b"/\\evil.example", "backslashes": b"\\\\evil.example",
    "scheme without slashes": b"https:evil.example", "user name": b"user@evil.example", "at": b"@evil.example",
    "tab in a scheme": b"java\tscript:alert(1)", "newline in a scheme": b"ht\ntps://evil.example", "script": b"javascript:alert(1)",
    "look-alike": "https://shоp.example".encode(), "dots": b"../../..//evil.example", "host": b".evil.example",
    "port": b":80@evil.example",
    "ANSI": b"\x1b[2J\x1b]0;owned\x07", "JSON": b'"}{"level":"error","msg":"forged', "SQL": b"'); DROP TABLE clicks; --",
    "a copy of ours": b"&cid=00000000000000000000000000000000",
}


@pytest.fixture
def world(dsn: str, tmp_path: Path) -> Iterator[tuple[TrackerProcess, str]]:
    """The real program, telling all it can, with a link for each place that a visitor's words may come to."""
    make_world(dsn, links=1)
    environ = tracker_environ(dsn, tmp_path / "spool", TRACKER_WORKERS="1", TRACKER_LOG_LEVEL="debug")
    with running("serve", environ) as tracker:
        for slug, destination in LINKS.items():
            link = {"slug": slug, "program": "shop", "partner": "anna", "destination": destination, "pass_query": slug == "passed"}
            assert 201 == tracker.admin("POST", "/v1/links", link)[0]
        yield tracker, dsn
        until(lambda: all_is_shipped(dsn, tmp_path / "spool"), "every visit is a row")
        assert_verified(environ)
        assert_one_event_a_line(tracker.output)


def assert_one_event_a_line(output: str) -> None:
    """Every line is one JSON object of ours, but the sentence that it is ready."""
    lines = [line for line in output.splitlines() if line and not line.startswith("tracker is ready")]
    assert lines
    for line in lines:
        said = json.loads(line)
        assert {"ts", "level", "process", "logger", "msg"} <= said.keys(), line
        assert "forged" != said["msg"]
    assert "\x1b" not in output
    assert "Traceback" not in output


def host_in_a_browser(location: bytes) -> str:
    """Where a browser would go: it drops tabs and line ends, and takes backslashes for slashes."""
    text = re.sub(rb"[\t\r\n]", b"", location).replace(b"\\", b"/").decode("ascii")
    scheme, _, rest = text.partition(":")
    assert "https" == scheme
    assert rest.startswith("//")
    return urlsplit(text).netloc


def asked_with(slug: str, word: bytes) -> list[bytes]:
    """A click that says the word in every place there is, as far as it can stand there."""
    raw = re.sub(rb"[\x00-\x08\x0a-\x1f\x7f]", b"?", word)     # what no client can put into a header: the corpus tries it
    headers = (b"User-Agent: " + raw, b"Referer: https://a.example/" + raw)
    name = quote_from_bytes(word, safe="").encode()[:2_000]
    visible = re.sub(rb"[^!-\"$-~]", b"", word)[:3_500]      # as it is, where the first line allows it
    return [
        click(slug.encode(), b"sub1=%b&ext=%b&%b=%b" % (name, name, name, name), *headers),
        click(slug.encode(), b"sub1=%b&other=%b" % (visible, visible), *headers),
    ]


@pytest.mark.fault(27, 28, 29, 36)
def test_whatever_visitors_say_they_arrive_where_the_link_leads(world: tuple[TrackerProcess, str]) -> None:
    """An open redirect lends our name to whoever phishes; a word that breaks a row or a line takes its neighbours with it."""
    tracker, dsn = world
    visits = 0
    with Client(tracker.public_port) as client:
        for what, word in WORDS.items():
            for slug in LINKS:
                for request in asked_with(slug, word):
                    answers: list[Answer] = [client.ask(request), client.ask(click(b"l1", b"sub1=neighbour"))]
                    assert [302, 302] == [answer.status for answer in answers], (what, slug)
                    visits += 2
                    location = answers[0].headers[b"location"]
                    assert re.fullmatch(rb"[!-~]+", location), (what, slug)
                    assert HOST == host_in_a_browser(location), (what, slug, location)
                    assert re.search(rb"[?&#]cid=[0-9a-v]{32}(&|$)", location), (what, slug, location)
                    assert re.fullmatch(rb"(?:[^%]|%[0-9A-F]{2})+", location), (what, slug, location)
    until(lambda: value(dsn, "SELECT count(*) FROM clicks") == visits, "every visit is a row")
    neighbours = "SELECT count(*) FROM clicks WHERE sub1 = 'neighbour' AND user_agent IS NULL AND query IS NULL AND flags & 1 = 1"
    assert visits // 2 == value(dsn, neighbours)
    assert 0 == value(dsn, "SELECT count(*) FROM quarantine")


DESTINATIONS = (
    "//evil.example/", "/\\evil.example", "https:evil.example", "https:/evil.example", "https://user@evil.example/",
    "https://shop.example@evil.example/", "java\tscript:alert(1)", "ht\ntps://shop.example/", "javascript:alert(1)",
    "data:text/html,x", "https://shоp.example/", "https://{sub1}/", "https://{sub1}.example/", "https://shop.example{sub1}/",
    "https://shop.example:{sub1}/", "{sub1}", "{sub1}://shop.example/", "https://shop.example\\@evil.example/",
    "https://shop.example\r\nSet-Cookie: a=b", " https://shop.example/", "https://[::1", "https:///x",
)  # fmt: skip


@pytest.mark.fault(29)
def test_a_destination_whose_host_a_visitor_could_choose_is_not_saved(world: tuple[TrackerProcess, str]) -> None:
    """Refused where it is written, with the position: later there would be nobody to tell."""
    tracker, dsn = world
    for column in ("destination", "fallback"):
        for text in DESTINATIONS:
            link = {"slug": "evil", "program": "shop", "partner": "anna", "destination": "https://shop.example/", column: text}
            status, problem = tracker.admin("POST", "/v1/links", link)
            assert (400, "invalid") == (status, problem["code"]), (column, text)
            [field] = [one for one in problem["fields"] if one["field"] == column]
            assert 0 <= field["position"] <= len(text), (column, text)
    assert 0 == value(dsn, "SELECT count(*) FROM links WHERE slug = 'evil'")


@pytest.mark.fault(34)
def test_only_people_who_follow_a_link_are_clicks(world: tuple[TrackerProcess, str]) -> None:
    """Link checkers and browsers that look ahead get the redirect, and nobody pays for them. Methods we have not are refused."""
    tracker, dsn = world
    browser = b"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
    old = b"GET /c/l1?sub1=old HTTP/1.0\r\n" + browser + b"\r\n\r\n"
    with Client(tracker.public_port) as client:
        for request, status in (
            (click(b"l1", b"sub1=person", browser), 302),
            (click(b"l1", b"sub1=looked-ahead", browser, b"Sec-Purpose: prefetch;prerender"), 302),
            (click(b"l1", b"sub1=looked-ahead", browser, b"Purpose: prefetch"), 302),
            (click(b"l1", b"sub1=looked-ahead", browser, b"X-Moz: prefetch"), 302),
            (b"PUT" + click(b"l1", b"sub1=no")[3:], 405), (b"DELETE" + click(b"l1", b"sub1=no")[3:], 405),
        ):
            assert status == client.ask(request).status
        assert 302 == client.ask(click(b"l1", b"sub1=head", browser, method=b"HEAD"), head=True).status
        assert 400 == client.ask(click(b"l1", b"sub1=no", method=b"BREW")).status
        assert b"" == client.rest()
    with Client(tracker.public_port) as client:
        assert 302 == client.ask(old).status
        assert b"" == client.rest(), "HTTP/1.0 does not keep connections"
    until(lambda: value(dsn, "SELECT count(*) FROM clicks") == 6, "every visit is a row")
    kinds = fetch(dsn, "SELECT kind, sum(clicks)::int FROM click_statistics GROUP BY kind")
    assert {"click": 2, "prefetch": 3, "head": 1} == {str(row[0]): row[1] for row in kinds}
    assert 0 == value(dsn, "SELECT count(*) FROM clicks WHERE sub1 = 'no'")
