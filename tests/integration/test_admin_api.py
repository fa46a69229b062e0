"""The admin API over a real socket, against real PostgreSQL."""

import asyncio
import gzip
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import pytest
from aiohttp import web

from tracker.domain.postback import Status
from tracker.storage.entities.store import Store
from tracker.storage.postgres import create_pool
from tracker.web import admin_body
from tracker.web.admin import AdminApi

TOKEN = "an admin token of 128 bits".replace(" ", "-")


class Api:
    """A client of the API: every answer is (status, body)."""

    def __init__(self, session: aiohttp.ClientSession, port: int) -> None:
        self.session = session
        self.port = port
        self.base = f"http://127.0.0.1:{port}/v1"
        self.decided: list[tuple[UUID, Status, str]] = []

    async def __call__(self, method: str, path: str, body: Any = None, **more: Any) -> tuple[int, Any]:
        more.setdefault("headers", {"Authorization": f"Bearer {TOKEN}"})
        if body is not None:
            more["json"] = body
        async with self.session.request(method, self.base + path, **more) as response:
            if response.status >= 400:
                assert "application/problem+json" == response.content_type
            return response.status, await response.json(content_type=None)


@pytest.fixture
async def pool(dsn: str) -> AsyncIterator[Any]:
    made = await create_pool(dsn, max_size=4)
    yield made
    await made.close()


@pytest.fixture
async def api(pool: Any) -> AsyncIterator[Api]:
    async def decide(number: UUID, status: Status, reason: str) -> object | None:
        client.decided.append((number, status, reason))
        done: object | None = await pool.fetchval(
            "UPDATE conversion_state SET admin_status = $2, status = $2 WHERE conversion_id = $1 RETURNING true",
            number, status.word,
        )  # fmt: skip
        return done

    app = web.Application()
    app.add_subapp("/v1", AdminApi(Store(pool), admin_token=TOKEN, decide=decide).application())
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    async with aiohttp.ClientSession() as session:
        client = Api(session, port)
        yield client
    await runner.cleanup()


@pytest.fixture
async def shop(api: Api) -> Api:
    await api("POST", "/programs", {"slug": "shop", "currency": "EUR", "commission": "10%"})
    await api("POST", "/partners", {"slug": "anna"})
    return api


LINK = {"program": "shop", "partner": "anna", "destination": "https://shop.example/?cid={click_id}"}


async def test_all_of_a_first_sale_can_be_set_up(api: Api) -> None:
    status, program = await api("POST", "/programs", {"slug": "shop", "currency": "EUR", "commission": "5.00 EUR"})
    assert (201, "shop") == (status, program["slug"])
    assert program["created_at"].endswith("Z")
    assert "5.00 EUR" == program["commissions"][0]["commission"]
    assert program["warnings"]
    assert 201 == (await api("POST", "/partners", {"slug": "anna", "name": "Anna"}))[0]
    status, link = await api("POST", "/links", LINK)
    assert (201, 1, "active") == (status, link["version"], link["status"])
    status, token = await api("POST", "/programs/shop/tokens", {"label": "network"})
    assert (201, 40, ["shop"]) == (status, len(token["token"]), token["programs"])
    assert 201 == (await api("POST", "/programs/shop/tokens"))[0]
    _, shown = await api("GET", "/programs/shop")
    assert "token" not in shown["credentials"][0]
    assert ["network", ""] == [one["label"] for one in shown["credentials"]]
    status, coupon = await api("POST", "/coupons", {"program": "shop", "partner": "anna", "code": "SUMMER"})
    assert 201 == status
    status, edited = await api("PATCH", f"/coupons/{coupon['coupon_id']}", {"valid_to": "2099-01-01T00:00:00Z"})
    assert (200, "2099-01-01T00:00:00Z") == (status, edited["valid_to"])
    assert "SUMMER" == (await api("GET", f"/coupons/{coupon['coupon_id']}"))[1]["code"]
    assert ["SUMMER"] == [one["code"] for one in (await api("GET", "/coupons?program=shop"))[1]["items"]]


async def test_changes_are_patches_of_the_fields_given(shop: Api) -> None:
    _, link = await shop("POST", "/links", {**LINK, "slug": "one", "channel": "facebook"})
    status, edited = await shop("PATCH", "/links/one", {"channel": None, "status": "paused"})
    assert (200, 2, None, "paused") == (status, edited["version"], edited["channel"], edited["status"])
    assert link["destination"] == edited["destination"]
    status, program = await shop("PATCH", "/programs/shop", {"auth_mode": "open", "several_per_key": True})
    assert (200, "open", True) == (status, program["auth_mode"], program["several_per_key"])
    assert any("whoever" in told for told in program["warnings"])
    status, partner = await shop("PATCH", "/partners/anna", {"program": "shop", "commission": "12.5%"})
    assert (200, "12.5%") == (status, partner["commissions"][0]["commission"])
    assert 200 == (await shop("DELETE", f"/programs/shop/credentials/{(await issue(shop))['credential_id']}"))[0]


