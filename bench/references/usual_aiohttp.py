"""The usual design on aiohttp with uvloop, without an access log.

`python -m bench.references.usual_aiohttp DSN` listens on a free port of 127.0.0.1 and prints it.
"""

from __future__ import annotations

import asyncio
import signal
import sys

import uvloop
from aiohttp import web

from bench.references.usual_store import Store


def application(store: Store) -> web.Application:
    """Clicks and postbacks over one store."""

    async def click(request: web.Request) -> web.Response:
        destination = await store.record_click(
            request.match_info["slug"], request.query, ip=request.remote, user_agent=request.headers.get("User-Agent"),
            referrer=request.headers.get("Referer"),
        )
        if destination is None:
            return web.Response(status=404)
        return web.Response(status=302, headers={"Location": destination, "Cache-Control": "no-store"})

    async def postback(request: web.Request) -> web.Response:
        status, answer = await store.record_sale(request.query)
        return web.json_response(answer, status=status)

    app = web.Application()
    app.router.add_get("/c/{slug}", click)
    app.router.add_get("/postback", postback)
    return app


async def serve(dsn: str) -> None:
    """Until SIGTERM."""
    store = await Store.open(dsn)
    runner = web.AppRunner(application(store), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print(f"ready: port {runner.addresses[0][1]}", flush=True)
    await stop.wait()
    await runner.cleanup()
    await store.close()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop_runner:
        loop_runner.run(serve(sys.argv[1]))
