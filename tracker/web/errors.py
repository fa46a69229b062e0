"""What went wrong, as RFC 9457 problem+json: the one table from our errors to statuses and codes.

`code` is for programs and never changes its meaning; `detail` is for people. Nothing of a request comes back: field
names are ours, values are not repeated. What nobody foresaw is logged in full and answered with a bare 500.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from aiohttp import web

from tracker.domain.mistakes import Conflict, Invalid, NotFound
from tracker.storage.postgres import PostgresError, Unavailable

log = logging.getLogger(__name__)

RETRY_AFTER_SECONDS = 5
CONTENT_TYPE = "application/problem+json"

# PostgreSQL is there and says "not now": locks (55P03), a statement too long (57014), shutting down, full, conflicts.
_NOT_NOW = ("08", "40", "53", "55P03", "57", "58")

_HTTP_CODES = {
    400: ("bad_request", "The request cannot be understood"),
    401: ("unauthorized", "Give the admin token: Authorization: Bearer …"),
    404: ("not_found", "There is nothing under this path"),
    405: ("method_not_allowed", "This path does not know this method"),
    408: ("slow_body", "The body took too long to arrive"),
    413: ("too_large", "The body is larger than 64 kB"),
    415: ("unsupported_type", "Send JSON (application/json)"),
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class BadRequest(ValueError):
    """A request that is wrong before any field is looked at. `status` is one of the table's; `detail` is ours."""

    def __init__(self, status: int, detail: str | None = None) -> None:
        super().__init__(detail or _HTTP_CODES[status][1])
        self.status = status


def problem(status: int, code: str, detail: str, **more: Any) -> web.Response:
    """The answer. `more`: further members, such as the fields at fault."""
    body = {"type": "about:blank", "status": status, "code": code, "detail": detail, **more}
    headers = {"Cache-Control": "no-store"}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if status == 503:
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return web.Response(status=status, body=orjson.dumps(body), content_type=CONTENT_TYPE, headers=headers)


def problem_of(error: Exception) -> web.Response:
    """The answer to an error: what is foreseen by its row, everything else a logged 500."""
    if isinstance(error, Invalid):
        fields = [
            {"field": one.field, "message": one.message} | ({} if one.position is None else {"position": one.position})
            for one in error.mistakes
        ]
        return problem(400, "invalid", "Some fields cannot be taken", fields=fields)
    if isinstance(error, NotFound):
        return problem(404, "not_found", f"There is no such {error.kind}")
    if isinstance(error, Conflict):
        return problem(409, "conflict", str(error), **({"field": error.field} if error.field else {}))
    if isinstance(error, BadRequest):
        return problem(error.status, _HTTP_CODES[error.status][0], str(error))
    if isinstance(error, web.HTTPException):
        return _of_http(error)
    if isinstance(error, Unavailable) or (isinstance(error, PostgresError) and _is_not_now(error)):
        return problem(503, "unavailable", "The database is away or busy; try again")
    log.error("unforeseen %s", type(error).__name__, exc_info=error)
    answer = problem(500, "internal", "Something went wrong here; it is in the log")
    answer.force_close()      # nobody knows what it left half done
    return answer


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """aiohttp middleware: every error leaves as problem+json. What succeeds passes through."""
    try:
        return await handler(request)
    except Exception as error:
        if request.writer.output_size > 0:
            raise      # an answer was begun: another behind it would be taken for the next request's
        return problem_of(error)


def _of_http(error: web.HTTPException) -> web.Response:
    code, detail = _HTTP_CODES.get(error.status, ("http_error", "The request cannot be answered"))
    answer = problem(error.status, code, detail)
    if isinstance(error, web.HTTPMethodNotAllowed):
        answer.headers["Allow"] = ", ".join(sorted(error.allowed_methods))
    return answer


def _is_not_now(error: PostgresError) -> bool:
    return str(getattr(error, "sqlstate", "") or "").startswith(_NOT_NOW)
