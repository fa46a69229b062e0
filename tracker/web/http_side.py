"""aiohttp's protocol for one connection, made when its lane first needs it; the connection stays the lane's."""

from __future__ import annotations

import asyncio
from typing import Protocol

from aiohttp import web

from tracker.web.constant_words import ConstantWords


class Owner(Protocol):
    """The lane (fastlane.py), as aiohttp's side sees it."""

    @property
    def draining(self) -> bool: ...

    def answered(self, keep: bool) -> None: ...

    def http_reads(self, wanted: bool) -> None: ...

    def body_begins(self) -> None: ...


class HttpSide(ConstantWords):
    """Reports each answer written, and leaves it to the lane whether to read on: it has reasons of its own to stop."""

    __slots__ = ("lane",)

    def __init__(self, server: web.Server, loop: asyncio.AbstractEventLoop, lane: Owner) -> None:
        # Ten years: its timer does not see the lane's clicks, and 0 would close at once. The sweep has the deadlines.
        super().__init__(server, loop=loop, keepalive_timeout=315_360_000.0, auto_decompress=False, lingering_time=1.0)
        self.lane = lane

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        if self.lane.draining or request.method == "CONNECT":     # what follows CONNECT is no request to anybody else
            resp.force_close()
        resp, reset = await super().finish_response(request, resp, start_time)
        self.lane.answered(not reset and bool(resp.keep_alive))
        return resp, reset

    def _pause_transport_reading(self) -> None:
        self.lane.http_reads(False)

    def _resume_transport_reading(self) -> None:
        self.lane.http_reads(True)
