"""Outgoing postbacks on real PostgreSQL with a real receiver: what is written, what is sent, what is tried again."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from receiver import BROKEN, OK, Receiver, hangs, receiver, says
from recording import SEED, click_id, edge, land, sale
from shipping import database, eventually

from tracker.domain.conversion_id import ConversionKey
from tracker.domain.outgoing import secret_text
from tracker.domain.postback import Status
from tracker.jobs.lease import Lease
from tracker.jobs.outbox import PER_HOST, OutboxJob
from tracker.jobs.outbox_client import OutboxClient
from tracker.jobs.pending import PendingJob
from tracker.storage import outbox
from tracker.storage.conversions.store import attach_click, decide_conversion
from tracker.storage.entities.store import Store
from tracker.storage.outbox import forget_old
from tracker.storage.postgres import create_pool

SECRET = bytes(range(32))
LOCAL = (ip_network("127.0.0.0/8"),)
FULL = "/pb?cid={ext}&s={sub1}&e={event}&t={txid}&st={status}&p={commission}&c={commission_currency}&a={amount}&l={link}"
ADD = """
    INSERT INTO outbox_endpoints (endpoint_id, partner_id, program_id, url, host, method, statuses, events, status, secret)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
"""
ROWS = "SELECT * FROM outbox ORDER BY created_at, entry, endpoint_id"


@pytest.fixture
async def db(dsn: str) -> AsyncIterator[Any]:
    async with database(dsn) as connection:
        await connection.execute(SEED)
        yield connection


@pytest.fixture
def partner() -> Iterator[Receiver]:
    with receiver() as made:
        yield made


async def endpoint(
    db: Any, url: str, *, number: int = 1, partner: int = 13, program: int | None = None, method: str = "GET",
    statuses: tuple[str, ...] = ("approved", "rejected", "reversed"), events: tuple[str, ...] = (), status: str = "active",
    host: str = "",
) -> int:  # fmt: skip
    await db.execute(ADD, number, partner, program, url, host or "127.0.0.1", method, statuses, events, status, SECRET)
    return number


@asynccontextmanager
async def sender(dsn: str, holder: str = "control-1", **counting: Any) -> AsyncIterator[OutboxJob]:
    job = OutboxJob(dsn, holder, OutboxClient(LOCAL, seconds=20.0), **counting)
    task = asyncio.create_task(job.run())
    try:
        yield job
    finally:
        job.stop()
        await task


async def hears(partner: Receiver, count: int) -> Any:
    return await asyncio.to_thread(partner.wait_for, count)


async def told(db: Any) -> list[tuple[int, str, str]]:
    """(endpoint, status, commission) of every row."""
    return [(row["endpoint_id"], (said := json.loads(row["said"]))["status"], said["commission"]) for row in await db.fetch(ROWS)]


async def states(db: Any) -> list[str]:
    return [row["state"] for row in await db.fetch(ROWS)]


async def labelled(db: Any, **labels: str) -> bytes:
    click = await land(db)
    await db.execute("UPDATE clicks SET ext = $2, sub1 = $3 WHERE click_id = $1", UUID(bytes=click), labels["ext"], labels["sub1"])
    return click


async def test_a_sale_is_told_once_and_its_reversal_once(dsn: str, db: Any, tmp_path: Path, partner: Receiver) -> None:
    """The whole of it: his own click id comes back to him, signed, with what he earned; and when it is taken back he hears."""
    await endpoint(db, partner.url(FULL))
    click = await labelled(db, ext="abc/1 é", sub1="x&y=z\r\nHost: evil")
    async with edge(dsn, tmp_path) as shop, sender(dsn):
        for _ in range(3):
            await shop.post(sale(click, event="sale"))
        first = (await hears(partner, 1))[0]
        await eventually(lambda: db.fetchval("SELECT state = 'sent' FROM outbox"))
        await shop.post(sale(click, status=Status.REVERSED))
        second = (await hears(partner, 2))[1]
        await shop.post(sale(click, status=Status.REVERSED))
        await shop.post(sale(click))
    common = {"cid": "abc/1 é", "s": "x&y=z\r\nHost: evil", "e": "sale", "t": "A-1", "c": "EUR", "a": "50.00", "l": "go"}
    assert {**common, "st": "approved", "p": "5.00"} == first.query
    assert {**common, "st": "reversed", "p": "0.00"} == second.query
    for heard in (first, second):
        heard.assert_signed(secret_text(SECRET))
        assert ("GET", "", "identity") == (heard.method, heard.body, heard.headers["accept-encoding"])
        assert not {"cookie", "authorization", "referer", "evil"} & heard.headers.keys()
    assert first.headers["webhook-id"] != second.headers["webhook-id"]
    assert ["sent", "sent"] == await states(db)
    assert 2 == len(partner.heard)


async def test_a_post_is_json_signed_as_the_standard_says(dsn: str, db: Any, tmp_path: Path, partner: Receiver) -> None:
    await endpoint(db, partner.url("/hook"), method="POST")
    click = await labelled(db, ext='quo"te', sub1="\u2028")
    async with edge(dsn, tmp_path) as shop, sender(dsn):
        answer = await shop.post(sale(click))
        [heard] = await hears(partner, 1)
    heard.assert_signed(secret_text(SECRET))
    body = json.loads(heard.body)
    assert ("POST", "/hook", "conversion.approved") == (heard.method, heard.target, body["type"])
    assert {
        "conversion_id": str(answer.conversion_id), "click_id": str(UUID(bytes=click)), "ext": 'quo"te', "sub1": "\u2028",
        "sub2": None, "event": "sale", "txid": "A-1", "status": "approved", "amount": "50.00", "currency": "EUR",
        "commission": "5.00", "commission_currency": "EUR", "program": "shop", "partner": "anna", "link": "go", "test": False,
    }.items() <= body["data"].items()  # fmt: skip


async def test_each_hears_of_what_is_his_and_what_he_asked_for(db: Any, dsn: str, tmp_path: Path) -> None:
    """Danger: one partner's sales in another's tracker."""
    for number, fields in enumerate([
        {}, {"program": 7}, {"program": 8}, {"partner": 17}, {"status": "paused"}, {"status": "off"},
        {"events": ("lead",)}, {"events": ("sale", "lead")}, {"statuses": ("pending",)}, {"statuses": ("approved", "pending")},
    ], start=1):  # fmt: skip
        await endpoint(db, "https://t.example/", number=number, **fields)  # type: ignore[arg-type]
    async with edge(dsn, tmp_path) as shop:
        await shop.post(sale(await land(db)))
        assert [1, 2, 6, 8, 10] == [number for number, *_ in await told(db)]
        await db.execute("DELETE FROM outbox")
        await shop.post(sale(await land(db), txid="A-2", status=Status.PENDING))
        assert [(9, "pending", "0.00"), (10, "pending", "0.00")] == await told(db)
        await db.execute("DELETE FROM outbox")
        await shop.post(sale(None, txid="A-3", coupon="bert10"))
        assert [(4, "approved", "5.00")] == await told(db)


async def test_only_what_changes_for_the_partner_is_news(db: Any, dsn: str, tmp_path: Path) -> None:
    """Danger: a tracker that counts each message would count what is no news."""
    await endpoint(db, "https://t.example/", statuses=("pending", "approved", "rejected", "reversed"))
    click = await land(db)
    async with edge(dsn, tmp_path) as shop:
        answer = await shop.post(sale(click, amount=None, currency=None))
        await shop.post(sale(click, amount=None, currency=None))
        await shop.post(sale(click))
        await shop.post(sale(click, coupon="other"))
        await shop.post(sale(click, amount=None, currency=None, status=Status.APPROVED))
    assert answer.conversion_id is not None
    await decide_conversion(db, answer.conversion_id, Status.REJECTED, "looked odd")
    await decide_conversion(db, answer.conversion_id, Status.REJECTED, "looked odd")
    await decide_conversion(db, answer.conversion_id, Status.REJECTED, "for another reason")
    assert [(1, "approved", "0"), (1, "approved", "5.00"), (1, "rejected", "0.00")] == await told(db)
    entries = {row["entry"] for row in await db.fetch("SELECT entry FROM conversion_history")}
    assert {row["entry"] for row in await db.fetch(ROWS)} <= entries


async def test_what_anybody_could_have_said_is_told_when_it_is_confirmed(db: Any, dsn: str, tmp_path: Path) -> None:
    """Danger: whoever reads his click id could fill a partner's tracker with sales."""
    await endpoint(db, "https://t.example/", statuses=("pending", "approved", "rejected", "reversed"))
    click = await land(db)
    async with edge(dsn, tmp_path) as shop:
        await shop.post(sale(click, limited=True))
        assert [] == await told(db)
        await shop.post(sale(click))
        assert [(1, "approved", "5.00")] == await told(db)


