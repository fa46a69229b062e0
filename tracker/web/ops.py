"""What machines ask: /metrics, /healthz, /readyz. On the admin port only."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from tracker.metrics import Shared, exposition


def ops_routes(shared: Shared, readiness: Callable[[], Sequence[str]]) -> list[web.RouteDef]:
    """`readiness()` gives the reasons why this process is not ready, none when it is."""

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=exposition(shared), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def healthz(_: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})      # the process lives; never depends on PostgreSQL

    async def readyz(_: web.Request) -> web.Response:
        reasons = list(readiness())
        status, word = (503, "not ready") if reasons else (200, "ready")
        return web.json_response({"status": word, "reasons": reasons}, status=status)

    return [web.get("/metrics", metrics), web.get("/healthz", healthz), web.get("/readyz", readyz)]
