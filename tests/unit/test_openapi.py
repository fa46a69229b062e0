"""The OpenAPI documents and the routes there are say the same. What the answers hold: tests/faults/test_schemathesis.py."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import hdrs
from schemathesis.openapi import from_dict

from tracker.domain.fields import COUPON, LINK, PARTNER, PROGRAM
from tracker.storage.entities.store import Store
from tracker.web.admin import AdminApi
from tracker.web.openapi import admin_document, public_document
from tracker.web.postback import PostbackDoor

NOBODY: Any = None


def operations(document: dict[str, Any]) -> set[tuple[str, str]]:
    return {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}


def test_every_route_of_the_admin_api_is_in_its_document_and_no_other() -> None:
    api = AdminApi(Store(NOBODY), admin_token="", decide=NOBODY).application()
    assert operations(admin_document()) == {
        (route.method, f"/v1{route.resource.canonical}")
        for route in api.router.routes()
        if route.resource is not None and route.method != hdrs.METH_HEAD      # aiohttp adds it to every GET
    }


def test_every_path_of_the_doors_is_in_their_document_and_no_other() -> None:
    routes = PostbackDoor.routes(object.__new__(PostbackDoor))
    assert public_document()["paths"].keys() == {route.path for route in routes}


@pytest.mark.parametrize("document", [admin_document(), public_document()], ids=["admin", "public"])
def test_they_are_openapi_3_1(document: dict[str, Any]) -> None:
    from_dict(document).validate()


@pytest.mark.parametrize(("kind", "fields"), [("programs", PROGRAM), ("partners", PARTNER), ("links", LINK), ("coupons", COUPON)])
def test_a_body_is_what_the_fields_table_takes(kind: str, fields: Any) -> None:
    said = admin_document()["paths"][f"/v1/{kind}"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert said["properties"].keys() == fields.checks.keys()
    assert set(said["required"]) == fields.required
