"""Clicks, conversions and the postback log, read from real PostgreSQL."""

import base64
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from store_fixtures import LINK, pool, shop, store

from tracker.domain.mistakes import Invalid, NotFound
from tracker.storage.entities import records_sql
from tracker.storage.entities.records import parse_click_id
from tracker.storage.entities.store import Store

__all__ = ["pool", "shop", "store"]


def click_id(at: datetime, number: int = 0) -> UUID:
    return UUID(int=(int(at.timestamp() * 1000) << 83) + number)


async def add_click(pool: Any, number: UUID, link: dict[str, Any], table: str = "clicks") -> None:
    await pool.execute(
        f"INSERT INTO {table} (click_id, link_id, link_version, program_id, partner_id, flags, visitor, ip, query) "
        "SELECT $1, link_id, 1, program_id, partner_id, 9, -1, '203.0.113.0', '{\"a\": \"1\"}' "
        "FROM links WHERE slug = $2",
        number, link["slug"],
    )  # fmt: skip


async def test_clicks_are_found_by_token_by_uuid_and_by_span(shop: Store, pool: Any) -> None:
    link = (await shop.links.create(LINK)).row
    now = datetime.now(UTC)
    ids = [click_id(now, n) for n in range(5)]
    for number in ids[:4]:
        await add_click(pool, number, link)
    await add_click(pool, ids[4], link, "clicks_stray")
    row = await shop.records.click(str(ids[0]))
    assert (ids[0], link["slug"], "shop", "anna", ["bot", "test"], {"a": "1"}) == (
        row["click_id"], row["link"], row["program"], row["partner"], row["flags"], row["query"],
    )  # fmt: skip
    assert abs(row["at"] - now) < timedelta(milliseconds=2)
    span: dict[str, Any] = {"start": now - timedelta(hours=1), "end": now + timedelta(hours=1)}
    first = await shop.records.clicks(**span, link=link["slug"], limit=3)
    rest = await shop.records.clicks(**span, link=link["slug"], limit=3, after=first.after)
    assert ids == [one["click_id"] for one in first.rows + rest.rows]
    assert rest.after is None
    assert [] == (await shop.records.clicks(start=now - timedelta(hours=2), end=now - timedelta(hours=1))).rows
    with pytest.raises(Invalid):
        await shop.records.clicks(start=now - timedelta(hours=25), end=now)
    with pytest.raises(Invalid):
        await shop.records.clicks(**span, program="missing")
    with pytest.raises(NotFound):
        await shop.records.click(str(click_id(now, 99)))


async def test_a_text_that_another_row_of_the_day_says_is_read_there(shop: Store, pool: Any) -> None:
    """Of the same UTC day alone: the partition of another may be gone tomorrow, and there the key may be another text's."""
    link = (await shop.links.create(LINK)).row
    noon = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)
    keys = {"agent_key": b"agent1", "referrer_key": b"refer1"}
    texts = {"user_agent": "Mozilla/5.0", "referrer": "https://blog.example/"}
    days = (noon - timedelta(days=1), noon)
    said = [click_id(day - timedelta(hours=11), 1) for day in days]
    left_out = [click_id(day, 2) for day in days]
    strays = click_id(noon, 3), click_id(noon, 4)
    nobody = click_id(noon, 5)
    for number in (*said, *left_out, nobody):
        await add_click(pool, number, link)
    for number in strays:
        await add_click(pool, number, link, "clicks_stray")
    set_keys = "UPDATE {} SET agent_key = $2, referrer_key = $3 WHERE click_id = $1"
    set_texts = "UPDATE {} SET user_agent = $2, referrer = $3 WHERE click_id = $1"
    for table, numbers, mark in (("clicks", said + left_out, b""), ("clicks_stray", strays, b"s")):
        for number in numbers:
            await pool.execute(set_keys.format(table), number, *(key + mark for key in keys.values()))
    await pool.execute(set_texts.format("clicks"), said[0], "yesterday's", "https://yesterday.example/")
    await pool.execute(set_texts.format("clicks"), said[1], *texts.values())
    await pool.execute(set_texts.format("clicks_stray"), strays[0], "stray's", "https://stray.example/")

    async def shown(number: UUID) -> tuple[Any, Any]:
        row = await shop.records.click(str(number))
        assert not {"agent_key", "referrer_key", "said_user_agent", "said_referrer"} & set(row)
        return row["user_agent"], row["referrer"]

    assert tuple(texts.values()) == await shown(left_out[1]) == await shown(said[1])
    assert ("yesterday's", "https://yesterday.example/") == await shown(left_out[0])
    assert ("stray's", "https://stray.example/") == await shown(strays[1])
    assert (None, None) == await shown(nobody)
    page = await shop.records.clicks(start=noon - timedelta(minutes=1), end=noon + timedelta(minutes=1))
    assert [texts["user_agent"], "stray's", "stray's", None] == [row["user_agent"] for row in page.rows]
    report = {row["click_id"]: row["referrer"] for row in await pool.fetch("SELECT click_id, referrer FROM report_clicks")}
    assert [texts["referrer"], "https://yesterday.example/", None] == [report[n] for n in (left_out[1], left_out[0], nobody)]


