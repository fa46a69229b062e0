"""What every request on the public port passes behind its lane, whichever handler takes it."""

from __future__ import annotations

from collections.abc import Iterable

from aiohttp import web

from tracker.web.errors import Handler, problems

BODY_LIMIT = 1 << 20      # an array of 1,000 conversions


def public_app(routes: Iterable[web.RouteDef]) -> web.Application:
    """The application behind the lanes."""
    app = web.Application(client_max_size=BODY_LIMIT, middlewares=[_one_request, problems])
    app.add_routes(routes)
    return app


@web.middleware
async def _one_request(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A body has its own deadline from here on; and no request is looked for behind an upgrade that we did not make: aiohttp
    forgets what it had read of it, so that a body could be taken for a request."""
    lane = getattr(request.protocol, "lane", None)
    if lane is not None:
        lane.body_begins()
    response = await handler(request)
    response.headers["Server"] = "tracker"      # here, not in a signal of aiohttp's: 4 µs
    if "Upgrade" in request.headers:
        response.force_close()
    return response
