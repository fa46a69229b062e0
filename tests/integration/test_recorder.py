"""The recorder on real PostgreSQL: every message once, whatever is repeated, concurrent, locked, refused or cut off."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from postgres_fixtures import SCHEMA
from proxy import Fault, proxied
from recording import (
    A_GROUP_IS_WRITTEN,
    LINK,
    PROGRAM,
    SEED,
    answer_to,
    assert_money_adds_up,
    click_id,
    edge,
    land,
    outcomes,
    owed,
    sale,
)
from shipping import DAY_MS, database, eventually, now_ms

from tracker.domain.attribution import Facts, LinkOwner, ProgramFacts, ProgramTerms, Standing
from tracker.domain.commission import CommissionTerm
from tracker.domain.conversion import Conversion, fold
from tracker.domain.conversion_id import ConversionKey, key_of
from tracker.domain.postback import Postback, Status
from tracker.jobs.pending import PendingJob
from tracker.storage.conversions import callers, recorder
from tracker.storage.conversions import sql as conversion_sql
from tracker.storage.conversions.facts import find_clicks
from tracker.storage.conversions.journal import read_journal
from tracker.storage.conversions.recorder import apply_journal
from tracker.storage.conversions.replay import replay
from tracker.storage.conversions.store import decide_conversion
from tracker.storage.spool.reader import LogReader


@pytest.fixture(autouse=True, params=["usual", "small"])
def groups(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small ones: any three messages are prepared while any three others are committed."""
    if request.param == "small":
        monkeypatch.setattr(recorder, "MAX_GROUP", 3)
        monkeypatch.setattr(recorder, "LEAST_PREPARED", 1)


@pytest.fixture
async def db(dsn: str) -> AsyncIterator[Any]:
    async with database(dsn) as connection:
        await connection.execute(SEED)
        yield connection


async def test_a_sale_is_recorded_and_owed_and_the_same_again_is_a_duplicate(dsn: str, db: Any, tmp_path: Path) -> None:
    click = await land(db)
    async with edge(dsn, tmp_path) as shop:
        first = await shop.post(sale(click))
        again = await shop.post(sale(click))
    expected = UUID(bytes=ConversionKey(PROGRAM, "sale", "A-1", None).conversion_id)
    assert ("recorded", expected) == (first.status, first.conversion_id)
    assert ("duplicate", expected) == (again.status, again.conversion_id)
    assert [Decimal(5)] == [row["amount"] for row in await db.fetch("SELECT amount FROM ledger")]
    cursor = await db.fetchrow("SELECT * FROM spool_cursors WHERE log = 'journal'")
    assert (2, 2, 0) == (cursor["next_seq"], cursor["rows_stored"], cursor["rows_quarantined"])
    await assert_money_adds_up(db)


@pytest.mark.fault(19)
async def test_two_hundred_copies_over_four_edges_are_one_conversion(dsn: str, db: Any, tmp_path: Path) -> None:
    """Danger: retries of an impatient network hit all edges at once, and each thinks that it is the first."""
    click = await land(db)
    async with AsyncExitStack() as stack:
        edges = [await stack.enter_async_context(edge(dsn, tmp_path)) for _ in range(4)]
        answers = await asyncio.gather(*(edges[number % 4].post(sale(click)) for number in range(200)))
    assert Counter(recorded=1, duplicate=199) == Counter(answer.status for answer in answers)
    assert 1 == len({answer.conversion_id for answer in answers})
    assert (1, 1) == (await db.fetchval("SELECT count(*) FROM conversions"), await db.fetchval("SELECT count(*) FROM ledger"))
    await assert_money_adds_up(db)


async def test_many_keys_over_four_edges_in_overlapping_groups(dsn: str, db: Any, tmp_path: Path) -> None:
    """Danger: groups that claim the same keys in different orders would deadlock, or lose each other's updates."""
    click = await land(db)
    async with AsyncExitStack() as stack:
        edges = [await stack.enter_async_context(edge(dsn, tmp_path)) for _ in range(4)]
        sent = [
            future for number, one in enumerate(edges)
            for future in one.send(*(sale(click, txid=f"A-{(n * (number + 3)) % 100}") for n in range(200)))
        ]
        answers = await asyncio.gather(*sent)
    keys = len({(n * (number + 3)) % 100 for number in range(4) for n in range(200)})
    assert Counter(recorded=keys, duplicate=800 - keys) == Counter(answer.status for answer in answers)
    assert Decimal(5 * keys) == await owed(db)
    await assert_money_adds_up(db)


