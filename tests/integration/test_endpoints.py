"""Partners' endpoints and the outbox as people manage and read them; over HTTP: test_admin_api.py has the manner of it all."""

from __future__ import annotations

import asyncio
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from recording import SEED, edge, land, sale
from shipping import database
from store_fixtures import pool, shop, store

from tracker.domain.mistakes import Conflict, Invalid, NotFound
from tracker.storage.entities.endpoints import LIVING_LIMIT
from tracker.storage.entities.store import Store
from tracker.storage.entities.table import Page

__all__ = ["pool", "shop", "store"]

FULL = "https://t.example/pb?cid={ext}&st={status}&p={commission}"


async def test_an_endpoint_is_made_and_its_secret_shown_once(shop: Store) -> None:
    made = await shop.endpoints.create("anna", {"url": FULL, "program": "shop", "events": ["SALE", "sale"]})
    assert made.row["secret"].startswith("whsec_")
    assert () == made.warnings
    row = await shop.endpoints.show("anna", made.row["endpoint_id"])
    assert ("anna", "shop", "GET", ["approved", "rejected", "reversed"], ["sale"], "active", 0) == tuple(
        row[name] for name in ("partner", "program", "method", "statuses", "events", "status", "failures")
    )
    listed = (await shop.endpoints.list("anna")).rows
    assert [row] == listed
    assert "secret" not in row
    other = await shop.endpoints.create("anna", {"url": FULL})
    assert other.row["secret"] != made.row["secret"]
    page = await shop.endpoints.list("anna", limit=1)
    assert [page.rows[0]["endpoint_id"]] == [int(page.after or 0)]
    assert 1 == len((await shop.endpoints.list("anna", after=page.rows[0]["endpoint_id"])).rows)


@pytest.mark.parametrize(("given", "statuses", "warnings"), [
    ({"url": "https://t.example/?c={ext}"}, ["approved"], 0),
    ({"url": "https://t.example/?c={ext}", "method": "POST"}, ["approved", "rejected", "reversed"], 0),
    ({"url": "https://t.example/?c={ext}", "statuses": ["approved", "reversed"]}, ["approved", "reversed"], 1),
    ({"url": "http://t.example/"}, ["approved"], 2),
])  # fmt: skip
async def test_what_is_sent_by_default_and_what_one_is_warned_of(
    shop: Store, given: dict[str, Any], statuses: list[str], warnings: int
) -> None:
    made = await shop.endpoints.create("anna", given)
    assert (statuses, warnings) == (made.row["statuses"], len(made.warnings))