async def issue(api: Api) -> Any:
    return (await api("POST", "/programs/shop/hmac"))[1]


@pytest.mark.parametrize(
    "header", [None, "Bearer", "Bearer x", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x", "Bearer \xff"]
)
@pytest.mark.parametrize("path", ["/programs", "/nothing"])
async def test_without_the_token_nothing_is_told(api: Api, header: str | None, path: str) -> None:
    headers = {} if header is None else {"Authorization": header}
    status, body = await api("GET", path, headers=headers)
    assert (401, "unauthorized") == (status, body["code"])


async def test_all_mistakes_come_back_with_their_fields_and_without_an_echo(shop: Api) -> None:
    """Answers end in logs and pages: what was sent must not come back in them."""
    evil = "<script>evil"
    status, body = await shop("POST", "/links", {**LINK, "slug": evil, "status": evil, evil: evil, "expires_at": evil})
    assert (400, "invalid") == (status, body["code"])
    assert ["", "expires_at", "slug", "status"] == sorted(one["field"] for one in body["fields"])
    assert "evil" not in str(body)
    status, body = await shop("POST", "/links", {**LINK, "destination": "https://{sub1}.example/"})
    assert [("destination", 8)] == [(one["field"], one["position"]) for one in body["fields"]]


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("GET", "/programs/missing", None, (404, "not_found")),
        ("GET", "/links/%00", None, (404, "not_found")),
        ("GET", "/links/%ff%fe", None, (404, "not_found")),
        ("GET", "/links/" + "x" * 3000, None, (404, "not_found")),
        ("PATCH", "/links/missing", {}, (404, "not_found")),
        ("GET", "/coupons/abc", None, (404, "not_found")),
        ("GET", "/coupons/0", None, (400, "invalid")),
        ("GET", "/coupons/12", None, (404, "not_found")),
        ("GET", "/coupons?after=x", None, (400, "invalid")),
        ("GET", "/nothing", None, (404, "not_found")),
        ("PUT", "/programs", {}, (405, "method_not_allowed")),
        ("DELETE", "/programs/shop", None, (405, "method_not_allowed")),
        ("POST", "/programs", {"slug": "shop", "currency": "EUR"}, (409, "conflict")),
        ("POST", "/programs", [], (400, "bad_request")),
        ("POST", "/programs", {"slug": "x", "currency": "XXX"}, (400, "invalid")),
        ("POST", "/programs", {"slug": "x", "currency": "EUR", "commission": 10.5}, (400, "invalid")),
        ("POST", "/links", {**LINK, "program": "missing"}, (400, "invalid")),
        ("PATCH", "/links/one", {"partner": "other"}, (400, "invalid")),
        ("GET", "/programs?limit=0", None, (400, "invalid")),
        ("GET", "/programs?limit=1001", None, (400, "invalid")),
        ("GET", "/programs?limit=²", None, (400, "invalid")),
        ("GET", "/programs?colour=red", None, (400, "invalid")),
        ("GET", "/links?program=a&program=b", None, (400, "invalid")),
        ("GET", "/links?program=%00", None, (400, "invalid")),
        ("GET", "/links?program=%ff", None, (200, None)),
        ("GET", "/clicks", None, (400, "invalid")),
        ("GET", "/clicks?id=forged", None, (400, "invalid")),
        ("GET", "/clicks?id=" + "0" * 32, None, (404, "not_found")),
        ("GET", "/clicks?from=2026-01-01T00:00:00Z&to=2026-01-02T00:00:01Z", None, (400, "invalid")),
        ("GET", "/clicks?from=2026-01-01T00:00:00Z&to=2026-01-02T00:00:00Z", None, (200, None)),
        ("GET", "/clicks?from=yesterday&to=today", None, (400, "invalid")),
        ("GET", "/clicks?from=0001-01-01T00:00:00Z&to=0001-01-02T00:00:00Z", None, (400, "invalid")),
        ("GET", "/conversions/1", None, (400, "invalid")),
        ("GET", f"/conversions/{UUID(int=1)}", None, (404, "not_found")),
        ("GET", "/conversions?after=x~y", None, (400, "invalid")),
        ("GET", "/postbacks?conversion_id=x", None, (400, "invalid")),
        ("POST", f"/conversions/{UUID(int=1)}/decision", {"status": "approved"}, (400, "invalid")),
        ("POST", f"/conversions/{UUID(int=1)}/decision", {"status": "approved", "reason": "ok"}, (404, "not_found")),
    ],
)  # fmt: skip
async def test_every_wrong_request_gets_its_own_answer(
    shop: Api, method: str, path: str, body: Any, expected: tuple[int, str | None]
) -> None:
    status, answer = await shop(method, path, body)
    assert expected == (status, answer.get("code"))


