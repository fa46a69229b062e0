"""The yardstick: an aiohttp Application that answers a constant 302 and does nothing else. On uvloop, without an access log.

`python -m bench.references.bare_aiohttp` listens on a free port of 127.0.0.1 and prints it.
"""

from __future__ import annotations

import asyncio
import signal

import uvloop
from aiohttp import web

HEADERS = {"Location": "https://shop.example/p", "Cache-Control": "no-store"}


async def redirect(_: web.Request) -> web.Response:
    """The whole work: the same answer to everything."""
    return web.Response(status=302, headers=HEADERS)


async def serve() -> None:
    """Until SIGTERM."""
    app = web.Application()
    app.router.add_get("/c/{slug}", redirect)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print(f"ready: port {runner.addresses[0][1]}", flush=True)
    await stop.wait()
    await runner.cleanup()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop_runner:
        loop_runner.run(serve())
