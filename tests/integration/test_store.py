"""Programs, partners, links, coupons and credentials in real PostgreSQL."""

import asyncio
import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from store_fixtures import LINK, pool, shop, store

from tracker.domain.mistakes import Conflict, Invalid, NotFound
from tracker.storage.entities.store import Store

__all__ = ["pool", "shop", "store"]


def commissions(row: dict[str, Any]) -> set[tuple[str | None, str]]:
    return {(one["event"], one["commission"]) for one in row["commissions"]}


async def test_a_program_has_terms_from_the_beginning(store: Store) -> None:
    """A click of an edge whose clock is a second behind must not find a program without terms."""
    saved = await store.programs.create({"slug": "shop", "currency": "eur", "commission": "10%", "window_days": 45})
    row = saved.row
    assert ("shop", "EUR", "token", 45, "approved") == (
        row["name"], row["currency"], row["auth_mode"], row["window_days"], row["default_status"],
    )  # fmt: skip
    assert [(None, 45)] == [(term["valid_from"], term["window_days"]) for term in row["terms"]]
    assert [{"program": "shop", "partner": None, "event": None, "commission": "10%", "valid_from": None}] == row[
        "commissions"
    ]
    assert ("no postback is accepted until the program has a credential of kind token",) == saved.warnings


async def test_changed_terms_are_new_rows_and_old_ones_stay(shop: Store, pool: Any) -> None:
    """What a click earned is judged by the terms of its time: a change must never reach back."""
    before = datetime.now(UTC)
    saved = await shop.programs.edit("shop", {"window_days": 7, "commission": "5.00 EUR", "event": "Lead"})
    assert [30, 7] == [term["window_days"] for term in saved.row["terms"]]
    assert saved.row["terms"][1]["valid_from"] > before - timedelta(seconds=1)
    assert {(None, "10%"), ("lead", "5.00 EUR")} == commissions(saved.row)
    dated = {one["event"]: one["valid_from"] for one in saved.row["commissions"]}
    assert dated[None] is None
    assert dated["lead"] > before - timedelta(seconds=1)
    await shop.programs.edit("shop", {"commission": "none"})
    assert 3 == await pool.fetchval("SELECT count(*) FROM commission_terms")
    assert {("lead", "5.00 EUR")} == commissions(await shop.programs.show("shop"))


async def test_a_change_of_nothing_writes_nothing(shop: Store, pool: Any) -> None:
    await shop.links.create({**LINK, "slug": "one"})
    before = await pool.fetchrow("SELECT p.xid::text, l.xid::text, l.version FROM programs AS p, links AS l")
    await shop.programs.edit("shop", {"name": "shop", "window_days": 30})
    await shop.links.edit("one", {"status": "active"})
    assert before == await pool.fetchrow("SELECT p.xid::text, l.xid::text, l.version FROM programs AS p, links AS l")
    assert 1 == await pool.fetchval("SELECT count(*) FROM program_terms")


async def test_all_mistakes_are_told_at_once(store: Store) -> None:
    given = {"slug": "a b", "window_days": 0, "auth_mode": "none", "commission": 10, "colour": 1}
    with pytest.raises(Invalid) as caught:
        await store.programs.create(given)
    assert ["auth_mode", "colour?", "commission", "currency", "slug", "window_days"] == sorted(
        mistake.field or "colour?" for mistake in caught.value.mistakes
    )
    assert "colour" not in str(caught.value).replace("colour?", "")


async def test_open_and_ip_programs_are_warned_of(store: Store) -> None:
    opened = await store.programs.create({"slug": "a", "currency": "EUR", "auth_mode": "open", "commission": "1%"})
    assert any("whoever has a click id" in told for told in opened.warnings)
    by_ip = await store.programs.create({"slug": "b", "currency": "EUR", "auth_mode": "ip", "commission": "1%"})
    assert any("nobody can send" in told for told in by_ip.warnings)
    wide = await store.programs.edit("b", {"ip_allow": ["0.0.0.0/0", "2001:db8::/32"]})
    assert any("whole Internet" in told for told in wide.warnings)
    assert ["0.0.0.0/0", "2001:db8::/32"] == [str(network) for network in wide.row["ip_allow"]]


async def test_slugs_are_taken_once_also_when_two_ask_at_the_same_time(shop: Store) -> None:
    for create, given in (
        (shop.programs.create, {"slug": "shop", "currency": "EUR"}),
        (shop.partners.create, {"slug": "anna"}),
    ):
        with pytest.raises(Conflict):
            await create(given)
    answers = await asyncio.gather(
        *(shop.links.create({**LINK, "slug": "wanted"}) for _ in range(8)), return_exceptions=True
    )
    assert 1 == sum(not isinstance(answer, BaseException) for answer in answers)
    assert 7 == sum(isinstance(answer, Conflict) for answer in answers)