async def test_a_look_at_clicks_touches_the_partitions_of_its_span_alone(shop: Store, pool: Any) -> None:
    """Over 400 partitions a plan that reads them all holds 400 locks and the admin's patience."""
    now = datetime.now(UTC)
    question = records_sql.CLICKS
    for n, value in enumerate((click_id(now), click_id(now + timedelta(minutes=1))), start=1):
        question = question.replace(f"${n}", f"'{value}'::uuid")
    for n, text in ((3, "NULL"), (4, "NULL"), (5, "NULL"), (6, "10")):
        question = question.replace(f"${n}", text)
    plan = "\n".join(row[0] for row in await pool.fetch("EXPLAIN " + question))
    assert 1 <= plan.count(" on clicks_2") <= 2


def test_a_token_is_read_as_the_first_128_bits() -> None:
    packed = bytes(range(20))
    assert UUID(bytes=packed[:16]) == parse_click_id(base64.b32hexencode(packed).decode().lower())
    for text in ("", "x" * 32, "-" * 36, str(UUID(bytes=packed[:16])) + "0"):
        with pytest.raises(Invalid):
            parse_click_id(text)


async def test_conversions_and_postbacks_are_read_newest_first(shop: Store, pool: Any) -> None:
    numbers = [UUID(int=n) for n in range(1, 6)]
    for minute, number in enumerate(numbers):
        await pool.execute(
            "INSERT INTO conversion_state "
            "(conversion_id, program_id, event, txid, status, amount, currency, created_at) "
            "SELECT $1, program_id, 'sale', $2, 'approved', 12.5, 'EUR', now() + make_interval(mins => $3) "
            "FROM programs",
            number, str(minute), minute,
        )  # fmt: skip
        await pool.execute(
            "INSERT INTO postback_log (message_id, received_at, outcome, conversion_id, message) "
            "VALUES ($1, now() + make_interval(mins => $2), 'recorded', $1, '{\"event\": \"sale\"}')",
            number, minute,
        )  # fmt: skip
    await pool.execute(
        "INSERT INTO conversion_history (conversion_id, entry, change, detail) VALUES ($1, 1, 'status', '{\"to\": 1}')",
        numbers[0],
    )
    first = await shop.records.conversions(program="shop", limit=3)
    rest = await shop.records.conversions(program="shop", limit=3, after=first.after)
    assert numbers[::-1] == [row["conversion_id"] for row in first.rows + rest.rows]
    one = await shop.records.conversion(str(numbers[0]))
    assert [{"to": 1}] == [change["detail"] for change in one["history"]]
    assert (None, []) == (one["first_message"], one["ledger"])
    first = await shop.records.postbacks(limit=4)
    rest = await shop.records.postbacks(limit=4, after=first.after)
    assert numbers[::-1] == [row["message_id"] for row in first.rows + rest.rows]
    assert {"event": "sale"} == first.rows[0]["message"]
    for bad in ("x", "2020-01-01~x", "2020-01-01T00:00:00+00:00~x"):
        with pytest.raises(Invalid):
            await shop.records.postbacks(after=bad)
    with pytest.raises(NotFound):
        await shop.records.conversion(str(UUID(int=77)))
