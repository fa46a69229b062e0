"""`tracker serve`, `edge`, `control`: the service against a database. `tracker worker` is how a parent starts its workers."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import Coroutine
from typing import Any

import click

from tracker import speedups
from tracker.app import roles
from tracker.cli.config import read_settings
from tracker.logs import setup_logging
from tracker.web.sockets import PortTakenError


def run_role(role: Coroutine[Any, Any, int]) -> int:
    """Run on uvloop, or on asyncio where there is none. PortTakenError and addresses that are not ours end in one sentence."""
    try:
        import uvloop
    except ImportError:
        factory = None
    else:
        factory = uvloop.new_event_loop
    # The default looked through everything 40 times a second under load. Beside 5 % other requests a redirect took 28 µs of CPU
    # at 50,000, 26 at 250,000 and no less at a million; a worker is 150 MB then, 129 at 50,000.
    gc.set_threshold(250_000, 20, 50)
    try:
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(role)
    except (PortTakenError, OSError) as exc:
        raise click.ClickException(str(exc)) from exc


def _tell(public: int, admin: int) -> None:
    doors = [f"public port {public}" if public else "", f"admin port {admin}"]
    built = "compiled" if speedups.AVAILABLE else "in Python: nothing was built of these sources"
    path = f"; click path {built}" if public else ""
    click.echo(f"tracker is ready: {', '.join(door for door in doors if door)}{path}", err=True)


@click.command()
def serve() -> None:
    """Run control and the edge workers against TRACKER_DATABASE_URL.

    \b
    Example:
      TRACKER_DATABASE_URL=postgresql://tracker@db/tracker \\
      TRACKER_SECRET_KEYS=1:$(openssl rand -base64 32) tracker serve
    """
    settings = read_settings("serve")
    setup_logging(settings.log_level, "serve")
    sys.exit(run_role(roles.serve(settings, os.environ, _tell)))


@click.command()
def edge() -> None:
    """Run the edge workers alone: clicks and postbacks, nothing else.

    \b
    Example:
      TRACKER_WORKERS=4 tracker edge
    """
    settings = read_settings("edge")
    setup_logging(settings.log_level, "edge")
    sys.exit(run_role(roles.edge(settings, os.environ, _tell)))


@click.command()
def control() -> None:
    """Run control alone: admin API and jobs.

    \b
    Example:
      TRACKER_ADMIN_TOKEN_FILE=/run/secrets/admin tracker control
    """
    settings = read_settings("control")
    setup_logging(settings.log_level, "control")
    sys.exit(run_role(roles.control(settings, _tell)))


@click.command(hidden=True)
@click.option("--sockets", required=True)
@click.option("--metrics", type=int, required=True)
@click.option("--pages", type=int, required=True)
@click.option("--page", type=int, required=True)
@click.option("--life", type=int, required=True)
def worker(sockets: str, metrics: int, pages: int, page: int, life: int) -> None:
    """One edge worker, on sockets and memory of its parent. Not for people."""
    settings = read_settings("edge")
    setup_logging(settings.log_level, f"edge-{page}")
    fds = [int(fd) for fd in sockets.split(",")]
    sys.exit(run_role(roles.worker(settings, socket_fds=fds, metrics_fd=metrics, pages=pages, page=page, life_fd=life)))