@pytest.mark.fault(20)
async def test_a_reversed_sale_delivered_again_is_not_paid_again(dsn: str, db: Any, tmp_path: Path) -> None:
    click = await land(db)
    async with edge(dsn, tmp_path) as shop:
        answers = [
            await shop.post(message) for message in (
                sale(click, status=Status.APPROVED), sale(None, status=Status.REVERSED, amount=None, currency=None),
                sale(click, status=Status.APPROVED),
            )
        ]
    assert ["recorded", "updated", "duplicate"] == [answer.status for answer in answers]
    assert [Decimal(5), Decimal(-5)] == [r["amount"] for r in await db.fetch("SELECT amount FROM ledger ORDER BY entry")]
    await assert_money_adds_up(db)


@pytest.mark.fault(21)
async def test_a_conflict_changes_nothing_and_waits_for_a_person(dsn: str, db: Any, tmp_path: Path) -> None:
    click = await land(db)
    async with edge(dsn, tmp_path) as shop:
        await shop.post(sale(click))
        before = await db.fetchrow("SELECT status, amount, last_entry FROM conversion_state")
        answer = await shop.post(sale(click, amount=Decimal(51), status=Status.REVERSED))
        assert ("conflict", "amount") == (answer.status, answer.reason)
        assert before == await db.fetchrow("SELECT status, amount, last_entry FROM conversion_state")
        assert 1 == await db.fetchval("SELECT count(*) FROM postback_log WHERE outcome = 'conflict' AND reason = 'amount'")
        assert answer.conversion_id is not None
        assert await decide_conversion(db, answer.conversion_id, Status.REJECTED, "customer sent it back") is not None
        assert Decimal(0) == await owed(db)
        assert "duplicate" == (await shop.post(sale(click))).status
        assert Decimal(0) == await owed(db)
    await assert_money_adds_up(db)


async def test_a_decision_about_an_unknown_conversion_is_none(db: Any) -> None:
    assert await decide_conversion(db, UUID(int=1), Status.APPROVED, "why not") is None


async def test_several_per_key_programs_are_told_apart_by_event_id_and_replay_never_doubles(
    dsn: str, db: Any, tmp_path: Path
) -> None:
    await db.execute("UPDATE programs SET several_per_key = true")
    click = await land(db)
    async with edge(dsn, tmp_path) as shop:
        statuses = [(await shop.post(sale(click, event_id=event_id))).status for event_id in ("a", "b", "a", None, None)]
        await shop.recorder.stop()
        assert ["recorded", "recorded", "duplicate", "recorded", "recorded"] == statuses
        played = await replay(db, [m for m in read_journal(shop.path) if isinstance(m, Postback)])
    assert {"recorded": 4, "duplicate": 1} == played   # the logged answers
    assert 4 == await db.fetchval("SELECT count(*) FROM conversions")


async def test_a_lost_cursor_and_a_restored_database_are_refilled_from_the_journal(
    dsn: str, db: Any, tmp_path: Path
) -> None:
    """A restore takes back the last commits, cursor and rows together; another loses only the cursor."""
    click = await land(db)
    async with edge(dsn, tmp_path) as shop:
        await asyncio.gather(*shop.send(*(sale(click, txid=f"A-{n}") for n in range(20))))
        await shop.recorder.stop()
        await db.execute("DELETE FROM spool_cursors")
        await db.execute("DELETE FROM postback_log WHERE message_id IN (SELECT message_id FROM postback_log ORDER BY 1 OFFSET 10)")
        assert await apply_journal(dsn, shop.spool_id, LogReader(shop.path, "journal", spool_id=shop.spool_id))
    assert 20 == await db.fetchval("SELECT next_seq FROM spool_cursors WHERE log = 'journal'")
    assert {"recorded": 10, "duplicate": 10} == await outcomes(db)
    assert Decimal(100) == await owed(db)
    await assert_money_adds_up(db)


