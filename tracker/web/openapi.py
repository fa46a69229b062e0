"""What the HTTP interfaces are, for machines: two documents of OpenAPI 3.1, both on the admin port.

`/openapi.json` tells of the admin port, `/openapi-public.json` of the doors for conversions: two documents, since
`/v1/conversions` is one thing here and another there. No token is asked for: what is in them is public with the source.

What may be sent comes from the tables that check it (domain/fields.py, domain/postback_parameters.py), refusals' statuses
from the table that answers them. Answers are written down here; tests hold every one against the running program.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, get_args

import orjson
from aiohttp import web

from tracker import __version__
from tracker.domain.fields import COUPON, CREDENTIAL, DECISION, ENDPOINT, LINK, PARTNER, PROGRAM, RETRY, Fields
from tracker.domain.outgoing import OUTCOMES
from tracker.domain.postback_parameters import KNOWN, SECRET
from tracker.domain.program import CredentialKind
from tracker.domain.refusal import Reason
from tracker.storage.entities.deliveries import STATES
from tracker.storage.entities.records import FLAGS
from tracker.storage.entities.table import PAGE_LIMIT
from tracker.web.postback_answers import ANSWERS

Json = dict[str, Any]
Schemas = Mapping[str, Mapping[str, Any]]     # by the name of a parameter or member

TEXT: Final[Json] = {"type": "string"}
TIME: Final[Json] = {"type": "string", "format": "date-time"}
UUID: Final[Json] = {"type": "string", "format": "uuid"}
NUMBER: Final[Json] = {"type": "integer", "minimum": 1, "maximum": (1 << 30) - 1}
WHOLE: Final[Json] = {"type": "integer"}
MONEY: Final[Json] = {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]{1,6})?$"}     # a decimal, never a JSON number
ANY_OBJECT: Final[Json] = {"type": "object"}


def _or_null(schema: Mapping[str, Any]) -> Json:
    return {"anyOf": [schema, {"type": "null"}]}


def _or_empty(schema: Json) -> Json:
    """A query's parameter that is no text: `?limit=` counts as if it were not there."""
    return {"anyOf": [schema, {"type": "string", "maxLength": 0}]}


def _object(optional: Iterable[str] = (), **properties: Any) -> Json:
    """An object with exactly these members."""
    required = sorted(properties.keys() - set(optional))
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _list(of: Mapping[str, Any]) -> Json:
    return {"type": "array", "items": of}


def _page(of: Mapping[str, Any]) -> Json:
    return _object(items=_list(of), after=_or_null(TEXT))


def _new(fields: Fields) -> Json:
    """The body that makes one."""
    properties = {name: dict(check.schema) for name, check in fields.checks.items()}
    return _object(optional=properties.keys() - fields.required, **properties)


def _changes(fields: Fields) -> Json:
    """The body that changes one: any of the fields that may be."""
    properties = {name: dict(check.schema) for name, check in fields.checks.items() if name not in fields.fixed}
    return _object(optional=properties, **properties)


def _shown(fields: Fields, *names: str) -> Json:
    """Fields that are answered as they are kept."""
    return {name: dict(fields.checks[name].schema) for name in names}


