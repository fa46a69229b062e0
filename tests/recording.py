"""Edges without a door: a journal, its recorder, and a database with one program. For tests of what postbacks become."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

from shipping import live_spool, now_ms

from tracker.domain.postback import Postback
from tracker.storage.conversions.answers import Answer
from tracker.storage.conversions.journal import Journal
from tracker.storage.conversions.recorder import Recorder
from tracker.storage.spool.reader import LogReader

PROGRAM, OTHER_PROGRAM, PARTNER, COUPON_PARTNER, LINK, CREDENTIAL = 7, 8, 13, 17, 11, 5

A_GROUP_IS_WRITTEN = b'"change":"recorded"'    # in the statement that records sales nobody has heard of, and is their commit

SEED = """
    INSERT INTO programs (program_id, slug, name, currency, pending_cap)
        VALUES (7, 'shop', 'Shop', 'EUR', 2), (8, 'other', 'Other', 'EUR', 2);
    INSERT INTO program_terms (program_id, valid_from) VALUES (7, '2000-01-01'), (8, '2000-01-01');
    INSERT INTO partners (partner_id, slug, name) VALUES (13, 'anna', 'Anna'), (17, 'bert', 'Bert');
    INSERT INTO enrolments (program_id, partner_id, valid_from, status)
        VALUES (7, 13, '2000-01-01', 'active'), (7, 17, '2000-01-01', 'active');
    INSERT INTO commission_terms (program_id, valid_from, kind, rate) VALUES (7, '2000-01-01', 'percent', 10);
    INSERT INTO links (link_id, slug, program_id, partner_id, destination) VALUES (11, 'go', 7, 13, 'https://shop.example/');
    INSERT INTO coupons (coupon_id, program_id, partner_id, code, valid_from) VALUES (3, 7, 17, 'BERT10', '2000-01-01');
    INSERT INTO credentials (credential_id, kind, token_hash) VALUES (5, 'token', sha256('token'));
    INSERT INTO credential_programs (credential_id, program_id) VALUES (5, 7);
"""
_CLICK = """
    INSERT INTO {} (click_id, link_id, link_version, program_id, partner_id, flags, visitor) VALUES ($1, 11, 1, 7, 13, 0, 1)
"""


def click_id(time_ms: int | None = None) -> bytes:
    """A stored click id, none of its flags set: a row will come."""
    return ((now_ms() if time_ms is None else time_ms) << 83 | secrets.randbits(73)).to_bytes(16, "big")


async def land(db: Any, id_: bytes | None = None, *, table: str = "clicks") -> bytes:
    """A click whose row is in the database."""
    made = id_ or click_id()
    await db.execute(_CLICK.format(table), UUID(bytes=made))
    return made


def sale(click: bytes | None, **fields: Any) -> Postback:
    """A message as the door composes it, still without its id."""
    usual: dict[str, Any] = {
        "message_id": bytes(16), "received_ms": now_ms(), "program_id": PROGRAM, "click_id": click,
        "link_id": None if click is None else LINK, "txid": "A-1", "amount": Decimal("50.00"), "currency": "EUR",
    }
    return Postback(**{**usual, **fields})


def answer_to(recorder: Recorder, message: Postback) -> asyncio.Future[Answer]:
    """Submit a message; what becomes of it."""
    future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def heard(message_id: bytes, answer: Answer) -> None:
        assert message.message_id == message_id
        if not future.done():
            future.set_result(answer)

    recorder.submit(message, heard)
    return future


@dataclass(slots=True)
class Edge:
    """A journal and its recorder, running."""

    journal: Journal
    recorder: Recorder
    spool_id: int
    path: Path

    def send(self, *drafts: Postback) -> list[asyncio.Future[Answer]]:
        return [answer_to(self.recorder, message) for message in self.journal.append(drafts)]

    async def post(self, draft: Postback) -> Answer:
        return await self.send(draft)[0]


@asynccontextmanager
async def edge(dsn: str, root: Path, *, running: bool = True) -> AsyncIterator[Edge]:
    async with live_spool(root / secrets.token_hex(4)) as shipping:
        log = shipping.spool.journal
        reader = LogReader(shipping.spool.path, "journal", spool_id=shipping.spool_id, log=log)
        recorder = Recorder(dsn, shipping.spool_id, reader, confirmed=log.confirmed)
        made = Edge(Journal(log, shipping.spool_id), recorder, shipping.spool_id, shipping.spool.path)
        task = asyncio.create_task(recorder.run()) if running else None
        try:
            yield made
        finally:
            await recorder.stop()
            if task is not None:
                await task


async def assert_money_adds_up(db: Any) -> None:
    """What `tracker verify` checks of conversions: one fact each, what is owed is the ledger, no claim left behind."""
    assert await db.fetchval("SELECT count(*) FROM conversion_state") == await db.fetchval("SELECT count(*) FROM conversions")
    assert 0 == await db.fetchval("SELECT count(*) FROM conversion_state WHERE status IS NULL")
    wrong = await db.fetch("""
        SELECT s.conversion_id FROM conversion_state AS s LEFT JOIN ledger AS l USING (conversion_id)
         GROUP BY s.conversion_id HAVING s.commission_owed <> coalesce(sum(l.amount), 0)
             OR (s.commission_owed <> 0 AND s.status <> 'approved')
    """)
    assert [] == wrong


async def outcomes(db: Any) -> dict[str, int]:
    """How many logged messages had which outcome."""
    return dict(await db.fetch("SELECT outcome, count(*)::int FROM postback_log GROUP BY 1"))


async def owed(db: Any) -> Decimal:
    return await db.fetchval("SELECT coalesce(sum(amount), 0) FROM ledger")  # type: ignore[no-any-return]