async def test_a_test_sale_is_told_and_pays_nothing(db: Any, dsn: str, tmp_path: Path, partner: Receiver) -> None:
    """A URL that was never tried fails first with a real sale."""
    await endpoint(db, partner.url("/"), method="POST")
    async with edge(dsn, tmp_path) as shop, sender(dsn):
        await shop.post(sale(await land(db), test=True))
        [heard] = await hears(partner, 1)
    data = json.loads(heard.body)["data"]
    assert (True, "approved", "0.00") == (data["test"], data["status"], data["commission"])


async def test_who_loses_the_credit_hears_it_without_the_other_ones_click(db: Any, dsn: str, tmp_path: Path) -> None:
    """Danger: his tracker would go on showing money that he is not owed; and a coupon must not hand over a rival's labels."""
    await endpoint(db, "https://t.example/", number=1, partner=13)
    await endpoint(db, "https://u.example/", number=2, partner=17)
    click = await land(db, click_id())
    async with edge(dsn, tmp_path) as shop:
        await shop.post(sale(None, coupon="bert10"))
        await shop.post(sale(click))
    assert [(2, "approved", "5.00"), (1, "approved", "5.00"), (2, "reversed", "0.00")] == await told(db)
    rows = await db.fetch(ROWS)
    assert [None, UUID(bytes=click), None] == [row["click_id"] for row in rows]
    assert [None, 11, None] == [row["link_id"] for row in rows]


