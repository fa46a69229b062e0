"""The admin API, /v1: programs, partners, links, coupons, credentials, endpoints; clicks, conversions, postbacks, outbox;
decisions.

For the admin port alone. Whoever has the admin token may do everything here. The rules are the store's and the
domain's; this file only says which path is which call.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any, Protocol
from uuid import UUID

from aiohttp import web

from tracker.domain.fields import CREDENTIAL, DECISION
from tracker.domain.mistakes import FieldMistake, Invalid, NotFound
from tracker.domain.postback import STATUS_BY_WORD, Status
from tracker.domain.program import CredentialKind
from tracker.storage.entities.records import parse_uuid
from tracker.storage.entities.store import Store
from tracker.storage.entities.table import Page, Row, Saved
from tracker.web.admin_body import (
    answer,
    answer_page,
    answer_saved,
    read_body,
    read_limit,
    read_moment,
    read_number,
    read_query,
)
from tracker.web.errors import BadRequest, Handler, problems

Decide = Callable[[UUID, Status, str], Awaitable[object | None]]
"""Decides about a conversion, with a reason; None when there is no such conversion."""


class Slugged(Protocol):
    """A kind named by slug: programs, partners, links."""

    async def create(self, given: Row) -> Saved: ...
    async def edit(self, slug: str, given: Row) -> Saved: ...
    async def show(self, slug: str) -> Row: ...


class AdminApi:
    """Mount it: `app.add_subapp("/v1", AdminApi(store, admin_token=…, decide=…).application())`."""

    def __init__(self, store: Store, *, admin_token: str, decide: Decide) -> None:
        self._store = store
        self._token = admin_token.encode()
        self._decide = decide

    def use_token(self, admin_token: str) -> None:
        """From now on this is the token, and the one before is nobody's."""
        self._token = admin_token.encode()

    def application(self) -> web.Application:
        app = web.Application(middlewares=[problems, self._authenticated])
        store = self._store
        for kind, table, lists in (
            ("programs", store.programs, self._list_programs),
            ("partners", store.partners, self._list_partners),
            ("links", store.links, self._list_links),
        ):
            app.router.add_post(f"/{kind}", partial(_create, table))
            app.router.add_get(f"/{kind}", lists)
            app.router.add_get(f"/{kind}/{{slug}}", partial(_show, table))
            app.router.add_patch(f"/{kind}/{{slug}}", partial(_edit, table))
        app.add_routes([
            web.post("/coupons", self._create_coupon),
            web.get("/coupons", self._list_coupons),
            web.get("/coupons/{number}", self._show_coupon),
            web.patch("/coupons/{number}", self._edit_coupon),
            web.post("/programs/{slug}/tokens", partial(self._issue, "token")),
            web.post("/programs/{slug}/hmac", partial(self._issue, "hmac")),
            web.delete("/programs/{slug}/credentials/{number}", self._revoke),
            web.post("/partners/{slug}/postbacks", self._create_endpoint),
            web.get("/partners/{slug}/postbacks", self._list_endpoints),
            web.get("/partners/{slug}/postbacks/{number}", self._show_endpoint),
            web.patch("/partners/{slug}/postbacks/{number}", self._edit_endpoint),
            web.get("/outbox", self._outbox),
            web.post("/outbox/retry", self._retry_outbox),
            web.get("/clicks", self._clicks),
            web.get("/conversions", self._conversions),
            web.get("/conversions/{id}", self._conversion),
            web.post("/conversions/{id}/decision", self._decision),
            web.get("/postbacks", self._postbacks),
        ])  # fmt: skip
        return app

    @property
    def _authenticated(self) -> Any:
        @web.middleware
        async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
            """Before anything else, unknown paths included: who is not let in learns nothing."""
            scheme, _, token = request.headers.get("Authorization", "").partition(" ")
            given = token.strip().encode("utf-8", "surrogateescape")
            if not hmac.compare_digest(given, self._token) or scheme.lower() != "bearer":
                raise BadRequest(401)
            return await handler(request)

        return check

    async def _list_programs(self, request: web.Request) -> web.Response:
        query = read_query(request)
        return answer_page(await self._store.programs.list(limit=read_limit(query), after=query.get("after")))

    async def _list_partners(self, request: web.Request) -> web.Response:
        query = read_query(request)
        return answer_page(await self._store.partners.list(limit=read_limit(query), after=query.get("after")))

    async def _list_links(self, request: web.Request) -> web.Response:
        names = ("program", "partner", "status")
        return await _listed(self._store.links.list, read_query(request, *names), names)

    async def _create_coupon(self, request: web.Request) -> web.Response:
        return answer_saved(await self._store.coupons.create(await read_body(request)), 201)

    async def _list_coupons(self, request: web.Request) -> web.Response:
        query = read_query(request, "program", "partner")
        after = read_number(query.get("after"), "after")
        who = {name: query.get(name) for name in ("program", "partner")}
        return answer_page(await self._store.coupons.list(**who, limit=read_limit(query), after=after))

    async def _show_coupon(self, request: web.Request) -> web.Response:
        return answer(await self._store.coupons.show(_number(request, "coupon")))

    async def _edit_coupon(self, request: web.Request) -> web.Response:
        return answer_saved(await self._store.coupons.edit(_number(request, "coupon"), await read_body(request)))

    async def _issue(self, kind: CredentialKind, request: web.Request) -> web.Response:
        clean = CREDENTIAL.check_new(await read_body(request) if request.can_read_body else {})
        return answer(await self._store.credentials.issue([_slug(request)], kind=kind, **clean), 201)

    async def _revoke(self, request: web.Request) -> web.Response:
        return answer(await self._store.credentials.revoke(_slug(request), _number(request, "credential")))

    async def _create_endpoint(self, request: web.Request) -> web.Response:
        return answer_saved(await self._store.endpoints.create(_slug(request), await read_body(request)), 201)

    async def _list_endpoints(self, request: web.Request) -> web.Response:
        query = read_query(request)
        after = read_number(query.get("after"), "after")
        return answer_page(await self._store.endpoints.list(_slug(request), limit=read_limit(query), after=after))

    async def _show_endpoint(self, request: web.Request) -> web.Response:
        return answer(await self._store.endpoints.show(_slug(request), _number(request, "endpoint")))

    async def _edit_endpoint(self, request: web.Request) -> web.Response:
        number = _number(request, "endpoint")
        return answer_saved(await self._store.endpoints.edit(_slug(request), number, await read_body(request)))

    async def _outbox(self, request: web.Request) -> web.Response:
        names = ("partner", "state", "conversion_id")
        return await _listed(self._store.deliveries.list, read_query(request, *names), names)

    async def _retry_outbox(self, request: web.Request) -> web.Response:
        return answer(await self._store.deliveries.retry(await read_body(request) if request.can_read_body else {}))

    async def _clicks(self, request: web.Request) -> web.Response:
        query = read_query(request, "id", "from", "to", "link", "program", "partner")
        if "id" in query:
            return answer_page(Page([await self._store.records.click(query["id"])]))
        if "from" not in query or "to" not in query:
            raise Invalid(FieldMistake("id", "give an id, or a span of at most 24 hours: from and to"))
        read = partial(
            self._store.records.clicks, start=read_moment(query, "from"), end=read_moment(query, "to")
        )
        return await _listed(read, query, ("link", "program", "partner"))

    async def _conversions(self, request: web.Request) -> web.Response:
        names = ("program", "partner", "status", "txid")
        return await _listed(self._store.records.conversions, read_query(request, *names), names)

    async def _conversion(self, request: web.Request) -> web.Response:
        return answer(await self._store.records.conversion(request.match_info["id"]))

    async def _postbacks(self, request: web.Request) -> web.Response:
        names = ("program", "outcome", "conversion_id")
        return await _listed(self._store.records.postbacks, read_query(request, *names), names)

    async def _decision(self, request: web.Request) -> web.Response:
        number = parse_uuid(request.match_info["id"], "id")
        clean = DECISION.check_new(await read_body(request))
        if await self._decide(number, STATUS_BY_WORD[clean["status"]], clean["reason"]) is None:
            raise NotFound("conversion")
        return answer(await self._store.records.conversion(str(number)))


async def _create(table: Slugged, request: web.Request) -> web.Response:
    return answer_saved(await table.create(await read_body(request)), 201)


async def _show(table: Slugged, request: web.Request) -> web.Response:
    return answer(await table.show(_slug(request)))


async def _edit(table: Slugged, request: web.Request) -> web.Response:
    return answer_saved(await table.edit(_slug(request), await read_body(request)))


async def _listed(read: Callable[..., Awaitable[Page]], query: dict[str, str], names: Iterable[str]) -> web.Response:
    filters = {name: query[name] for name in names if name in query}
    return answer_page(await read(**filters, limit=read_limit(query), after=query.get("after")))


def _slug(request: web.Request) -> str:
    """A slug of the path; what cannot be one is as unknown as any other. PostgreSQL takes no NUL."""
    return request.match_info["slug"].replace("\0", "")[:100]


def _number(request: web.Request, kind: str) -> int:
    number = read_number(request.match_info["number"], "number") if request.match_info["number"].isdecimal() else None
    if number is None:
        raise NotFound(kind)
    return number