async def test_a_link_is_given_a_slug_a_random_number_and_its_partner_is_enrolled(shop: Store, pool: Any) -> None:
    saved = await shop.links.create(LINK)
    assert 8 == len(saved.row["slug"])
    assert 1 <= saved.row["link_id"] < 1 << 30
    assert ("the partner was not in this program and is now",) == saved.warnings
    assert () == (await shop.links.create(LINK)).warnings
    enrolled = (await shop.partners.show("anna"))["enrolments"]
    assert [("shop", "active", None)] == [(one["program"], one["status"], one["valid_from"]) for one in enrolled]
    assert 2 == await pool.fetchval("SELECT count(*) FROM link_versions")


async def test_a_bad_template_is_refused_with_its_position(shop: Store, pool: Any) -> None:
    with pytest.raises(Invalid) as caught:
        await shop.links.create({**LINK, "destination": "https://{sub1}.example/", "fallback": "ftp://x/"})
    assert [("destination", 8), ("fallback", 0)] == [(one.field, one.position) for one in caught.value.mistakes]
    assert 0 == await pool.fetchval("SELECT count(*) FROM links")
    row = (await shop.links.create(LINK)).row
    with pytest.raises(Invalid):
        await shop.links.edit(row["slug"], {"destination": "https://shop.example/{nothing}"})
    assert 1 == (await shop.links.show(row["slug"]))["version"]


async def test_every_change_of_a_link_is_a_version(shop: Store) -> None:
    """Old clicks hold a version number: what the link was then must stay readable."""
    slug = (await shop.links.create({**LINK, "slug": "one"})).row["slug"]
    expires = datetime(2030, 1, 1, tzinfo=UTC)
    await shop.links.edit(slug, {"channel": "newsletter", "expires_at": "2030-01-01T00:00:00Z"})
    await shop.links.edit(slug, {"status": "archived", "expires_at": None})
    shown = await shop.links.show(slug)
    assert (3, "archived", None) == (shown["version"], shown["status"], shown["expires_at"])
    assert [(3, "archived", None), (2, "active", expires), (1, "active", None)] == [
        (one["version"], one["status"], one["expires_at"]) for one in shown["versions"]
    ]


async def test_changes_of_one_link_at_the_same_time_are_all_kept(shop: Store) -> None:
    await shop.links.create({**LINK, "slug": "one"})
    changes: dict[str, Any] = {
        "channel": "facebook", "pass_query": True, "referrer_policy": "full", "allow_test": True, "status": "paused",
        "fallback": "https://shop.example/", "expires_at": datetime(2030, 1, 1, tzinfo=UTC),
    }  # fmt: skip
    await asyncio.gather(*(shop.links.edit("one", {name: value}) for name, value in changes.items()))
    shown = await shop.links.show("one")
    assert changes == {name: shown[name] for name in changes}
    assert list(range(8, 0, -1)) == [one["version"] for one in shown["versions"]]


@pytest.mark.parametrize("field", ["program", "partner", "slug"])
async def test_a_link_is_of_one_program_and_partner_for_ever(shop: Store, field: str) -> None:
    """Every click id holds the link's number: what it leads to must not change hands."""
    await shop.links.create({**LINK, "slug": "one"})
    with pytest.raises(Invalid, match="cannot be changed"):
        await shop.links.edit("one", {field: "another"})


async def test_unknown_programs_and_partners_are_named(shop: Store) -> None:
    with pytest.raises(Invalid) as caught:
        await shop.links.create({**LINK, "program": "no", "partner": "nobody"})
    assert ["program", "partner"] == [one.field for one in caught.value.mistakes]
    for call in (shop.programs.show, shop.partners.show, shop.links.show):
        with pytest.raises(NotFound):
            await call("missing")


async def test_a_partner_is_blocked_rated_and_leaves_from_now_on(shop: Store, pool: Any) -> None:
    await shop.links.create(LINK)
    saved = await shop.partners.edit("anna", {"program": "shop", "commission": "15%", "status": "blocked"})
    assert "blocked" == saved.row["status"]
    assert [("shop", "anna", "15%")] == [
        (one["program"], one["partner"], one["commission"]) for one in saved.row["commissions"]
    ]
    ended = await shop.partners.edit("anna", {"program": "shop", "enrolment": "ended"})
    assert ["ended"] == [one["status"] for one in ended.row["enrolments"]]
    again = await shop.links.create(LINK)
    assert "the partner is in this program again" in again.warnings
    assert any("is blocked" in told for told in again.warnings)
    assert ["active", "ended", "active"] == [
        row["status"] for row in await pool.fetch("SELECT status FROM enrolments ORDER BY valid_from")
    ]