async def test_what_was_journalled_but_never_submitted_is_recorded(dsn: str, db: Any, tmp_path: Path) -> None:
    """Danger: a request that died between journal and queue would be kept on the disk and forgotten."""
    click = await land(db)
    async with edge(dsn, tmp_path) as shop:
        shop.journal.append([sale(click)])
        assert "duplicate" == (await shop.post(sale(click))).status


async def test_a_message_submitted_after_it_was_recorded_gets_the_logged_answer(dsn: str, db: Any, tmp_path: Path) -> None:
    click = await land(db)
    async with edge(dsn, tmp_path) as shop:
        (message,) = shop.journal.append([sale(click)])
        await eventually(lambda: shop.recorder.next_seq == 1)
        assert "recorded" == (await answer_to(shop.recorder, message)).status


async def test_callers_beyond_the_bound_are_told_queued_and_recorded_all_the_same(
    dsn: str, db: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callers, "MOST_WAITING", 3)
    click = await land(db)
    async with edge(dsn, tmp_path) as shop:
        answers = await asyncio.gather(*shop.send(*(sale(click, txid=f"A-{n}") for n in range(5))))
        await eventually(lambda: shop.recorder.next_seq == 5)
    assert ["recorded"] * 3 + ["queued"] * 2 == [answer.status for answer in answers]
    assert {"recorded": 5} == await outcomes(db)


async def test_a_locked_key_holds_up_itself_alone(dsn: str, db: Any, tmp_path: Path) -> None:
    """Danger: one row locked by a person at a prompt would stop the postbacks of every shop."""
    click = await land(db)
    async with edge(dsn, tmp_path) as shop, database(dsn) as person:
        await shop.post(sale(click, txid="A-7"))
        async with person.transaction():
            await person.execute("SELECT * FROM conversion_state FOR UPDATE")
            sent = shop.send(*(sale(click, txid=f"A-{n}", status=Status.REVERSED) for n in range(64)))
            await asyncio.gather(*sent[:7], *sent[8:])
            assert not sent[7].done()
            behind = shop.send(sale(click, txid="A-7"), sale(click, txid="B"))
            assert "recorded" == (await behind[1]).status
            assert 8 == shop.recorder.next_seq
        assert ["updated", "duplicate"] == [(await sent[7]).status, (await behind[0]).status]
        await eventually(lambda: shop.recorder.next_seq == 67)
    assert Decimal(5) == await owed(db)
    await assert_money_adds_up(db)


async def test_messages_of_a_locked_key_keep_their_order_when_one_of_them_is_at_fault(dsn: str, db: Any, tmp_path: Path) -> None:
    """Danger: they are cut apart to find it; those behind the lock would overtake each other, or be forgotten."""
    click = await land(db)
    key = UUID(bytes=ConversionKey(PROGRAM, "sale", "A-1", None).conversion_id)
    async with edge(dsn, tmp_path) as shop, database(dsn) as somebody:
        claim = somebody.transaction()
        await claim.start()
        await somebody.execute("INSERT INTO conversion_state (conversion_id, program_id, event) VALUES ($1, 7, 'sale')", key)
        sent = shop.send(sale(click), sale(click, ts_ms=10**18), sale(click, amount=Decimal(60)))
        await eventually(lambda: shop.recorder.counts.held == 1)
        await claim.rollback()
        await eventually(lambda: shop.recorder.next_seq == 3)
        assert ["recorded", "queued", "conflict"] == [(await answer).status for answer in sent]
    assert Decimal(5) == await owed(db)


@pytest.mark.parametrize("poison", [{"customer": "nul \0 here"}, {"program_id": 99}, {"ts_ms": 10**18}])
async def test_a_message_that_cannot_be_stored_is_quarantined_alone(
    dsn: str, db: Any, tmp_path: Path, poison: dict[str, Any]
) -> None:
    """Danger: one NUL would be tried for ever, and every shop's sales behind it would wait."""
    click = await land(db)
    async with edge(dsn, tmp_path) as shop:
        drafts = [sale(click, txid=f"A-{n % 30}") for n in range(60)]
        drafts[31] = replace(drafts[31], **poison)
        answers = await asyncio.gather(*shop.send(*drafts))
        await eventually(lambda: shop.recorder.next_seq == 60)
    assert Counter(recorded=30, duplicate=29, queued=1) == Counter(answer.status for answer in answers)
    assert "queued" == answers[31].status
    assert {"recorded": 30, "duplicate": 29, "quarantined": 1} == await outcomes(db)
    cursor = await db.fetchrow("SELECT * FROM spool_cursors WHERE log = 'journal'")
    assert (60, 59, 1) == (cursor["next_seq"], cursor["rows_stored"], cursor["rows_quarantined"])
    await assert_money_adds_up(db)