async def test_bodies_are_json_and_bounded(api: Api) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    assert 413 == (await api("POST", "/programs", data=b" " * 70_000, headers=headers))[0]

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 1000

    assert 413 == (await api("POST", "/programs", data=chunks(), headers=headers))[0]
    for broken in (b"{", b"\xff", b"[" * 5000, b'{"slug": "\xed\xa0\x80"}', b""):
        assert 400 == (await api("POST", "/programs", data=broken, headers=headers))[0]
    lone = b'{"slug": "x", "currency": "EUR", "name": "\\ud800"}'
    assert 400 == (await api("POST", "/programs", data=lone, headers=headers))[0]
    assert 415 == (await api("POST", "/programs", data=b"slug=x", headers={**headers, "Content-Type": "text/plain"}))[0]


async def test_a_body_that_never_ends_is_given_up(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_body, "BODY_SECONDS", 0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    try:
        writer.write(
            f"POST /v1/programs HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n"
            "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n".encode()
        )
        assert b"HTTP/1.1 100 Continue\r\n\r\n" == await reader.readuntil(b"\r\n\r\n")      # the API waits for the body
        writer.write(b"2\r\n{}\r\nno chunk\r\n")
        assert b"408" == (await reader.readline()).split()[1]
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "identity"])
async def test_an_encoded_body_is_not_read(api: Api, encoding: str) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json", "Content-Encoding": encoding}
    status, told = await api("POST", "/programs", data=gzip.compress(b"{}"), headers=headers)
    assert (415, "unsupported_type") == (status, told["code"])


@pytest.mark.parametrize("path", ["/conversions", "/postbacks"])
@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00%2B23:59", "9999-12-31T23:59:59-23:59", "2027-01-31T12:00:00", "soon"])
async def test_a_page_begins_behind_a_key_of_ours(api: Api, path: str, moment: str) -> None:
    status, told = await api("GET", f"{path}?after={moment}~{uuid4()}")
    assert (400, "after") == (status, told["fields"][0]["field"])


async def test_clicks_are_read_by_id_and_by_span(shop: Api, pool: Any) -> None:
    await shop("POST", "/links", {**LINK, "slug": "one"})
    now = datetime.now(UTC)
    number = UUID(int=int(now.timestamp() * 1000) << 83)
    await pool.execute(
        "INSERT INTO clicks (click_id, link_id, link_version, program_id, partner_id, flags, visitor, ip) "
        "SELECT $1, link_id, 1, program_id, partner_id, 0, 255, '2001:db8::/48' FROM links",
        number,
    )
    _, by_id = await shop("GET", f"/clicks?id={number}")
    span = f"from={now - timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}&to={now + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}"
    _, by_span = await shop("GET", f"/clicks?{span}&link=one")
    assert by_id["items"] == by_span["items"]
    assert ("one", "shop", "anna", "00000000000000ff", "2001:db8::/48") == tuple(
        by_id["items"][0][name] for name in ("link", "program", "partner", "visitor", "ip")
    )


async def test_a_decision_is_handed_on_and_the_conversion_comes_back(shop: Api, pool: Any) -> None:
    number = uuid4()
    await pool.execute(
        "INSERT INTO conversion_state (conversion_id, program_id, event, status, amount, currency) "
        "SELECT $1, program_id, 'sale', 'pending', 12.50, 'EUR' FROM programs",
        number,
    )
    status, row = await shop("POST", f"/conversions/{number}/decision", {"status": "approved", "reason": "called them"})
    assert (200, "approved") == (status, row["status"])
    assert [(number, Status.APPROVED, "called them")] == shop.decided
    assert Decimal("12.5") == Decimal(row["amount"])
    assert isinstance(row["amount"], str)   # money is never a float, JSON's included
    _, listed = await shop("GET", "/conversions?program=shop&status=approved")
    assert [str(number)] == [one["conversion_id"] for one in listed["items"]]
    assert {"items": [], "after": None} == (await shop("GET", "/postbacks"))[1]


async def test_lists_page_by_key(shop: Api) -> None:
    await asyncio.gather(*(shop("POST", "/links", {**LINK, "slug": f"L{n}"}) for n in range(5)))
    _, first = await shop("GET", "/links?limit=3")
    _, rest = await shop("GET", f"/links?limit=3&after={first['after']}")
    assert [f"L{n}" for n in range(5)] == [one["slug"] for one in first["items"] + rest["items"]]
    assert rest["after"] is None


async def test_a_database_that_is_away_is_503_with_retry_after(api: Api, pool: Any) -> None:
    pool.terminate()
    async with api.session.get(f"{api.base}/programs", headers={"Authorization": f"Bearer {TOKEN}"}) as response:
        assert (503, "5") == (response.status, response.headers["Retry-After"])
        assert "unavailable" == (await response.json(content_type=None))["code"]
