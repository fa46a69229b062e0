"""What each role runs, from settings to exit code.

    serve     this process: control, and parent of N edge workers        edge   this process: parent of N edge workers, and ops
    control   this process: control                                      worker one edge worker, started by a parent
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from aiohttp import web

from tracker.app.control import Control
from tracker.app.edge import Edge
from tracker.app.supervisor import SETUP_FAILED, Supervisor
from tracker.metrics import Shared
from tracker.settings import Settings
from tracker.storage.countries import NoCountries
from tracker.storage.spool.spool import SpoolError
from tracker.web.constant_words import ConstantWords
from tracker.web.errors import problems
from tracker.web.openapi import openapi_routes
from tracker.web.ops import ops_routes
from tracker.web.sockets import adopt, open_sockets

log = logging.getLogger(__name__)

Ready = Callable[[int, int], None]     # told the public and the admin port once the role answers

ADMIN_SHUTDOWN_SECONDS = 2.0


async def serve(settings: Settings, environ: Mapping[str, str], ready: Ready) -> int:
    """Control and workers, until SIGTERM or SIGINT. Exit code: 0 when everything ended in order."""
    with _sockets(settings, settings.workers) as (public, admin):
        shared = Shared.create(settings.workers + 1)
        supervisor = Supervisor(public, shared, environ)
        control = Control(settings, supervisor.page)
        state = _State(shared, settings.workers)
        await control.start()
        async with _admin_port(admin, ops_routes(shared, state.reasons), control.api):
            supervisor.start()
            code = await _until_stopped(supervisor, state, lambda: ready(_port(public[0]), _port(admin)))
            await control.stop()
        return code


async def edge(settings: Settings, environ: Mapping[str, str], ready: Ready) -> int:
    """Workers, and metrics and probes on the admin port."""
    with _sockets(settings, settings.workers) as (public, admin):
        shared = Shared.create(settings.workers + 1)
        supervisor = Supervisor(public, shared, environ)
        state = _State(shared, settings.workers)
        async with _admin_port(admin, ops_routes(shared, state.reasons), None):
            supervisor.start()
            return await _until_stopped(supervisor, state, lambda: ready(_port(public[0]), _port(admin)))


async def control(settings: Settings, ready: Ready) -> int:
    """The slow half alone."""
    with _sockets(settings, 0) as (_, admin):
        shared = Shared.create(1)
        control = Control(settings, shared.page(0))
        state = _State(shared, 0)
        await control.start()
        async with _admin_port(admin, ops_routes(shared, state.reasons), control.api):
            ready(0, _port(admin))
            await _signalled()
            state.draining = True
            await control.stop()
        return 0


async def worker(settings: Settings, *, socket_fds: Sequence[int], metrics_fd: int, pages: int, page: int, life_fd: int) -> int:
    """One edge worker on what its parent handed down; drains on SIGTERM, or when the parent is gone."""
    stop = _signalled()
    life = asyncio.create_task(_parent_gone(life_fd))
    worker = Edge(settings, adopt(socket_fds), Shared(metrics_fd, pages).page(page))
    starting = asyncio.create_task(worker.start())
    events: set[asyncio.Future[Any]] = {starting, stop, life}
    await asyncio.wait(events, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()          # nothing has been answered yet
        return 0
    try:
        starting.result()
    except (SpoolError, NoCountries, OSError) as exc:
        log.error("%s", exc)  # noqa: TRY400 - a mistake of the set-up: the sentence is what helps
        return SETUP_FAILED
    unfit = asyncio.create_task(worker.unfit.wait())
    events = {stop, life, unfit}
    await asyncio.wait(events, return_when=asyncio.FIRST_COMPLETED)
    if life.done():
        log.error("the parent is gone; this worker ends")
    if stop.done() and not unfit.done():
        await worker.drain()
    else:
        await worker.drain(serve_on_seconds=0.0)      # its successor wants the port, or it must make no more ids
    return 1 if unfit.done() else 0


class _State:
    """Whether the role is ready, as /readyz tells it."""

    def __init__(self, shared: Shared, workers: int) -> None:
        self._shared, self._workers = shared, workers
        self.draining = False

    def ready_workers(self) -> int:
        return sum(self._shared.page(index).get("tracker_ready") > 0 for index in range(self._workers))

    def reasons(self) -> list[str]:
        """Why not. One ready worker is enough: the queue of one that is being replaced waits for its successor."""
        if self.draining:
            return ["draining"]
        if self._workers and not self.ready_workers():
            return ["no worker is ready: its catalog is not loaded, or its spool cannot be written"]
        return []


async def _until_stopped(supervisor: Supervisor, state: _State, ready: Callable[[], None]) -> int:
    stop, failed = _signalled(), asyncio.create_task(supervisor.failed.wait())
    waiting: set[asyncio.Future[Any]] = {stop, failed}
    while not state.ready_workers() and not any(task.done() for task in waiting):
        await asyncio.wait(waiting, timeout=0.05)
    if state.ready_workers():
        ready()
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    state.draining = True
    in_order = await supervisor.stop()
    failed_to_start = failed.done()
    failed.cancel()
    return 0 if in_order and not failed_to_start else 1


def _signalled() -> asyncio.Future[None]:
    """Done at SIGTERM or SIGINT; a second one changes nothing, ending takes its time."""
    loop = asyncio.get_running_loop()
    stop = loop.create_future()

    def on_signal() -> None:
        if not stop.done():
            stop.set_result(None)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    return stop


async def _parent_gone(life_fd: int) -> None:
    """Returns when the write end of the pipe is closed, which only the parent's death does."""
    gone = asyncio.Event()
    loop = asyncio.get_running_loop()
    os.set_blocking(life_fd, False)
    loop.add_reader(life_fd, gone.set)
    await gone.wait()
    loop.remove_reader(life_fd)


@contextlib.contextmanager
def _sockets(settings: Settings, workers: int) -> Iterator[tuple[list[list[socket.socket]], list[socket.socket]]]:
    public = open_sockets(settings.hosts, settings.port, copies=workers, setting="TRACKER_PORT, tracker dev --port")
    admin = open_sockets(settings.hosts, settings.admin_port, setting="TRACKER_ADMIN_PORT, tracker dev --admin-port")[0]
    try:
        yield public, admin
    finally:
        for listening in [*admin, *(one for copy in public for one in copy)]:
            listening.close()


def _port(sockets: Sequence[socket.socket]) -> int:
    port: int = sockets[0].getsockname()[1]
    return port


@contextlib.asynccontextmanager
async def _admin_port(
    listening: Sequence[socket.socket], routes: Sequence[web.AbstractRouteDef], api: web.Application | None
) -> AsyncIterator[None]:
    """Answers there until the end of the block."""
    app = web.Application(client_max_size=1 << 16, middlewares=[problems])
    app.add_routes([*routes, *openapi_routes()])
    if api is not None:
        app.add_subapp("/v1", api)
    app.on_response_prepare.append(_name_us)
    runner = web.AppRunner(app, shutdown_timeout=ADMIN_SHUTDOWN_SECONDS)
    await runner.setup()
    assert runner.server is not None
    loop = asyncio.get_running_loop()
    protocol = partial(ConstantWords, runner.server, loop=loop)
    servers = [await loop.create_server(protocol, sock=one) for one in listening]
    try:
        yield
    finally:
        for server in servers:
            server.close()
        await runner.cleanup()


async def _name_us(_: web.Request, response: web.StreamResponse) -> None:
    """Nobody needs to know which versions of what answer here."""
    response.headers["Server"] = "tracker"