async def test_a_row_that_is_no_message_is_kept_aside(dsn: str, db: Any, tmp_path: Path) -> None:
    click = await land(db)
    async with edge(dsn, tmp_path) as shop:
        shop.journal._log.append([b"no message"])
        assert "recorded" == (await shop.post(sale(click))).status
    kept = await db.fetchrow("SELECT seq, record FROM quarantine WHERE log = 'journal'")
    assert (0, b"no message") == tuple(kept)
    assert (2, 1) == tuple(await db.fetchrow("SELECT next_seq, rows_quarantined FROM spool_cursors WHERE log = 'journal'"))


@pytest.mark.fault(9)
@pytest.mark.parametrize("action", ["swallow", "late"])
async def test_a_commit_whose_answer_is_lost_is_not_repeated(dsn: str, db: Any, tmp_path: Path, action: Any) -> None:
    """The connection breaks around COMMIT, which arrives, or arrives two seconds later: paid once, answered."""
    click = await land(db)
    async with proxied(dsn) as proxy, edge(proxy.dsn, tmp_path) as shop:
        await shop.post(sale(click, txid="first"))
        fault = proxy.fault = Fault("up", action, on=A_GROUP_IS_WRITTEN)
        sent = shop.send(*(sale(click, txid=f"A-{n}") for n in range(5)))
        await fault.struck.wait()
        if action == "late":
            await eventually(lambda: proxy.connections > 1)
            fault.deliver.set()
        answers = await asyncio.gather(*sent)
        assert 1 == shop.recorder.counts.ambiguous_commits
    assert ["recorded"] * 5 == [answer.status for answer in answers]
    assert {"recorded": 6} == await outcomes(db)
    assert Decimal(30) == await owed(db)
    await assert_money_adds_up(db)


@pytest.mark.fault(8)
async def test_a_connection_cut_anywhere_in_the_exchange_records_each_once(dsn: str, db: Any, tmp_path: Path) -> None:
    """A prime step meets every statement of the group, in both directions."""
    click = await land(db)
    async with proxied(dsn) as proxy:
        async with edge(proxy.dsn, tmp_path) as shop:
            await asyncio.gather(*shop.send(sale(click, txid="whole"), sale(click, txid="whole 2")))
        lengths = dict(proxy.passed)
        made = 2
        for way in ("up", "down"):
            for offset in range(0, lengths[way], 709):
                proxy.passed[way] = 0
                fault = proxy.fault = Fault(way, "cut", at=offset)
                async with edge(proxy.dsn, tmp_path) as shop:
                    sent = shop.send(sale(click, txid=f"{way}{offset}"), sale(click, txid=f"{way}{offset} 2"))
                    answers = await asyncio.gather(*sent)
                    assert fault.struck.is_set(), f"{way} {offset} of {lengths[way]} was never reached"
                    made += 2
                    assert ["recorded"] * 2 == [answer.status for answer in answers]
    assert {"recorded": made} == await outcomes(db)
    assert Decimal(5 * made) == await owed(db)
    await assert_money_adds_up(db)


