"""aiohttp's protocol, but with constant words for what it cannot parse: its own echo input, name its version, log tracebacks."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler, _ErrInfo

_NO_ACCESS_LOG = logging.getLogger("tracker.access")     # a line a request would cost more than the click
_NO_ACCESS_LOG.setLevel(logging.CRITICAL)


class ConstantWords(RequestHandler):
    """One connection, on either port. `settings` are RequestHandler's."""

    __slots__ = ("broken",)

    def __init__(self, server: web.Server, *, loop: asyncio.AbstractEventLoop, **settings: Any) -> None:
        super().__init__(server, loop=loop, access_log=_NO_ACCESS_LOG, **settings)
        self.broken = False      # it has met what it cannot parse

    def data_received(self, data: bytes) -> None:
        """Nothing behind what cannot be parsed: aiohttp reads on until its refusal has left, and quotes each piece at length."""
        if self.broken:
            return
        super().data_received(data)
        self.broken = bool(self._messages) and isinstance(self._messages[-1][0], _ErrInfo)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        if isinstance(resp, web.HTTPExpectationFailed):
            resp = self.handle_error(request, resp.status)
        return await super().finish_response(request, resp, start_time)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None  # noqa: ARG002
    ) -> web.StreamResponse:
        """Constant problem+json; only what is our own mistake is logged."""
        if isinstance(exc, UnicodeEncodeError) and not request.headers.get("Expect", "").isascii():
            status = 417      # aiohttp failed while it repeated the header in its refusal
        if status >= 500:
            self.log_exception("Unhandled exception in a handler", exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer was begun: closing is all that can still be said")
        title, code = ("Malformed request", "malformed_request") if status < 500 else ("Internal error", "internal_error")
        response = web.json_response(
            {"type": "about:blank", "title": title, "status": status, "code": code}, status=status,
            content_type="application/problem+json", headers={"Server": "tracker", "Cache-Control": "no-store"},
        )
        response.force_close()
        return response