_TERMS = _object(valid_from=_or_null(TIME), **_shown(PROGRAM, "window_days", "default_status"))
_COMMISSION = _object(program=TEXT, partner=_or_null(TEXT), event=_or_null(TEXT), commission=TEXT, valid_from=_or_null(TIME))
_CREDENTIAL = _object(
    credential_id=NUMBER, kind={"enum": list(get_args(CredentialKind))}, label=TEXT, created_at=TIME, revoked_at=_or_null(TIME)
)
_PROGRAM_LISTED = {
    "program_id": NUMBER,
    **_shown(PROGRAM, *(name for name in PROGRAM.checks if name not in ("commission", "event"))),
    "created_at": TIME,
}
_PROGRAM = {**_PROGRAM_LISTED, "terms": _list(_TERMS), "commissions": _list(_COMMISSION), "credentials": _list(_CREDENTIAL)}
_PARTNER_LISTED = {"partner_id": NUMBER, **_shown(PARTNER, "slug", "name", "status"), "created_at": TIME}
_PARTNER = {
    **_PARTNER_LISTED,
    "enrolments": _list(_object(program=TEXT, status=PARTNER.checks["enrolment"].schema, valid_from=_or_null(TIME))),
    "commissions": _list(_COMMISSION),
}
_LINK_TERMS = {"version": WHOLE, **_shown(LINK, *(name for name in LINK.checks if name not in LINK.fixed))}
_LINK = {"link_id": NUMBER, **_shown(LINK, "slug", "program", "partner"), **_LINK_TERMS, "created_at": TIME}
_VERSIONS = _list(_object(valid_from=TIME, **_LINK_TERMS))
_COUPON = {"coupon_id": NUMBER, **_shown(COUPON, *COUPON.checks), "created_at": TIME}
_ENDPOINT = {
    "endpoint_id": NUMBER, "partner": TEXT, **_shown(ENDPOINT, *(name for name in ENDPOINT.checks if name != "status")),
    "status": {"enum": ["active", "paused", "off"]}, "failures": WHOLE, "failing_since": _or_null(TIME), "created_at": TIME,
}  # fmt: skip
_CLICK = _object(
    click_id=UUID, at=TIME, visitor={"type": "string", "pattern": "^[0-9a-f]{16}$"}, link_id=NUMBER, link_version=WHOLE,
    program_id=NUMBER, partner_id=NUMBER, link=_or_null(TEXT), program=_or_null(TEXT), partner=_or_null(TEXT),
    flags=_list({"enum": list(FLAGS.values())}), ip=_or_null(TEXT), query=_or_null(ANY_OBJECT),
    **dict.fromkeys(
        ("channel", "country", "device", "os", "browser", "user_agent", "referrer", "ext", *(f"sub{n}" for n in range(1, 11))),
        _or_null(TEXT),
    ),
)  # fmt: skip
_STATUS = DECISION.checks["status"].schema
_CONVERSION = {
    "conversion_id": UUID, "program": _or_null(TEXT), "event": TEXT, "txid": _or_null(TEXT), "status": _or_null(_STATUS),
    "amount": _or_null(MONEY), "currency": _or_null(TEXT), "partner": _or_null(TEXT), "link": _or_null(TEXT),
    "click_id": _or_null(UUID), "credit": {"enum": ["click", "id", "coupon", "none", None]}, "credit_reason": _or_null(TEXT),
    "commission_owed": MONEY, "commission_currency": _or_null(TEXT), "admin_status": _or_null(_STATUS),
    "admin_reason": _or_null(TEXT), "test": {"type": "boolean"}, "sold_at": _or_null(TIME), "created_at": TIME, "updated_at": TIME,
}  # fmt: skip
_FIRST_MESSAGE = _object(
    message_id=UUID, event=TEXT, txid=_or_null(TEXT), click_id=_or_null(UUID), amount=_or_null(MONEY), currency=_or_null(TEXT),
    status=_or_null(_STATUS), customer=_or_null(TEXT), coupon=_or_null(TEXT), happened_at=_or_null(TIME), received_at=TIME,
    recorded_at=TIME,
)  # fmt: skip
_CONVERSION_WHOLE = _object(
    **_CONVERSION,
    first_message=_or_null(_FIRST_MESSAGE),
    history=_list(_object(entry=WHOLE, change=TEXT, detail=ANY_OBJECT, message_id=_or_null(UUID), at=TIME)),
    ledger=_list(_object(entry=WHOLE, partner=_or_null(TEXT), amount=MONEY, currency=TEXT, reason=TEXT, at=TIME)),
)
_POSTBACK = _object(
    message_id=UUID, received_at=TIME, outcome=TEXT, reason=_or_null(TEXT), program=_or_null(TEXT), conversion_id=_or_null(UUID),
    click_id=_or_null(UUID), message=ANY_OBJECT,
)  # fmt: skip
_DELIVERY = _object(
    message_id=TEXT, conversion_id=UUID, endpoint_id=NUMBER, partner=TEXT, program=TEXT, state={"enum": list(STATES)},
    attempts=WHOLE, last_reason=_or_null({"enum": [*OUTCOMES, "not_sent"]}), last_status=_or_null(WHOLE),
    tried_at=_or_null(TIME), due_at=_or_null(TIME), created_at=TIME, event=TEXT, txid=_or_null(TEXT), status=_STATUS,
    commission=MONEY, commission_currency=_or_null(TEXT),
)  # fmt: skip
_PROBLEM = _object(
    optional=("field", "fields"), type={"const": "about:blank"}, status=WHOLE, code=TEXT, detail=TEXT, field=TEXT,
    fields=_list(_object(optional=("position",), field=TEXT, message=TEXT, position=WHOLE)),
)  # fmt: skip

_SAID: Final[Json] = {"type": ["string", "number", "null"]}      # a number counts as it is written, never as a float
_SENT = {"type": "object", "properties": dict.fromkeys(sorted(KNOWN | SECRET), _SAID)}
_KEPT = _object(
    optional=("reason", "absent"), conversion_id=_or_null(UUID), reason=TEXT, absent=_list(TEXT),
    status={"enum": ["recorded", "updated", "duplicate", "conflict", "pending_click", "queued"]},
)  # fmt: skip
_NOT_KEPT = _object(
    optional=("reason", "absent"), type={"const": "about:blank"}, title=TEXT, status=WHOLE,
    code={"enum": sorted({code for _, code, _ in ANSWERS.values()} | {"method_not_allowed"})},
    reason={"enum": [reason.value for reason in Reason]}, absent=_list(TEXT),
)  # fmt: skip


