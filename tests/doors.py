"""A postback door for tests: real catalog, spool, recorder, refusals and HTTP over one database with shops in it.

It listens twice: with the fast lane, as an edge does, and once more with everything behind aiohttp.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
from aiohttp import web
from lane_server import Counts, HttpOnlyLanes

from tracker.domain.click_id import ClickIdMaker, Keyring
from tracker.storage.catalog.catalog import Catalog
from tracker.storage.clicks.rows import CLICK_COLUMNS
from tracker.storage.conversions.journal import Journal
from tracker.storage.conversions.recorder import Recorder
from tracker.storage.conversions.refusals import Refusals
from tracker.storage.conversions.unjournalled import UnjournalledRecorder
from tracker.storage.spool.reader import LogReader
from tracker.storage.spool.spool import Spool
from tracker.web.agents import Places
from tracker.web.click_route import click_routes
from tracker.web.desk import Desk
from tracker.web.fastlane import Lanes
from tracker.web.port import open_port
from tracker.web.postback import PostbackDoor
from tracker.web.postback_lane import PostbackLane
from tracker.web.public import public_app
from tracker.web.redirect import Redirector
from tracker.web.sockets import open_sockets

KEYRING = Keyring(((0, b"0123456789abcdef"),))
SPOOL_ID = 0x1234_5678_9ABC_DEF0
SHOP, SIGNED, LISTED, OPEN, OTHER = 1, 2, 3, 4, 5  # programs: token, hmac, ip, open, token of somebody else
SHOP_TOKEN, OTHER_TOKEN, OLD_TOKEN = "shop-token", "other-token", "revoked-token"
HMAC_SECRETS = (b"first secret of 16+", b"second secret of 16+")

_SETUP = f"""
INSERT INTO programs (program_id, slug, name, currency, auth_mode, ip_allow) VALUES
    ({SHOP}, 'shop', 'Shop', 'EUR', 'token', '{{}}'), ({SIGNED}, 'signed', 'Signed', 'USD', 'hmac', '{{}}'),
    ({LISTED}, 'listed', 'Listed', 'EUR', 'ip', '{{192.0.2.0/24}}'), ({OPEN}, 'open', 'Open', 'EUR', 'open', '{{}}'),
    ({OTHER}, 'other', 'Other', 'JPY', 'token', '{{}}');
INSERT INTO partners (partner_id, slug, name) VALUES (9, 'pat', 'Pat');
INSERT INTO enrolments SELECT program_id, 9, '2020-01-01', 'active' FROM programs;
INSERT INTO commission_terms (program_id, valid_from, kind, rate)
    SELECT program_id, '2020-01-01', 'percent', 10 FROM programs;
INSERT INTO links (link_id, slug, program_id, partner_id, destination, allow_test)
    SELECT program_id, 'link' || program_id, program_id, 9, 'https://shop.example/', true FROM programs;
"""


@dataclass
class Door:
    """What a test holds on to."""

    ports: dict[type[Lanes], int]
    lanes: type[Lanes]                     # which of the two `send` uses
    desk: Desk
    http: aiohttp.ClientSession
    db: asyncpg.Connection[asyncpg.Record]
    catalog: Catalog
    spool: Spool
    recorder: Recorder
    refusals: Refusals
    door: PostbackDoor
    postback_lane: PostbackLane
    client_ip: str = "198.51.100.7"
    durations: list[float] = field(default_factory=list)
    now_ms: int = field(default_factory=lambda: time.time_ns() // 1_000_000)
    _ids: ClickIdMaker = field(
        default_factory=lambda: ClickIdMaker(keyring=KEYRING, worker=1, random_counter=lambda: 0)
    )

    @property
    def port(self) -> int:
        return self.ports[self.lanes]

    def click(self, program: int = SHOP, *, link: int | None = None, spooled: bool = False, test: bool = False) -> str:
        """A click id's token; of a click that could not be spooled unless told otherwise, so none waits for a row."""
        link = program if link is None else link
        return self._ids.make(self.now_ms, link, test=test, not_spooled=not spooled)[1].decode()

    async def disconnect(self) -> None:
        """From now on PostgreSQL is away, as far as the door knows."""
        await self.catalog.stop()
        await self.recorder.stop()
        self.catalog.database_away = True

    async def send(self, method: str = "GET", path: str = "/postback", **options: Any) -> tuple[int, Any]:
        """Status and JSON of one request; `params` may be a raw query string."""
        headers = {"X-Forwarded-For": self.client_ip, **options.pop("headers", {})}
        async with self.http.request(method, f"http://127.0.0.1:{self.port}{path}", headers=headers, **options) as response:
            assert "no-store" == response.headers["Cache-Control"]
            self.headers = response.headers
            return response.status, ({} if method == "HEAD" else await response.json(content_type=None))

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[None]:
        """Meanwhile nothing can be recorded: somebody holds the table that every group needs."""
        patience, self.door.intake.commit_seconds = self.door.intake.commit_seconds, 0.3
        async with self.db.transaction():
            await self.db.execute("LOCK TABLE conversion_state IN ACCESS EXCLUSIVE MODE")
            yield
        self.door.intake.commit_seconds = patience

    async def log(self) -> list[asyncpg.Record]:
        return await self.db.fetch("SELECT * FROM postback_log ORDER BY received_at, outcome")