async def test_a_coupon_code_is_one_a_program_whatever_its_case(shop: Store) -> None:
    """A customer types any case: two codes that differ in it only would credit whoever comes first."""
    await shop.programs.create({"slug": "other", "currency": "EUR"})
    saved = await shop.coupons.create({"program": "shop", "partner": "anna", "code": " Müller10 "})
    assert "Müller10" == saved.row["code"]
    for code in ("MÜLLER10", "mu\u0308ller10"):
        with pytest.raises(Conflict):
            await shop.coupons.create({"program": "shop", "partner": "anna", "code": code})
    await shop.coupons.create({"program": "other", "partner": "anna", "code": "MÜLLER10"})
    number = await shop.coupons.find("shop", "müller10")
    assert saved.row["coupon_id"] == number
    with pytest.raises(Invalid):
        await shop.coupons.edit(number, {"valid_to": "2000-01-01T00:00:00Z"})
    ended = await shop.coupons.edit(number, {"valid_to": "2099-01-01T00:00:00+02:00"})
    assert datetime(2098, 12, 31, 22, tzinfo=UTC) == ended.row["valid_to"]
    with pytest.raises(NotFound):
        await shop.coupons.find("shop", "other")


async def test_the_same_coupon_asked_for_at_the_same_time_is_made_once(shop: Store) -> None:
    given = {"program": "shop", "partner": "anna", "code": "straße"}
    answers = await asyncio.gather(
        *(shop.coupons.create({**given, "code": code}) for code in ("straße", "STRASSE", "Straße", "strasse")),
        return_exceptions=True,
    )
    assert 1 == sum(not isinstance(answer, BaseException) for answer in answers)
    assert 3 == sum(isinstance(answer, Conflict) for answer in answers)


@pytest.mark.parametrize(
    ("first", "then"), [("STRASSE", "straße"), ("straße", "STRASSE"), ("KELVIN", "\u212aelvin"), ("Invite", "INVITE")]
)
async def test_a_coupon_spelt_otherwise_is_the_same_whichever_came_first(shop: Store, first: str, then: str) -> None:
    saved = await shop.coupons.create({"program": "shop", "partner": "anna", "code": first})
    with pytest.raises(Conflict):
        await shop.coupons.create({"program": "shop", "partner": "anna", "code": then})
    assert saved.row["coupon_id"] == await shop.coupons.find("shop", then)


async def test_a_token_is_kept_as_its_hash_alone_and_can_be_revoked(shop: Store, pool: Any) -> None:
    await shop.programs.create({"slug": "other", "currency": "EUR"})
    issued = await shop.credentials.issue(["shop", "other"], label="network")
    kept = await pool.fetchval("SELECT token_hash FROM credentials")
    assert hashlib.sha256(issued["token"].encode()).digest() == kept
    shown = (await shop.programs.show("other"))["credentials"]
    assert [(issued["credential_id"], "network", None)] == [
        (one["credential_id"], one["label"], one["revoked_at"]) for one in shown
    ]
    revoked = await shop.credentials.revoke("shop", issued["credential_id"])
    again = await shop.credentials.revoke("shop", issued["credential_id"])
    assert revoked["revoked_at"] == again["revoked_at"]
    with pytest.raises(NotFound):
        await shop.credentials.revoke("shop", 1)
    with pytest.raises(NotFound):
        await shop.credentials.issue(["shop", "missing"])


async def test_hmac_secrets_come_in_clear_and_are_limited(shop: Store, pool: Any) -> None:
    issued = await shop.credentials.issue(["shop"], kind="hmac")
    assert bytes.fromhex(issued["hmac_secret"]) == await pool.fetchval("SELECT hmac_secret FROM credentials")
    for _ in range(9):
        await shop.credentials.issue(["shop"], kind="hmac")
    with pytest.raises(Conflict):
        await shop.credentials.issue(["shop"], kind="hmac")


async def test_lists_go_on_behind_a_key_and_give_every_row_once(shop: Store) -> None:
    for n in range(7):
        await shop.links.create({**LINK, "slug": f"L{n}"})
        await shop.coupons.create({"program": "shop", "partner": "anna", "code": f"C{n}"})
    seen: list[str] = []
    after: str | None = None
    while True:
        page = await shop.links.list(program="shop", limit=3, after=after)
        seen += [row["slug"] for row in page.rows]
        if (after := page.after) is None:
            break
    assert sorted(seen) == sorted(f"L{n}" for n in range(7))
    first = await shop.coupons.list(limit=4)
    rest = await shop.coupons.list(limit=4, after=int(first.after or 0))
    assert {f"C{n}" for n in range(7)} == {row["code"] for row in first.rows + rest.rows}
    assert [] == (await shop.links.list(partner="nobody")).rows
