"""A real browser follows a link: what the visitor sees, what the shop gets, what is stored of it."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from demo_world import fetch, make_world, value
from playwright.sync_api import Page, sync_playwright
from support import missing
from tracker_process import KEYRING, TrackerProcess, running, tracker_environ, until

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
# Its own says HeadlessChrome, and is rightly taken for a bot's.
VISITOR = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36"
PREFETCH, BEACON = 2, 64


class Web:
    """Two sites on one local server: a blog that links, and a shop that is linked to. `landed`: what the shop was asked for."""

    def __init__(self) -> None:
        self.landed: list[str] = []
        self.pages: dict[str, str] = {}
        web = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if self.path.startswith("/landing"):
                    web.landed.append(self.path)
                page = web.pages.get(self.path, "<title>Shop</title><h1>Shop</h1>").encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.send_header("Content-Length", str(len(page)))
                self.end_headers()
                self.wfile.write(page)

            def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
                """Not on the tests' standard error."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(20)


@pytest.fixture
def web() -> Iterator[Web]:
    made = Web()
    yield made
    made.close()


@pytest.fixture
def tracker(dsn: str, web: Web, tmp_path: Path) -> Iterator[TrackerProcess]:
    make_world(dsn, links=3)
    landing = f"http://localhost:{web.port}/landing?click_id={{click_id}}&s={{sub1}}"
    fetch(dsn, "UPDATE links SET destination = $1, pass_query = true", landing)
    with running("serve", tracker_environ(dsn, tmp_path / "spool")) as process:
        yield process


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    """A page of a browser that was never used before."""
    executable = os.environ.get("TRACKER_TEST_CHROMIUM") or shutil.which("chromium")
    if not executable or not Path(executable).exists():
        missing("no Chromium (Debian: chromium), and TRACKER_TEST_CHROMIUM names none")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            tmp_path / "profile", executable_path=executable, args=FLAGS, chromium_sandbox=False, user_agent=VISITOR
        )
        try:
            yield browser.new_page()
        finally:
            browser.close()


def clicks(dsn: str) -> list[dict[str, Any]]:
    return [dict(row) for row in fetch(dsn, "SELECT * FROM clicks ORDER BY click_id")]


def test_a_visitor_lands_in_the_shop_with_the_click_id(dsn: str, web: Web, tracker: TrackerProcess, page: Page) -> None:
    """The point of it all: whoever follows a link arrives, and the shop knows by whom."""
    link = f"http://localhost:{tracker.public_port}/c/l1?sub1=caf%C3%A9%20%26%20more&colour=blue"
    web.pages["/blog"] = f'<title>Blog</title><a id="link" href="{link}">the shop</a>'
    blog = f"http://127.0.0.1:{web.port}/blog"
    page.goto(blog)
    page.click("#link")
    page.wait_for_url("**/landing?**")
    assert "Shop" == page.title()
    [landed] = web.landed
    token = page.evaluate("new URL(location).searchParams.get('click_id')")
    said = {name: page.evaluate(f"new URL(location).searchParams.get('{name}')") for name in ("s", "colour")}
    assert {"s": "café & more", "colour": "blue"} == said
    assert f"click_id={token}" in landed
    until(lambda: value(dsn, "SELECT count(*) FROM clicks") == 1, "the click has a row")
    [row] = clicks(dsn)
    assert KEYRING.verify(token).uuid == row["click_id"].bytes
    assert (VISITOR, "desktop", "Linux", "Chrome") == (row["user_agent"], row["device"], row["os"], row["browser"])
    assert f"http://127.0.0.1:{web.port}/" == row["referrer"]      # another site hears no path, by the browser's own policy
    assert ("café & more", 0) == (row["sub1"], row["flags"])


def test_the_shop_hears_of_the_referrer_what_the_link_allows(dsn: str, web: Web, tracker: TrackerProcess, page: Page) -> None:
    """A partner may not want to be named: the policy on the redirect has to reach the browser and be obeyed."""
    status, _ = tracker.admin("PATCH", "/v1/links/l2", {"referrer_policy": "none"})
    assert 200 == status
    web.pages["/blog"] = "".join(
        f'<a id="{slug}" href="http://localhost:{tracker.public_port}/c/{slug}">{slug}</a>' for slug in ("l1", "l2")
    )

    def referrer_after(slug: str) -> str:
        page.goto(f"http://127.0.0.1:{web.port}/blog")
        page.click(f"#{slug}")
        page.wait_for_url("**/landing?**")
        return str(page.evaluate("document.referrer"))

    until(lambda: referrer_after("l2") == "", "the changed link says no-referrer")
    assert f"http://127.0.0.1:{web.port}/" == referrer_after("l1")


def test_each_visit_is_a_new_click(dsn: str, web: Web, tracker: TrackerProcess, page: Page) -> None:
    """A cached redirect would be a visit that nobody sees: back, reload and again must all reach us."""
    tokens = set()
    for _ in range(3):
        page.goto(f"http://localhost:{tracker.public_port}/c/l1")
        tokens.add(page.evaluate("new URL(location).searchParams.get('click_id')"))
    assert 3 == len(tokens)
    until(lambda: value(dsn, "SELECT count(*) FROM clicks") == 3, "each is a row")


def test_a_prefetch_is_kept_and_not_counted_as_a_click(dsn: str, web: Web, tracker: TrackerProcess, page: Page) -> None:
    """Browsers fetch links that nobody has clicked: billed as clicks, they would be fraud."""
    link = f"http://127.0.0.1:{tracker.public_port}/c/l1?sub1=guess"
    web.pages["/blog"] = f'<title>Blog</title><link rel="prefetch" href="{link}"><p>read me'
    page.goto(f"http://127.0.0.1:{web.port}/blog")
    until(lambda: value(dsn, "SELECT count(*) FROM clicks") == 1, "the prefetch has a row")
    [row] = clicks(dsn)
    assert PREFETCH == row["flags"] & PREFETCH
    kinds = fetch(dsn, "SELECT kind, sum(clicks)::int AS clicks FROM click_statistics GROUP BY kind")
    assert {"prefetch": 1} == {row["kind"]: row["clicks"] for row in kinds}
    metrics = tracker.metrics()
    assert (0, 1) == (metrics["tracker_clicks_total", "click"], metrics["tracker_clicks_total", "prefetch"])


def test_a_beacon_is_a_click(dsn: str, web: Web, tracker: TrackerProcess, page: Page) -> None:
    """`<a ping>` and sendBeacon send POST: a page that counts on them must not lose its clicks."""
    page.goto(f"http://127.0.0.1:{web.port}/blog")
    assert page.evaluate(f"navigator.sendBeacon('http://127.0.0.1:{tracker.public_port}/c/l1?sub1=beacon', 'body')")
    until(lambda: value(dsn, "SELECT count(*) FROM clicks WHERE sub1 = 'beacon'") == 1, "the beacon has a row")
    assert BEACON == clicks(dsn)[0]["flags"]
