"""The usual design with FastAPI on uvicorn (uvloop and httptools, without an access log).

`python -m bench.references.usual_fastapi DSN` listens on a free port of 127.0.0.1 and prints it.
"""

from __future__ import annotations

import asyncio
import socket
import sys

import uvicorn
import uvloop
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from bench.references.usual_store import Store


def application(store: Store) -> FastAPI:
    """Clicks and postbacks over one store."""
    app = FastAPI(openapi_url=None)

    @app.get("/c/{slug}")
    async def click(slug: str, request: Request) -> Response:
        destination = await store.record_click(
            slug, request.query_params, ip=request.client.host if request.client else None,
            user_agent=request.headers.get("user-agent"), referrer=request.headers.get("referer"),
        )
        if destination is None:
            return Response(status_code=404)
        return Response(status_code=302, headers={"Location": destination, "Cache-Control": "no-store"})

    @app.get("/postback")
    async def postback(request: Request) -> Response:
        status, answer = await store.record_sale(request.query_params)
        return JSONResponse(answer, status)

    return app


async def serve(dsn: str) -> None:
    """Until SIGTERM."""
    store = await Store.open(dsn)
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            application(store), http="httptools", ws="none", lifespan="off", access_log=False, log_level="warning",
            backlog=1024, timeout_graceful_shutdown=1,
        )
        door.listen(1024)      # who connects from now on waits in the queue
        print(f"ready: port {door.getsockname()[1]}", flush=True)
        await uvicorn.Server(config).serve([door])
    await store.close()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop_runner:
        loop_runner.run(serve(sys.argv[1]))