async def test_an_outage_loses_nothing_and_pays_nothing_twice(postgres_factory: Any, tmp_path: Path) -> None:
    """PostgreSQL is stopped at once under load, stays away, comes back: all that the journal has is recorded, once."""
    with postgres_factory() as postgres:
        async with database(postgres.dsn) as db:
            await db.execute(SCHEMA.read_text())
            await db.execute(SEED)
            click = await land(db)
        async with proxied(postgres.dsn) as proxy, edge(proxy.dsn, tmp_path / "spools") as shop:
            sent = shop.send(*(sale(click, txid=f"before {n}") for n in range(600)))
            await sent[0]
            postgres.stop()
            sent += shop.send(*(sale(click, txid=f"after {n}") for n in range(600)))
            await eventually(lambda: not shop.recorder.connected)
            postgres.start()
            proxy.lead_to(postgres.dsn)
            answers = await asyncio.gather(*sent)
            assert {"recorded"} == {answer.status for answer in answers}
        async with database(postgres.dsn) as db:
            assert {"recorded": 1200} == await outcomes(db)
            assert Decimal(6000) == await owed(db)
            assert 1200 == await db.fetchval("SELECT rows_stored FROM spool_cursors WHERE log = 'journal'")
            await assert_money_adds_up(db)


@pytest.mark.fault(12)
async def test_look_ups_of_clicks_open_one_partition_of_four_hundred(dsn: str, db: Any) -> None:
    """Danger: a generic plan locks every partition and its index, for every group, on every edge."""
    await db.execute("SELECT ensure_click_partitions((now() AT TIME ZONE 'UTC')::date - 370, 400)")
    ids = [await land(db, click_id(now_ms() - n * DAY_MS // 50)) for n in range(20)]
    async with db.transaction():
        await db.execute("SET LOCAL plan_cache_mode = force_custom_plan")
        for _ in range(8):   # past the five after which a plan may turn generic
            assert set(ids) == await find_clicks(db, ids)
        locks = await db.fetchval(
            "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND relation::regclass::text LIKE 'clicks%'"
        )
    assert locks <= 12   # the parent, its three indexes; of the two days the ids lie in: table and three each
    plan = await db.fetchval(
        "EXPLAIN (FORMAT JSON) " + conversion_sql.CLICKS_OF_DAY.replace("$1", "ARRAY[$1::uuid]"), UUID(bytes=ids[0]),
        UUID(bytes=ids[0]), UUID(int=int.from_bytes(ids[0], "big") + 1),
    )
    assert "Index" in plan
    assert "Append" not in plan


async def test_strays_count_as_rows_that_are_here(dsn: str, db: Any, tmp_path: Path) -> None:
    click = await land(db, click_id(now_ms() - 20 * DAY_MS), table="clicks_stray")
    async with edge(dsn, tmp_path) as shop:
        assert "recorded" == (await shop.post(sale(click))).status
    assert "click" == await db.fetchval("SELECT credit FROM conversion_state")


async def test_open_doors_make_so_many_pending_conversions_a_day(dsn: str, db: Any, tmp_path: Path) -> None:
    """Danger: anybody who holds a click id could fill the tables. The program's cap is 2."""
    click = await land(db)
    async with edge(dsn, tmp_path) as shop:
        answers = [await shop.post(sale(click, txid=txid, limited=True)) for txid in ("1", "1", "2", "3", "2")]
        assert ["recorded", "duplicate", "recorded", "refused", "duplicate"] == [answer.status for answer in answers]
        assert "pending_cap" == answers[3].reason
        assert "recorded" == (await shop.post(sale(click, txid="3"))).status
    assert {"pending": 2, "approved": 1} == dict(await db.fetch("SELECT status, count(*)::int FROM conversion_state GROUP BY 1"))


async def test_the_cap_holds_for_sales_sent_before_their_click_lands(dsn: str, db: Any, tmp_path: Path) -> None:
    """Danger: whoever posts quickly after his click would be past the cap. Repetitions cost no room."""
    click = click_id()
    async with edge(dsn, tmp_path) as shop:
        together = await asyncio.gather(*shop.send(*(sale(click, txid=txid, limited=True) for txid in "11333")))
        answers = [*together, *[await shop.post(sale(click, txid=txid, limited=True)) for txid in ("1", "2", "3", "4")]]
    assert ["pending_click"] * 6 + ["refused", "pending_click", "refused"] == [answer.status for answer in answers]
    await land(db, click)
    job = PendingJob(dsn, "control")
    running = asyncio.create_task(job.run())
    await eventually(lambda: db.fetchval("SELECT NOT EXISTS (SELECT FROM pending)"))
    job.stop()
    await running
    assert ["1", "3"] == [row["txid"] for row in await db.fetch("SELECT txid FROM conversion_state ORDER BY 1")]


async def test_a_coupon_of_any_alphabet_credits_its_partner(dsn: str, db: Any, tmp_path: Path) -> None:
    """lower() in PostgreSQL does not know every alphabet: the door would find a coupon that the decision does not."""
    await db.execute("UPDATE coupons SET code = 'STRAßE10'")
    async with edge(dsn, tmp_path) as shop:
        assert "recorded" == (await shop.post(sale(None, coupon="strasse10"))).status
    assert ("coupon", 17) == tuple(await db.fetchrow("SELECT credit, partner_id FROM conversion_state"))


async def test_credit_by_coupon_from_id_and_to_nobody(dsn: str, db: Any, tmp_path: Path) -> None:
    unspooled = (int.from_bytes(click_id(), "big") | 1 << 82).to_bytes(16, "big")
    async with edge(dsn, tmp_path) as shop:
        for txid, click, fields in (("coupon", None, {"coupon": "bert10"}), ("id", unspooled, {}), ("nobody", None, {})):
            assert "recorded" == (await shop.post(sale(click, txid=txid, **fields))).status
    credits_ = {row["txid"]: tuple(row)[1:] for row in await db.fetch(
        "SELECT txid, credit, credit_reason, partner_id, commission_owed::int FROM conversion_state")}
    assert {"coupon": ("coupon", None, 17, 5), "id": ("id", None, 13, 5), "nobody": ("none", "no_click", None, 0)} == credits_


FACTS = Facts(
    programs={PROGRAM: ProgramFacts(
        program_id=PROGRAM, terms=[ProgramTerms(0)], enrolments={13: [Standing(0, True)]},
        commissions=[CommissionTerm(valid_from_ms=0, kind="percent", rate=Decimal(10))],
    )},
    links={LINK: LinkOwner(PROGRAM, 13)},
)


@settings(max_examples=12, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(data=st.data())
async def test_any_order_split_over_three_edges_ends_as_the_pure_core_says(
    dsn: str, db: Any, tmp_path: Path, data: st.DataObject
) -> None:
    """The same as tests/property/test_order.py, with claims, commits and three journals in between."""
    click = await land(db)
    clicked = int.from_bytes(click[:6], "big") >> 3
    agreeing = st.builds(
        lambda txid, priced, clicked_, status, ts: sale(
            click if clicked_ else None, txid=f"{click.hex()}{txid}", amount=Decimal(20) if priced else None,
            currency="EUR" if priced else None, status=status, ts_ms=ts),
        st.sampled_from("ab"), st.booleans(), st.booleans(), st.none() | st.sampled_from(Status),
        st.sampled_from([None, clicked + 1, clicked + 2, clicked + 40 * DAY_MS]),
    )
    said = data.draw(st.lists(agreeing, min_size=1, max_size=8))
    arrived = data.draw(st.permutations(said + data.draw(st.lists(st.sampled_from(said), max_size=8))))
    expected: dict[bytes, Conversion] = {}
    for message in said:
        key = key_of(message, several_per_key=False)
        facts = replace(FACTS, clicks=frozenset({click}))
        expected[key.conversion_id] = fold(expected.get(key.conversion_id), message, key, facts).after
    ways = data.draw(st.tuples(*[st.integers(0, 2)] * len(arrived)))      # all drawn before any is sent: a draw may end the example
    async with AsyncExitStack() as stack:
        edges = [await stack.enter_async_context(edge(dsn, tmp_path)) for _ in range(3)]
        await asyncio.gather(*(edges[way].post(message) for way, message in zip(ways, arrived, strict=True)))
    for conversion_id, conversion in expected.items():
        row = await db.fetchrow("SELECT * FROM conversion_state WHERE conversion_id = $1", UUID(bytes=conversion_id))
        assert (conversion.status.word, conversion.amount, conversion.credit.kind, conversion.credit.partner_id) == (
            row["status"], row["amount"], row["credit"], row["partner_id"])
        entries = await db.fetch("SELECT amount FROM ledger WHERE conversion_id = $1", row["conversion_id"])
        assert conversion.owed.amount == sum(entry["amount"] for entry in entries) == row["commission_owed"]
    await assert_money_adds_up(db)