async def test_replay_writes_nothing_twice(db: Any, dsn: str, tmp_path: Path) -> None:
    await endpoint(db, "https://t.example/")
    click = await land(db)
    async with edge(dsn, tmp_path) as shop:
        await asyncio.gather(*shop.send(*(sale(click, txid=f"A-{n % 10}") for n in range(100))))
        await asyncio.gather(*shop.send(*(sale(click, txid=f"A-{n}", status=Status.REVERSED) for n in range(10))))
    assert {"approved": 10, "reversed": 10} == {
        status: sum(one == status for _, one, _ in await told(db)) for status in ("approved", "reversed")
    }


@pytest.mark.parametrize("with_endpoint", [False, True])
async def test_a_group_takes_as_many_round_trips_as_without_endpoints(
    db: Any, dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, with_endpoint: bool
) -> None:
    """Each costs a group of sales milliseconds beside busy clicks; nobody pays them for what he does not use."""
    if with_endpoint:
        await endpoint(db, "https://t.example/")
    click, asked = await land(db), []
    async with edge(dsn, tmp_path) as shop:
        await shop.post(sale(click, txid="warm up"))
        connection: Any = shop.recorder._connection
        connection.add_query_logger(lambda query: asked.append(query.query))
        await shop.post(sale(click))
    assert 8 >= len(asked), asked
    assert with_endpoint == any("INSERT INTO outbox" in query for query in asked)