def admin_document() -> Json:
    """The admin port's."""
    slug, slugged = LINK.checks["slug"].schema, ("program", "partner")
    number = {"slug": slug, "number": NUMBER}
    paths = {
        **_kind("program", PROGRAM, _object(**_PROGRAM_LISTED), _PROGRAM),
        **_kind("partner", PARTNER, _object(**_PARTNER_LISTED), _PARTNER),
        **_kind("link", LINK, _object(**_LINK), _LINK, {"versions": _VERSIONS}, queried=(*slugged, "status")),
        **_kind("coupon", COUPON, _object(**_COUPON), _COUPON, queried=slugged, name="number", named=NUMBER),
        "/v1/programs/{slug}/tokens": {"post": _issue("token", slug)},
        "/v1/programs/{slug}/hmac": {"post": _issue("hmac_secret", slug)},
        "/v1/programs/{slug}/credentials/{number}": {
            "delete": _operation("End a credential at once", _CREDENTIAL, path=number, errors=(400, 404))
        },
        "/v1/partners/{slug}/postbacks": {
            "post": _operation(
                "Make an endpoint that hears of a partner's conversions; its secret is shown this once",
                _object(**_ENDPOINT, secret=TEXT, warnings=_list(TEXT)), 201, path={"slug": slug}, errors=(400, 404, 409),
                body=_json(_new(ENDPOINT), url="https://tracker.example/postback?clickid={ext}&status={status}&payout={commission}"),
            ),
            "get": _operation("A partner's endpoints", _page(_object(**_ENDPOINT)), path={"slug": slug}, query=_PAGED,
                              errors=(400, 404)),
        },
        "/v1/partners/{slug}/postbacks/{number}": {
            "get": _operation("One endpoint", _object(**_ENDPOINT), path=number, errors=(400, 404)),
            "patch": _operation(
                "Change an endpoint, pause it, take it up again", _object(**_ENDPOINT, warnings=_list(TEXT)), path=number,
                body=_json(_changes(ENDPOINT)), errors=(400, 404, 409),
            ),
        },
        "/v1/outbox": {"get": _listing("What partners are told, newest first", _DELIVERY, "partner", "state", "conversion_id")},
        "/v1/outbox/retry": {"post": _operation(
            "Try again what was given up", _object(retried=WHOLE), body={**_json(_new(RETRY)), "required": False}, errors=(400,),
        )},
        "/v1/clicks": {"get": _operation(
            "One click by `id`, or those from `from` to `to`, at most 24 hours", _page(_CLICK),
            query={
                **dict.fromkeys(("id", "link", "program", "partner"), TEXT),
                **dict.fromkeys(("from", "to"), _or_empty(TIME)), **_PAGED,
            }, errors=(400, 404),
        )},
        "/v1/conversions": {"get": _listing("Conversions, newest first", _object(**_CONVERSION), *slugged, "status", "txid")},
        "/v1/conversions/{id}": {
            "get": _operation("One conversion, why it is what it is", _CONVERSION_WHOLE, path={"id": UUID}, errors=(400, 404))
        },
        "/v1/conversions/{id}/decision": {"post": _operation(
            "Decide about a conversion", _CONVERSION_WHOLE, path={"id": UUID}, errors=(400, 404),
            body=_json(_new(DECISION), status="approved", reason="the shop has confirmed it"),
        )},
        "/v1/postbacks": {"get": _listing("Messages as they came", _POSTBACK, "program", "outcome", "conversion_id")},
    }  # fmt: skip
    return _document("tracker, admin port", paths, {"adminToken": {"type": "http", "scheme": "bearer"}}, [{"adminToken": []}])


def public_document() -> Json:
    """The doors for conversions on the public port."""
    texts = dict.fromkeys(sorted(KNOWN | SECRET), TEXT)
    form = {"type": "object", "properties": texts}
    head = {"Idempotency-Key": {"type": "string", "pattern": "^[!-~]{1,128}$"}}
    said = _list(_SENT) | {"minItems": 1, "maxItems": 1000}
    paths = {
        "/postback": {
            "get": _door("A conversion", _KEPT, query=texts, bodiless=True),
            "post": _door("A conversion; query and body together", _KEPT, query=texts, body={
                "content": {"application/x-www-form-urlencoded": {"schema": form}, "application/json": {"schema": _SENT}}
            }),
        },
        "/v1/conversions": {"post": _door(
            "A conversion, or up to 1,000; of an array each item has its own outcome",
            {"anyOf": [_KEPT, _list({"anyOf": [_KEPT, _NOT_KEPT]})]}, body=_json({"anyOf": [_SENT, said]}), header=head,
        )},
    }  # fmt: skip
    schemes = {
        "token": {"type": "http", "scheme": "bearer"},
        "signature": {"type": "apiKey", "in": "header", "name": "X-Tracker-Signature"},
    }
    return _document("tracker, conversions", paths, schemes, [{"token": []}, {"signature": []}, {}])


