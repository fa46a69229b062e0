"""The click route behind aiohttp: what the fast lane does not take (escapes in the path, beacons, HTTP/1.0, unknown slugs).

Same desk, same answers. An unknown slug is looked up here, since that waits: a link just made must not fail.
"""

from __future__ import annotations

import asyncio
import re
from urllib.parse import unquote_to_bytes

from aiohttp import web

from tracker.web.agents import Places
from tracker.web.desk import GONE, NOT_FOUND, REFERRER_POLICY, Desk
from tracker.web.framing import PREFETCH_HEADERS, Visit, is_prefetch

_TARGET = re.compile(rb"(?:[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*)?/c/([^?&#]*)(?:[?&]([^#]*))?")
_SLUG = re.compile(rb"([A-Za-z0-9_-]{1,64})[/.,;:!)'\]>\s]*")
_REASON = {404: NOT_FOUND, 410: GONE}


class _Handler:
    """Stands at the desk for one aiohttp request: the bytes are the fast lane's, this lane only needs to know when."""

    def __init__(self) -> None:
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def deliver(self, answer: bytes) -> None:  # noqa: ARG002 - the Sink's shape
        if not self.ready.done():
            self.ready.set_result(None)

    def abandon(self) -> None:
        if not self.ready.done():
            self.ready.cancel()      # aiohttp then closes the connection


def split_target(target: bytes) -> tuple[bytes, bytes]:
    """Slug and raw query of a click's request target; slug b"" when there is none. Forgives what people's programs append."""
    found = _TARGET.fullmatch(target.partition(b"#")[0])
    slug = _SLUG.fullmatch(unquote_to_bytes(found[1])) if found else None
    return (slug[1] if slug else b""), (found[2] or b"" if found else b"")


def click_routes(desk: Desk, places: Places) -> list[web.RouteDef]:
    """GET, HEAD and POST /c/{slug}."""

    async def click(request: web.Request) -> web.StreamResponse:
        slug, query = split_target(request.raw_path.encode("utf-8", "surrogateescape"))
        link = desk.redirector.links.get(slug)
        if link is None and slug and desk.may_look_up():
            link = await desk.look_up(slug)
        visit = Visit(
            slug, query, _first(request, "User-Agent"), _first(request, "Referer"), head=request.method == "HEAD",
            prefetch=is_prefetch(_all(request, *PREFETCH_HEADERS)), beacon=request.method == "POST",
        )
        waiting = _Handler()
        outcome = desk.take(waiting, link, visit, places.of_request(request))
        await waiting.ready
        if isinstance(outcome, int):
            return web.Response(
                status=outcome, body=_REASON[outcome], content_type="application/problem+json",
                headers={"Cache-Control": "no-store"},
            )
        assert link is not None      # nobody is sent anywhere without one
        return web.Response(
            status=302,
            headers={
                "Location": outcome.decode("ascii"),
                "Referrer-Policy": REFERRER_POLICY[link.referrer_policy],
                "Cache-Control": "no-store",
                "Content-Length": "0",
            },
        )

    path = r"/c/{slug:[\s\S]*}"      # escaped line ends too: people's programs append them
    return [web.get(path, click), web.post(path, click)]


def _first(request: web.Request, name: str) -> bytes:
    return request.headers.get(name, "").encode("utf-8", "surrogateescape")


def _all(request: web.Request, *names: str) -> bytes:
    return ",".join(value for name in names for value in request.headers.getall(name, ())).encode("utf-8", "surrogateescape")