@asynccontextmanager
async def open_door(
    dsn: str, folder: Path, *, commit_seconds: float = 30.0, lanes: type[Lanes] = Lanes
) -> AsyncIterator[Door]:
    """The door over an empty database with schema, its spool in `folder`. On a busy machine a commit may take longer than
    the door waits: here it waits until the commit came, but while `locked`."""
    db = await asyncpg.connect(dsn)
    await db.execute(_SETUP)
    await db.executemany(
        "INSERT INTO credentials (credential_id, kind, token_hash, hmac_secret, revoked_at)"
        " VALUES ($1, $2, $3, $4, $5)",
        [
            (11, "token", hashlib.sha256(SHOP_TOKEN.encode()).digest(), None, None),
            (12, "token", hashlib.sha256(OTHER_TOKEN.encode()).digest(), None, None),
            (13, "token", hashlib.sha256(OLD_TOKEN.encode()).digest(), None, datetime.now(UTC)),
            (21, "hmac", None, HMAC_SECRETS[0], None),
            (22, "hmac", None, HMAC_SECRETS[1], None),
        ],
    )
    await db.execute("INSERT INTO credential_programs VALUES (11, 1), (12, 5), (13, 1), (21, 2), (22, 2)")
    catalog = Catalog(dsn, folder)
    await catalog.start()
    spool = Spool.create(
        folder, spool_id=SPOOL_ID, worker=1, clicks=CLICK_COLUMNS, max_bytes=2**26, sync="off",
        clicks_segment_bytes=2**16, journal_segment_bytes=2**16,
    )  # fmt: skip
    recorder = Recorder(dsn, SPOOL_ID, LogReader(spool.path, "journal", spool_id=SPOOL_ID, log=spool.journal))
    recording = asyncio.create_task(recorder.run())
    unjournalled = UnjournalledRecorder(dsn)
    refusals = Refusals(dsn)
    refusals.start()
    here: list[Door] = []
    places = Places(trusted=[ip_network("127.0.0.0/8")], ip_mode="truncate", countries=None)
    options: dict[str, Any] = {
        "clock_ms": lambda: here[0].now_ms, "observe": lambda seconds: here[0].durations.append(seconds),
    }
    door = PostbackDoor(
        catalog=catalog, keyring=KEYRING, journal=Journal(spool.journal, SPOOL_ID), recorder=recorder,
        unjournalled=unjournalled, refusals=refusals, client_ip=lambda request: places.of_request(request).ip,
        commit_seconds=commit_seconds, **options,
    )  # fmt: skip
    desk = Desk(
        Redirector(links=catalog.links, ids=ClickIdMaker(keyring=KEYRING, worker=2, random_counter=lambda: 0),
                   visitor_secret=b"v" * 32, log=_Clicks(spool), counts=Counts()),
        sync=None, may_look_up=lambda: False, look_up=catalog.look_up_slug, missed=lambda *_: None,
    )
    runner = web.AppRunner(public_app([*click_routes(desk, places), *door.routes()]), access_log=None)
    await runner.setup()
    assert runner.server is not None
    postback_lane = PostbackLane(door.intake, draining=lambda: desk.draining, **options)
    served = [
        kind(desk=desk, places=places, server=runner.server, connection_limit=1000, postbacks=postback_lane)
        for kind in (Lanes, HttpOnlyLanes)
    ]
    listening = [open_sockets(["127.0.0.1"], 0, setting="")[0][0] for _ in served]
    opened = [await open_port(one, [sock]) for one, sock in zip(served, listening, strict=True)]
    ports = {type(one): sock.getsockname()[1] for one, sock in zip(served, listening, strict=True)}
    async with aiohttp.ClientSession() as http:
        here.append(Door(ports, lanes, desk, http, db, catalog, spool, recorder, refusals, door, postback_lane))
        try:
            yield here[0]
        finally:
            for port, sock, one in zip(opened, listening, served, strict=True):
                port.stop_accepting()
                sock.close()
                for lane in list(one.open):
                    lane.close(at_once=True)
            await runner.cleanup()
            await refusals.stop()
            await catalog.stop()
            await recorder.stop()
            await recording
            unjournalled.close()
            spool.close()
            await db.close()


class _Clicks:
    """The spool's log of clicks as the redirector sees it; nobody ships."""

    available = True

    def __init__(self, spool: Spool) -> None:
        self.append = spool.clicks.append