def openapi_routes() -> list[web.RouteDef]:
    """For the admin port."""
    return [_served("/openapi.json", admin_document()), _served("/openapi-public.json", public_document())]


def _served(path: str, document: Json) -> web.RouteDef:
    body = orjson.dumps(document)

    async def serve(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    return web.get(path, serve)


_EXAMPLES: Final = {
    "program": {"slug": "books", "currency": "EUR", "commission": "10%"},
    "partner": {"slug": "berta", "name": "Berta", "program": "shop"},
    "link": {"program": "shop", "partner": "anna", "destination": "https://shop.example/?cid={click_id}"},
    "coupon": {"program": "shop", "partner": "anna", "code": "WINTER"},
}
_PAGED: Final[Json] = {"limit": _or_empty({"type": "integer", "minimum": 1, "maximum": PAGE_LIMIT}), "after": TEXT}


def _kind(
    kind: str, fields: Fields, listed: Json, row: Json, more: Mapping[str, Any] = {}, *, queried: Iterable[str] = (),
    name: str = "slug", named: Mapping[str, Any] = LINK.checks["slug"].schema,
) -> dict[str, Json]:  # fmt: skip
    """The five operations on what people manage: make, list, show, change."""
    saved, path = _object(**row, warnings=_list(TEXT)), {name: named}
    return {
        f"/v1/{kind}s": {
            "post": _operation(f"Make a {kind}", saved, 201, body=_json(_new(fields), **_EXAMPLES[kind]), errors=(400, 409)),
            "get": _listing(f"All {kind}s", listed, *queried),
        },
        f"/v1/{kind}s/{{{name}}}": {
            "get": _operation(f"One {kind}", _object(**row, **more), path=path, errors=(400, 404)),
            "patch": _operation(f"Change a {kind}", saved, path=path, body=_json(_changes(fields)), errors=(400, 404)),
        },
    }


def _listing(summary: str, row: Json, *queried: str) -> Json:
    return _operation(summary, _page(row), query={**dict.fromkeys(queried, TEXT), **_PAGED}, errors=(400,))


def _issue(secret: str, slug: Mapping[str, Any]) -> Json:
    row = _object(credential_id=NUMBER, kind=TEXT, label=TEXT, programs=_list(TEXT), **{secret: TEXT})
    body = {**_json(_new(CREDENTIAL)), "required": False}
    return _operation("A new credential, shown this once", row, 201, path={"slug": slug}, body=body, errors=(400, 404, 409))


def _json(schema: Json, **example: str) -> Json:
    return {"required": True, "content": {"application/json": {"schema": schema} | ({"example": example} if example else {})}}


def _operation(
    summary: str, answer: Json, status: int = 200, *, errors: Iterable[int], body: Json | None = None, **parameters: Schemas
) -> Json:
    """One of the admin port's: whoever is not let in gets 401, and 503 says that PostgreSQL is away."""
    statuses = {*errors, 401, 503, *((408, 413, 415) if body else ())}
    return _described(summary, answer, status, dict.fromkeys(sorted(statuses), _PROBLEM), body, parameters)


def _door(summary: str, answer: Json, *, bodiless: bool = False, body: Json | None = None, **parameters: Schemas) -> Json:
    statuses = {status for status, _, _ in ANSWERS.values()} - ({408, 413, 415} if bodiless else set())
    return _described(summary, answer, 200, dict.fromkeys(sorted(statuses), _NOT_KEPT), body, parameters)


def _described(
    summary: str, answer: Json, status: int, errors: Mapping[int, Json], body: Json | None, parameters: Mapping[str, Schemas]
) -> Json:
    described: Json = {
        "summary": summary,
        "responses": {
            str(status): {"description": "Done", "content": {"application/json": {"schema": answer}}},
            **{
                str(error): {"description": "A problem (RFC 9457)", "content": {"application/problem+json": {"schema": schema}}}
                for error, schema in errors.items()
            },
        },
        "parameters": [
            {"name": name, "in": where, "required": where == "path", "schema": schema}
            for where, schemas in parameters.items()
            for name, schema in schemas.items()
        ],
    }
    return described | ({"requestBody": body} if body else {})


def _document(title: str, paths: Json, schemes: Json, security: list[Json]) -> Json:
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": __version__},
        "paths": paths,
        "components": {"securitySchemes": schemes},
        "security": security,
    }
