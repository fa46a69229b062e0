"""`tracker dev`: everything on one machine with one command, on an embedded PostgreSQL, with a link to click."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from tracker.app import roles
from tracker.cli.config import read_settings
from tracker.cli.serve import run_role
from tracker.logs import setup_logging
from tracker.storage.embedded.server import EmbeddedPostgres, EmbeddedPostgresError
from tracker.storage.entities.store import Store
from tracker.storage.postgres import connect, create_pool
from tracker.storage.schema import apply_schema

DEMO_DESTINATION = "https://example.com/landing?click_id={click_id}&sub1={sub1}"


@click.command()
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), default=Path(".tracker"), show_default=True,
              help="Where the database, the spool and the keys are kept.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="Public port.")
@click.option("--admin-port", type=click.IntRange(0, 65535), default=8081, show_default=True, help="Admin port.")
@click.option("--workers", type=click.IntRange(1, 256), help="Edge workers.  [default: cores]")
def dev(data: Path, port: int, admin_port: int, workers: int | None) -> None:
    """Run the whole service on an embedded PostgreSQL, with a demo program, partner, links and coupon.

    Data persists in --data. For trying out and developing; a real deployment brings its own PostgreSQL and runs
    `tracker serve`. Move with: pg_dump | psql.

    \b
    Example:
      tracker dev --port 8080
    """
    server = EmbeddedPostgres(data)
    try:
        server.start()
    except EmbeddedPostgresError as exc:
        raise click.ClickException(str(exc)) from exc
    try:
        known = _secrets(data / "secrets.json")
        environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("TRACKER_DATABASE_URL")},
            "TRACKER_DATABASE_URL": server.dsn,
            "TRACKER_PORT": str(port),
            "TRACKER_ADMIN_PORT": str(admin_port),
            "TRACKER_SPOOL_DIR": str((data / "spool").absolute()),
            **known["environ"],
            **({"TRACKER_WORKERS": str(workers)} if workers else {}),
        }
        environ.setdefault("TRACKER_HOST", "127.0.0.1,::1" if _has_ipv6() else "127.0.0.1")
        environ.setdefault("TRACKER_LOG_LEVEL", "warning")
        settings = read_settings("serve", environ)
        setup_logging(settings.log_level, "dev")
        token = asyncio.run(_prepare(server.dsn, known))
        _keep(data / "secrets.json", known)

        def ready(public: int, admin: int) -> None:
            click.echo(_WELCOME.format(
                port=public, admin=admin, data=data, token=token, admin_token=known["environ"]["TRACKER_ADMIN_TOKEN"],
            ))

        code = run_role(roles.serve(settings, environ, ready))
    finally:
        server.stop()
    sys.exit(code)


_WELCOME = """
Tracker is running. Data: {data}   (Ctrl-C ends it, everything is kept)

  a link to click   http://localhost:{port}/c/demo?sub1=newsletter
  then a postback   curl 'http://localhost:{port}/postback?token={token}&txid=order-1&amount=49.90&click_id='CLICK_ID
  a coupon sale     curl 'http://localhost:{port}/postback?token={token}&program=demo&coupon=WELCOME10&txid=order-2&amount=20'
  metrics           http://localhost:{admin}/metrics
  admin API         curl -H 'Authorization: Bearer {admin_token}' http://localhost:{admin}/v1/links

Embedded PostgreSQL is for trying out and developing: `tracker serve` runs against your own.
"""


def _secrets(path: Path) -> dict[str, Any]:
    """The keys and tokens of this data folder, made at the first start."""
    if path.exists():
        kept: dict[str, Any] = json.loads(path.read_text())
        return kept
    made = {
        "environ": {
            "TRACKER_SECRET_KEYS": "1:" + base64.b64encode(secrets.token_bytes(32)).decode(),
            "TRACKER_ADMIN_TOKEN": secrets.token_hex(20),
        },
        "demo_token": None,
    }
    _keep(path, made)
    return made


def _keep(path: Path, known: Mapping[str, Any]) -> None:
    draft = path.with_suffix(".new")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:  # noqa: PTH123 - a descriptor with its mode
        json.dump(known, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)


async def _prepare(dsn: str, known: dict[str, Any]) -> str:
    """Schema and demo data, each once; returns the demo program's token."""
    connection = await connect(dsn)
    try:
        await apply_schema(connection)
        there = await connection.fetchval("SELECT 1 FROM programs WHERE slug = 'demo'")
    finally:
        await connection.close()
    pool = await create_pool(dsn, max_size=1)
    try:
        store = Store(pool)
        if not there:
            await store.programs.create({"slug": "demo", "name": "Demo shop", "currency": "EUR", "commission": "10%"})
            await store.partners.create({"slug": "alice", "name": "Alice's newsletter"})
            common = {"program": "demo", "partner": "alice", "destination": DEMO_DESTINATION, "allow_test": True}
            await store.links.create({"slug": "demo", **common})
            await store.links.create({"slug": "demo-facebook", "channel": "facebook", **common})
            await store.coupons.create({"program": "demo", "partner": "alice", "code": "WELCOME10"})
        if not known.get("demo_token"):
            known["demo_token"] = (await store.credentials.issue(["demo"], label="tracker dev"))["token"]
        token: str = known["demo_token"]
        return token
    finally:
        await pool.close()


def _has_ipv6() -> bool:
    return Path("/proc/net/if_inet6").exists() and bool(Path("/proc/net/if_inet6").read_text().strip())