@pytest.mark.parametrize(("given", "field"), [
    ({"url": "http://127.0.0.1/"}, "url"), ({"url": "https://t.example:8443/"}, "url"), ({"url": "https://{ext}/"}, "url"),
    ({"url": FULL, "statuses": []}, "statuses"), ({"url": FULL, "statuses": ["paid"]}, "statuses"),
    ({"url": FULL, "status": "off"}, "status"), ({"url": FULL, "method": "PUT"}, "method"), ({}, "url"),
    ({"url": FULL, "program": "missing"}, "program"), ({"url": FULL, "events": "sale"}, "events"),
])  # fmt: skip
async def test_mistakes_are_told_with_their_field(shop: Store, given: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as raised:
        await shop.endpoints.create("anna", given)
    assert [field] == [mistake.field for mistake in raised.value.mistakes]


async def test_what_is_not_there_and_what_is_too_many(shop: Store) -> None:
    with pytest.raises(NotFound):
        await shop.endpoints.create("nobody", {"url": FULL})
    with pytest.raises(NotFound):
        await shop.endpoints.list("nobody")
    await shop.partners.create({"slug": "bert"})
    number = (await shop.endpoints.create("anna", {"url": FULL})).row["endpoint_id"]
    for partner, one in (("bert", number), ("anna", number % 1000 + 1)):
        with pytest.raises(NotFound):
            await shop.endpoints.show(partner, one)
        with pytest.raises(NotFound):
            await shop.endpoints.edit(partner, one, {"status": "paused"})
    for _ in range(LIVING_LIMIT - 1):
        await shop.endpoints.create("anna", {"url": FULL})
    with pytest.raises(Conflict):
        await shop.endpoints.create("anna", {"url": FULL})
    await shop.endpoints.edit("anna", number, {"status": "paused"})
    await shop.endpoints.create("anna", {"url": FULL})
    with pytest.raises(Conflict):
        await shop.endpoints.edit("anna", number, {"status": "active"})


async def test_one_that_is_off_is_taken_up_again_with_a_clean_record(shop: Store, pool: Any) -> None:
    number = (await shop.endpoints.create("anna", {"url": FULL})).row["endpoint_id"]
    off = "UPDATE outbox_endpoints SET status = 'off', failures = 30, failing_since = now(), retry_at = now() + interval '1 h'"
    await pool.execute(off)
    assert 30 == (await shop.endpoints.edit("anna", number, {"events": ["lead"]})).row["failures"]
    row = (await shop.endpoints.edit("anna", number, {"status": "active"})).row
    assert ("active", 0, None) == (row["status"], row["failures"], row["failing_since"])
    assert await pool.fetchval("SELECT retry_at IS NULL FROM outbox_endpoints")


async def test_one_whose_network_is_not_allowed_any_more_can_still_be_paused(shop: Store, pool: Any) -> None:
    allowing = Store(pool, outbox_networks=(ip_network("10.0.0.0/8"),))
    number = (await allowing.endpoints.create("anna", {"url": "http://10.0.0.1:9000/"})).row["endpoint_id"]
    assert "paused" == (await shop.endpoints.edit("anna", number, {"status": "paused"})).row["status"]
    with pytest.raises(Invalid):
        await shop.endpoints.edit("anna", number, {"url": "http://10.0.0.1:9001/"})


async def test_deliveries_are_listed_page_by_page_and_given_up_ones_tried_again(dsn: str, store: Store, tmp_path: Path) -> None:
    """Danger: a page that ends among rows of one moment loses or repeats some."""
    async with database(dsn) as db:
        await db.execute(SEED)
        for url in (FULL, "https://u.example/"):
            await store.endpoints.create("anna", {"url": url})
        click = await land(db)
        async with edge(dsn, tmp_path) as shop:
            await asyncio.gather(*shop.send(*(sale(click, txid=f"A-{n}") for n in range(10))))
        rows: list[Any] = []
        page = Page(after=None)
        while True:
            page = await store.deliveries.list(partner="anna", limit=3, after=page.after)
            rows += page.rows
            if page.after is None:
                break
        assert 20 == len({row["message_id"] for row in rows}) == len(rows)
        assert {("waiting", "approved", "5.00", "EUR", "sale")} == {
            tuple(row[name] for name in ("state", "status", "commission", "commission_currency", "event")) for row in rows
        }
        assert [] == (await store.deliveries.list(partner="bert")).rows
        assert 2 == len((await store.deliveries.list(conversion_id=str(rows[0]["conversion_id"]))).rows)
        await db.execute("UPDATE outbox SET last_reason = 'status', last_status = 500")
        await db.execute("UPDATE outbox SET state = 'given_up' WHERE endpoint_id = $1", rows[0]["endpoint_id"])
        assert [10, 10, 0] == [len((await store.deliveries.list(state=one)).rows) for one in ("failed", "given_up", "sent")]
        assert {"retried": 0} == await store.deliveries.retry({"partner": "bert"})
        assert {"retried": 0} == await store.deliveries.retry({"since": "2999-01-01T00:00:00Z"})
        assert {"retried": 10} == await store.deliveries.retry({"partner": "anna", "endpoint_id": rows[0]["endpoint_id"]})
        for wrong in ("x", "2027-01-01T00:00:00+00:00", f"{page.rows[-1]['created_at'].isoformat()}~{rows[0]['conversion_id']}~1"):
            with pytest.raises(Invalid):
                await store.deliveries.list(after=wrong)
        with pytest.raises(Invalid):
            await store.deliveries.list(state="lost")