async def test_it_waits_for_the_clicks_row(
    db: Any, dsn: str, tmp_path: Path, partner: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Danger: a postback without the partner's click id is one that his tracker cannot use, and it is sent only once."""
    await endpoint(db, partner.url("/full?cid={ext}"), number=1)
    await endpoint(db, partner.url("/bare?id={conversion_id}"), number=2)
    click = click_id()
    async with edge(dsn, tmp_path) as shop:
        await shop.post(sale(click))
        job = PendingJob(dsn, "control-1", wait_seconds=0.0)
        pending = asyncio.create_task(job.run())
        await eventually(lambda: db.fetchval("SELECT count(*) = 2 FROM outbox WHERE awaits_click"))
        job.stop()
        await pending
    async with sender(dsn):
        assert ["/bare"] == [heard.target.partition("?")[0] for heard in await hears(partner, 1)]
        await eventually(lambda: db.fetchval("SELECT due_at > created_at FROM outbox WHERE endpoint_id = 1"))
        assert (0, None) == tuple(await db.fetchrow("SELECT attempts, last_reason FROM outbox WHERE endpoint_id = 1"))
        await labelled_late(db, click)
        await db.execute("UPDATE outbox SET due_at = now() WHERE state = 'waiting'")
        assert "/full?cid=late" == (await hears(partner, 2))[1].target
    [conversion_id] = {row["conversion_id"] for row in await db.fetch(ROWS)}
    await attach_click(db, conversion_id)
    assert 2 == len(await db.fetch(ROWS))       # that its row came is no news


async def labelled_late(db: Any, click: bytes) -> None:
    await land(db, click, table="clicks_stray")
    await db.execute("UPDATE clicks_stray SET ext = 'late'")


async def test_those_who_wait_for_clicks_hold_up_no_other(db: Any, dsn: str, tmp_path: Path, partner: Receiver) -> None:
    """Danger: a spool lies on a machine that is down, and its sales take all the places that their host has."""
    await endpoint(db, partner.url("/?cid={ext}&t={txid}"))
    click = await land(db)
    async with edge(dsn, tmp_path) as shop:
        await asyncio.gather(*shop.send(*(sale(click_id(), txid=f"lost {n}") for n in range(400))))
        job = PendingJob(dsn, "control-1", wait_seconds=0.0)
        pending = asyncio.create_task(job.run())
        await eventually(lambda: db.fetchval("SELECT count(*) = 400 FROM outbox WHERE awaits_click"))
        job.stop()
        await pending
        await shop.post(sale(click, txid="here"))
    await db.execute("UPDATE outbox SET created_at = now() - interval '1 day' WHERE awaits_click")
    async with sender(dsn):
        assert "here" == (await hears(partner, 1))[0].query["t"]


async def test_an_endpoint_that_cannot_be_read_stops_no_other(db: Any, dsn: str, tmp_path: Path, partner: Receiver) -> None:
    """It was saved by a newer version, before this one came back."""
    await endpoint(db, partner.url("/?x={macro_of_tomorrow}"), number=1)
    await endpoint(db, partner.url("/?t={txid}"), number=2)
    async with edge(dsn, tmp_path) as shop:
        await shop.post(sale(await land(db)))
    async with sender(dsn):
        assert "A-1" == (await hears(partner, 1))[0].query["t"]
        await eventually(lambda: db.fetchval("SELECT due_at > created_at FROM outbox WHERE endpoint_id = 1"))
        await db.execute("UPDATE outbox_endpoints SET url = $1 WHERE endpoint_id = 1", partner.url("/mended"))
        await db.execute("UPDATE outbox SET due_at = now() WHERE state = 'waiting'")
        assert "/mended" == (await hears(partner, 2))[1].target


async def test_after_three_days_it_goes_without_the_row(db: Any, dsn: str, tmp_path: Path, partner: Receiver) -> None:
    await endpoint(db, partner.url("/?cid={ext}"))
    async with edge(dsn, tmp_path) as shop:
        await shop.post(sale(await land(db)))
    await db.execute("UPDATE outbox SET awaits_click = true, created_at = now() - interval '71 hours'")
    await db.execute("TRUNCATE clicks")
    async with sender(dsn):
        await eventually(lambda: db.fetchval("SELECT due_at > now() FROM outbox"))
        assert [] == partner.heard
        await db.execute("UPDATE outbox SET created_at = now() - interval '73 hours', due_at = now()")
        assert "/?cid=" == (await hears(partner, 1))[0].target


@pytest.mark.parametrize(("answer", "reason", "status"), [
    (BROKEN, "status", 500), (b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", "status", 404), (b"", "connection", None),
    (b"\x16\x03\x01 no http at all\r\n\r\n", "connection", None),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 70000\r\n\r\n" + b"x" * 70000, "too_long", 200),
])  # fmt: skip
async def test_what_is_no_success_is_tried_again_under_the_same_id(
    db: Any, dsn: str, tmp_path: Path, partner: Receiver, answer: bytes, reason: str, status: int | None
) -> None:
    """Danger: a tracker that was down for a minute would miss the sale for good."""
    await endpoint(db, partner.url("/?s={status}"))
    counted: list[str] = []
    partner.answer = says(answer)
    async with edge(dsn, tmp_path) as shop, sender(dsn, count=counted.append):
        await shop.post(sale(await land(db)))
        await eventually(lambda: db.fetchval("SELECT last_reason IS NOT NULL FROM outbox"))
        row = await db.fetchrow("SELECT *, due_at - now() AS rest FROM outbox")
        assert ("waiting", 1, reason, status) == (row["state"], row["attempts"], row["last_reason"], row["last_status"])
        assert 0 < row["rest"].total_seconds() <= outbox.FIRST_RETRY_SECONDS
        partner.answer = says(OK)
        await db.execute("UPDATE outbox SET due_at = now()")
        await eventually(lambda: db.fetchval("SELECT state = 'sent' FROM outbox"))
    assert 1 == len({heard.headers["webhook-id"] for heard in partner.heard})
    assert [reason, "sent"] == counted
    assert (0, None) == tuple(await db.fetchrow("SELECT failures, failing_since FROM outbox_endpoints"))
    assert "secret" not in str([tuple(one) for one in await db.fetch(ROWS)])


async def test_a_reversal_is_told_after_its_sale_even_where_that_failed(
    db: Any, dsn: str, tmp_path: Path, partner: Receiver
) -> None:
    """Danger: told in the order of retries, a sale comes alive again in the partner's tracker, behind its reversal."""
    await endpoint(db, partner.url("/?s={status}"))
    partner.answer = says(BROKEN)
    async with edge(dsn, tmp_path) as shop, sender(dsn):
        click = await land(db)
        await shop.post(sale(click))
        await eventually(lambda: db.fetchval("SELECT last_reason = 'status' FROM outbox"))
        await shop.post(sale(click, status=Status.REVERSED))
        await shop.post(sale(click, txid="A-2"))
        await eventually(lambda: db.fetchval("SELECT count(*) = 2 FROM outbox WHERE last_reason = 'status'"))
        assert [1, 0, 1] == [row["attempts"] for row in await db.fetch(ROWS)]
        partner.answer = says(OK)
        await db.execute("UPDATE outbox SET due_at = now() WHERE state = 'waiting'")
        await eventually(lambda: db.fetchval("SELECT count(*) = 3 FROM outbox WHERE state = 'sent'"))
    told_of = {heard.headers["webhook-id"]: heard.target for heard in partner.heard}
    assert ["/?s=approved", "/?s=approved", "/?s=reversed"] == sorted(told_of.values())
    assert "/?s=reversed" == partner.heard[-1].target
    await db.execute("UPDATE outbox SET state = 'given_up' WHERE entry = 1")
    pool = await create_pool(dsn, max_size=1)
    assert {"retried": 1} == await Store(pool).deliveries.retry({})      # not the one whose reversal was told
    await pool.close()


async def test_retries_become_rare_and_end_after_three_days(
    db: Any, dsn: str, tmp_path: Path, partner: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "OPEN_AFTER", 1000)
    await endpoint(db, partner.url("/"))
    partner.answer = says(BROKEN)
    given_up: list[int] = []
    rests: list[float] = []
    async with edge(dsn, tmp_path) as shop, sender(dsn, count_given_up=given_up.append):
        await shop.post(sale(await land(db)))
        for attempt in range(1, 13):
            await eventually(partial(db.fetchval, "SELECT attempts = $1 AND last_reason IS NOT NULL FROM outbox", attempt))
            rests.append((await db.fetchval("SELECT due_at - tried_at FROM outbox")).total_seconds())
            await db.execute("UPDATE outbox SET due_at = now(), last_reason = NULL")
        await db.execute("UPDATE outbox SET give_up_at = now() + interval '1 minute', due_at = now()")
        await eventually(lambda: db.fetchval("SELECT state = 'given_up' FROM outbox"))
    most = [min(outbox.LAST_RETRY_SECONDS, outbox.FIRST_RETRY_SECONDS * 2**n) for n in range(12)]
    assert all(least / 2 - 1 <= rest <= least + 10 for least, rest in zip(most, rests, strict=True)), rests
    assert 1 == sum(given_up)


async def test_an_endpoint_that_fails_gets_one_attempt_at_a_time_and_goes_off_after_a_day(
    db: Any, dsn: str, tmp_path: Path, partner: Receiver
) -> None:
    """Danger: a dead tracker's backlog takes every place, or is knocked at for ever and nobody hears of it."""
    await endpoint(db, partner.url("/"))
    partner.answer = says(BROKEN)
    async with edge(dsn, tmp_path) as shop:
        click = await land(db)
        await asyncio.gather(*shop.send(*(sale(click, txid=f"A-{n}") for n in range(30))))
    async with sender(dsn):
        await eventually(lambda: db.fetchval("SELECT retry_at > now() FROM outbox_endpoints"))
        await eventually(lambda: db.fetchval("SELECT count(*) = 0 FROM outbox WHERE attempts > 0 AND last_reason IS NULL"))
        assert outbox.OPEN_AFTER == await db.fetchval("SELECT failures FROM outbox_endpoints")      # of a burst no more
        assert 0 < await db.fetchval("SELECT count(*) FROM outbox WHERE attempts > 0") <= outbox.OPEN_AFTER + 2 * PER_HOST
        await db.execute("UPDATE outbox_endpoints SET retry_at = now()")
        await eventually(lambda: db.fetchval("SELECT failures = $1 FROM outbox_endpoints", outbox.OPEN_AFTER + 1))
        await db.execute("UPDATE outbox_endpoints SET failures = 40, retry_at = now()")
        await eventually(lambda: db.fetchval("SELECT failures = 41 FROM outbox_endpoints"))
        assert "active" == await db.fetchval("SELECT status FROM outbox_endpoints")      # not yet for a day
        await db.execute("UPDATE outbox_endpoints SET failing_since = now() - interval '25 hours', retry_at = now()")
        await eventually(lambda: db.fetchval("SELECT status = 'off' FROM outbox_endpoints"))
        heard = len(partner.heard)
        partner.answer = says(OK)
        await db.execute("UPDATE outbox_endpoints SET status = 'active', failures = 0, failing_since = NULL, retry_at = NULL")
        await db.execute("UPDATE outbox SET due_at = now() WHERE state = 'waiting'")
        await eventually(lambda: db.fetchval("SELECT count(*) = 30 FROM outbox WHERE state = 'sent'"))
    assert heard + 30 == len(partner.heard)


async def test_a_host_that_hangs_holds_up_nobody_else(db: Any, dsn: str, tmp_path: Path, partner: Receiver) -> None:
    """Danger: one partner's dead tracker, with a hundred sales, and all other partners hear of theirs an hour later."""
    with receiver() as dead:
        dead.answer = hangs
        for number in range(1, 6):
            await endpoint(db, dead.url(f"/{number}"), number=number, host="dead.example")
        await endpoint(db, partner.url("/"), number=9, partner=17, host="well.example")
        click = await land(db)
        async with edge(dsn, tmp_path) as shop:
            await asyncio.gather(*shop.send(*(sale(click, txid=f"A-{n}") for n in range(40))))
            await asyncio.gather(*shop.send(*(sale(None, txid=f"B-{n}", coupon="bert10") for n in range(40))))
        async with sender(dsn):
            await hears(partner, 40)
            assert dead.connections <= PER_HOST


async def test_two_controls_send_each_once(db: Any, dsn: str, tmp_path: Path, partner: Receiver) -> None:
    await endpoint(db, partner.url("/?t={txid}"))
    click = await land(db)
    async with edge(dsn, tmp_path) as shop, sender(dsn), sender(dsn, "control-2"):
        await asyncio.gather(*shop.send(*(sale(click, txid=f"A-{n}") for n in range(200))))
        await eventually(lambda: db.fetchval("SELECT count(*) = 200 FROM outbox WHERE state = 'sent'"))
    assert sorted(f"A-{n}" for n in range(200)) == sorted(heard.query["t"] for heard in partner.heard)


async def test_a_sender_without_the_lease_takes_nothing(db: Any, dsn: str, tmp_path: Path, partner: Receiver) -> None:
    """Danger: a process that was frozen goes on beside the one that took over."""
    await endpoint(db, partner.url("/"))
    await Lease("outbox", "taker", seconds=60).acquire(db)
    async with edge(dsn, tmp_path) as shop, sender(dsn, "frozen") as job:
        await shop.post(sale(await land(db)))
        async with database(dsn) as connection:
            with pytest.raises(Exception, match="outbox"):
                await job._poll(connection)
    assert ([0], []) == ([row["attempts"] for row in await db.fetch(ROWS)], partner.heard)


async def test_a_sender_that_dies_costs_half_a_minute_and_an_attempt(
    db: Any, dsn: str, tmp_path: Path, partner: Receiver
) -> None:
    """What was under way is asked again, with its id: at least once. A late word about an older attempt changes nothing."""
    await endpoint(db, partner.url("/"))
    partner.answer = hangs
    async with edge(dsn, tmp_path) as shop:
        await shop.post(sale(await land(db)))
    job = OutboxJob(dsn, "dies", OutboxClient(LOCAL))
    task = asyncio.create_task(job.run())
    await hears(partner, 1)
    task.cancel()
    await asyncio.wait([task])
    row = await db.fetchrow("SELECT *, due_at - tried_at AS rest FROM outbox")
    assert ("waiting", 1) == (row["state"], row["attempts"])
    assert pytest.approx(outbox.TAKEN_SECONDS, abs=5) == row["rest"].total_seconds()
    assert 0 == await db.fetchval("SELECT count(*) FROM job_leases")
    partner.answer = says(OK)
    await db.execute("UPDATE outbox SET due_at = now()")
    async with sender(dsn):
        await eventually(lambda: db.fetchval("SELECT state = 'sent' AND attempts = 2 FROM outbox"))
    assert 1 == len({heard.headers["webhook-id"] for heard in partner.heard})


async def test_what_is_old_is_forgotten_and_what_waits_for_nobody_is_given_up(
    db: Any, dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Danger: a table that only grows; or sales that wait for an endpoint nobody will ever take up again."""
    await endpoint(db, "https://t.example/", number=1)
    await endpoint(db, "https://u.example/", number=2, status="off")
    async with edge(dsn, tmp_path) as shop:
        click = await land(db)
        await asyncio.gather(*shop.send(*(sale(click, txid=f"A-{n}") for n in range(4))))
    await db.execute("UPDATE outbox SET created_at = now() - interval '8 days'")
    await forget_old(db)
    assert [(1, "waiting", 4), (2, "given_up", 4)] == [tuple(row) for row in await db.fetch(
        "SELECT endpoint_id, state, count(*) FROM outbox GROUP BY 1, 2 ORDER BY 1, 2"
    )]
    await db.execute("UPDATE outbox SET created_at = now() - interval '31 days'")
    monkeypatch.setattr("tracker.storage.outbox.FORGET_ROWS", 3)
    assert [True, False] == [await forget_old(db) for _ in range(2)]      # there may be more, said so: the next poll goes on
    assert [(1, 4)] == [tuple(row) for row in await db.fetch("SELECT endpoint_id, count(*) FROM outbox GROUP BY 1")]


async def test_a_conversion_id_is_what_the_answer_said(db: Any, dsn: str, tmp_path: Path, partner: Receiver) -> None:
    await endpoint(db, partner.url("/{conversion_id}/{partner}/{program}"))
    async with edge(dsn, tmp_path) as shop, sender(dsn):
        await shop.post(sale(await land(db)))
        [heard] = await hears(partner, 1)
    expected = UUID(bytes=ConversionKey(7, "sale", "A-1", None).conversion_id)
    assert f"/{expected}/anna/shop" == heard.target
