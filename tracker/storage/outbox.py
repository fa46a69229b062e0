"""The outbox as its sender sees it: take what is due, write down how it ended, forget what is old.

Taking moves a row's `due_at` beyond the longest attempt and counts the attempt, in one transaction under the sender's lease.
So nobody takes it twice, a sender that dies costs half a minute, and one row that kills each sender cannot do so for ever.
How an attempt ended is written only while the row still is at that attempt: a sender that was frozen overwrites nothing.
When something is due again is decided here, by PostgreSQL's clock; sending is jobs/outbox.py's.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Final, NamedTuple
from uuid import UUID

import orjson

from tracker.domain.endpoint import CLICK_MACROS, parse_endpoint_url, tells_click
from tracker.domain.link import BadTemplate, Template
from tracker.domain.outgoing import Outcome
from tracker.storage.conversions.facts import clicks_asked
from tracker.storage.conversions.rows import columns
from tracker.storage.postgres import Connection, Record
from tracker.storage.together import fetch_together

logger = logging.getLogger(__name__)

TAKEN_SECONDS: Final = 30.0            # longer than an attempt and the writing of its end, on a machine that stumbles
CLICK_SECONDS: Final = 72 * 3600.0     # how long a postback waits for its click's row: a spool may lie on a machine that is down
FIRST_RETRY_SECONDS: Final = 15.0      # doubled each time …
LAST_RETRY_SECONDS: Final = 6 * 3600.0 # … up to this
GIVE_UP_SECONDS: Final = 72 * 3600.0   # after the first attempt: a weekend, and a Monday to mend it
OPEN_AFTER: Final = 5                  # failures in a row: from then on an endpoint gets one attempt at a time, ever less often,
LAST_PROBE_SECONDS: Final = 900.0      # and the others wait without an attempt of their own
OFF_AFTER: Final = 20                  # failures in a row, over at least
OFF_SECONDS: Final = 24 * 3600.0       # a day: switched off until a person says otherwise. A short outage is no reason
KEPT_DAYS: Final = 30                  # what was sent or given up goes then
UNSENT_DAYS: Final = 7                 # what waits for an endpoint that is off or paused is given up then
FORGET_ROWS: Final = 5000              # in one transaction

# A step is told after those before it, tried and failing ones too: else a sale would come alive again behind its reversal.
# Taken in turns: first one row of each host, then a second one of each, so that no host's backlog stands before another's.
_DUE: Final = """
    SELECT due.*, now() AS asked_at, partners.slug AS partner, programs.slug AS program, links.slug AS link
      FROM (SELECT o.*, e.host, e.url, e.method, e.secret, row_number() OVER (PARTITION BY e.host ORDER BY o.due_at) AS place
              FROM outbox_endpoints AS e
             CROSS JOIN LATERAL (
                   SELECT * FROM outbox AS w WHERE w.endpoint_id = e.endpoint_id AND w.state = 'waiting' AND w.due_at <= now()
                      AND NOT EXISTS (SELECT 1 FROM outbox AS before
                                       WHERE before.conversion_id = w.conversion_id AND before.endpoint_id = w.endpoint_id
                                         AND before.entry < w.entry AND before.state = 'waiting')
                    ORDER BY w.due_at LIMIT CASE WHEN e.failures >= $5 THEN 1 ELSE $4 END) AS o
             WHERE e.status = 'active' AND (e.retry_at IS NULL OR e.retry_at <= now())
               AND NOT (e.failures >= $5 AND e.endpoint_id = ANY($3::int[]))) AS due
      JOIN partners USING (partner_id) JOIN programs ON programs.program_id = due.program_id
      LEFT JOIN links ON links.link_id = due.link_id
      LEFT JOIN unnest($1::text[], $2::int[]) AS busy (host, count) ON busy.host = due.host
     WHERE place + coalesce(busy.count, 0) <= $4
     ORDER BY place, due_at LIMIT $6
"""
_LABELS: Final = "click_id, partner_id, ext, " + ", ".join(f"sub{number}" for number in range(1, 11))
_CLICKS_OF_DAY: Final = f"SELECT {_LABELS} FROM clicks WHERE click_id >= $2 AND click_id < $3 AND click_id = ANY($1::uuid[])"  # noqa: S608
_CLICKS_STRAY: Final = f"SELECT {_LABELS} FROM clicks_stray WHERE click_id = ANY($1::uuid[])"  # noqa: S608
_KEYS: Final = "unnest($1::uuid[], $2::int[], $3::int[]"
# Soon after the sale often, later seldom: rows come within a second, or when a machine is mended.
_POSTPONE: Final = f"""
    UPDATE outbox AS o
       SET due_at = clock_timestamp() + least(interval '1 minute', greatest(interval '1 second', (now() - o.created_at) / 4))
      FROM {_KEYS}) AS k (c, e, n) WHERE (o.conversion_id, o.entry, o.endpoint_id) = (k.c, k.e, k.n)
"""  # noqa: S608
_TAKE: Final = f"""
    UPDATE outbox AS o SET attempts = o.attempts + 1, tried_at = now(), due_at = clock_timestamp() + make_interval(secs => $4),
           give_up_at = coalesce(o.give_up_at, now() + make_interval(secs => $5))
      FROM {_KEYS}) AS k (c, e, n)
     WHERE (o.conversion_id, o.entry, o.endpoint_id) = (k.c, k.e, k.n)
"""  # noqa: S608
_END: Final = f"""
    UPDATE outbox AS o SET last_reason = k.reason, last_status = k.answered,
           due_at = now() + make_interval(secs => k.after),
           state = CASE WHEN k.reason = 'sent' THEN 'sent'
                        WHEN now() + make_interval(secs => k.after) > o.give_up_at THEN 'given_up' ELSE 'waiting' END
      FROM {_KEYS}, $4::int[], $5::text[], $6::int[], $7::float8[]) AS k (c, e, n, attempt, reason, answered, after)
     WHERE (o.conversion_id, o.entry, o.endpoint_id) = (k.c, k.e, k.n) AND o.state = 'waiting' AND o.attempts = k.attempt
    RETURNING o.state
"""  # noqa: S608
# What was under way together fails together: that is no more than OPEN_AFTER, and nothing while the endpoint waits to be
# tried again. So a glitch of a second costs ten, and only attempts made one after the other make the waits longer.
_ENDPOINTS_END: Final = """
    UPDATE outbox_endpoints AS e SET failures = k.failures, failing_since = k.since,
           retry_at = CASE WHEN k.failures >= $4 THEN now() + make_interval(secs => k.spread *
                                least($5::float8, 10 * 2.0 ^ least(k.failures - $4, 10))) END,
           status = CASE WHEN e.status = 'active' AND k.failures >= $6 AND k.since <= now() - make_interval(secs => $7) THEN 'off'
                         ELSE e.status END
      FROM (SELECT endpoint_id, spread,
                   CASE WHEN worked THEN failed ELSE least(failures + failed, greatest(failures + 1, $4)) END AS failures,
                   CASE WHEN failed = 0 THEN NULL WHEN worked THEN now() ELSE coalesce(failing_since, now()) END AS since
              FROM outbox_endpoints
              JOIN unnest($1::int[], $2::bool[], $3::int[], $8::float8[]) AS g (endpoint_id, worked, failed, spread)
             USING (endpoint_id)
             WHERE CASE WHEN worked THEN failures + failed > 0 ELSE retry_at IS NULL OR retry_at <= now() END) AS k
     WHERE e.endpoint_id = k.endpoint_id
    RETURNING e.endpoint_id, e.status
"""
_GIVE_UP_UNSENT: Final = """
    UPDATE outbox SET state = 'given_up', last_reason = coalesce(last_reason, 'not_sent')
     WHERE ctid = ANY (ARRAY(
           SELECT o.ctid FROM outbox_endpoints AS e JOIN outbox AS o USING (endpoint_id)
            WHERE e.status <> 'active' AND o.state = 'waiting' AND o.created_at < now() - make_interval(days => $1) LIMIT $2))
"""
_FORGET: Final = """
    DELETE FROM outbox WHERE ctid = ANY (ARRAY(
           SELECT ctid FROM outbox WHERE created_at < now() - make_interval(days => $1) AND state <> 'waiting' LIMIT $2))
"""


class Key(NamedTuple):
    """Of a row, and of its message."""

    conversion_id: UUID
    entry: int
    endpoint_id: int


@dataclass(frozen=True, slots=True)
class Due:
    """A row that was taken, with all that its request is made of. `fields`: a value or None for every macro."""

    key: Key
    attempt: int
    host: str
    template: Template
    method: str
    secret: bytes
    fields: Mapping[str, str | None]
    test: bool
    decided_at: datetime


class Found(NamedTuple):
    """What is due: `ready` to be sent, `postponed` because a click's row has not come, or its endpoint's URL is none of ours."""

    ready: list[Due]
    postponed: list[Key]


@dataclass(frozen=True, slots=True)
class Ended:
    """How an attempt ended. `status`: of the answer, where there was one; `spread`: 0.5 to 1.0, spreads retries."""

    due: Due
    outcome: Outcome
    status: int | None
    spread: float


async def find_due(
    connection: Connection, *, busy: Mapping[str, int], probed: Iterable[int], per_host: int, most: int
) -> Found:
    """What is due: at most `most`, and `per_host` less what is `busy` (by host) already.

    `probed`: endpoints under way now, which get no second attempt while they fail.
    """
    asked = (list(busy), list(busy.values()), list(probed), per_host, OPEN_AFTER, most)
    rows = await connection.fetch(_DUE, *asked)
    labels = await _labels(connection, rows)
    ready: list[Due] = []
    postponed: list[Key] = []
    for row in rows:
        template = _template(row["url"])
        if template is None or _waits(row, template, labels):
            postponed.append(_key(row))
        else:
            ready.append(_due(row, template, labels.get(row["click_id"])))
    return Found(ready, postponed)


async def take(connection: Connection, found: Found) -> None:
    """Take what is ready, and look at what waits for its click later; in the caller's transaction, which holds the lease."""
    if found.postponed:
        await connection.execute(_POSTPONE, *columns(found.postponed, 3))
    if found.ready:
        keys = columns((due.key for due in found.ready), 3)
        await connection.execute(_TAKE, *keys, TAKEN_SECONDS, GIVE_UP_SECONDS)


async def _labels(connection: Connection, rows: Sequence[Record]) -> dict[UUID, dict[str, str | None]]:
    """What the partners called their clicks, of those whose row is here."""
    partners = {row["click_id"]: row["partner_id"] for row in rows if row["click_id"] is not None}
    asked = clicks_asked((id_.bytes for id_ in partners), _CLICKS_OF_DAY)
    if not asked:
        return {}
    found = await fetch_together(connection, *asked, (_CLICKS_STRAY, (list(partners),)))
    names = ("ext", *(f"sub{number}" for number in range(1, 11)))
    return {
        click_id: dict(zip(names, labels, strict=True))
        for one in found for click_id, partner_id, *labels in one if partners[click_id] == partner_id
    }


def _waits(row: Record, template: Template, labels: Mapping[UUID, Any]) -> bool:
    if not row["awaits_click"] or row["click_id"] in labels or not tells_click(row["method"], template):
        return False
    waited: timedelta = row["asked_at"] - row["created_at"]
    return waited < timedelta(seconds=CLICK_SECONDS)


def _key(row: Record) -> Key:
    return Key(row["conversion_id"], row["entry"], row["endpoint_id"])


def _due(row: Record, template: Template, labels: Mapping[str, str | None] | None) -> Due:
    said = orjson.loads(row["said"])
    test = said.pop("test", False)
    click_id = row["click_id"]
    fields = {
        "conversion_id": str(row["conversion_id"]), "click_id": None if click_id is None else str(click_id), **said,
        "program": row["program"], "partner": row["partner"], "link": row["link"],
        **(labels or dict.fromkeys(sorted(CLICK_MACROS))),
    }  # fmt: skip
    return Due(
        key=_key(row), attempt=row["attempts"] + 1, host=row["host"], template=template, method=row["method"],
        secret=bytes(row["secret"]), fields=fields, test=bool(test), decided_at=row["created_at"],
    )  # fmt: skip


@lru_cache(maxsize=4096)
def _template(url: str) -> Template | None:
    """None: it was checked by another version of the program, or by nobody. One endpoint must not stop all others."""
    try:
        return parse_endpoint_url(url)
    except BadTemplate as error:
        logger.error("an endpoint's URL cannot be used, its postbacks wait: %s", error.message)  # noqa: TRY400 - it may hold a secret
        return None


async def write_ended(connection: Connection, ended: Sequence[Ended]) -> tuple[int, list[int]]:
    """Write down how attempts ended, in a transaction of its own: how many were given up, which endpoints went off."""
    rows = [
        (*one.due.key, one.due.attempt, one.outcome, one.status, _retry_seconds(one.due.attempt) * one.spread) for one in ended
    ]
    streaks: dict[int, tuple[bool, int, float]] = {}
    for one in ended:
        worked, failed, _ = streaks.get(one.due.key.endpoint_id, (False, 0, 0.0))
        streaks[one.due.key.endpoint_id] = (True, 0, 0.0) if one.outcome == "sent" else (worked, failed + 1, one.spread)
    places = [(endpoint_id, *streak) for endpoint_id, streak in sorted(streaks.items())]
    async with connection.transaction():
        states = await connection.fetch(_END, *columns(rows, 7))
        ids, worked_all, failures, spreads = columns(places, 4)
        changed = await connection.fetch(
            _ENDPOINTS_END, ids, worked_all, failures, OPEN_AFTER, LAST_PROBE_SECONDS, OFF_AFTER, OFF_SECONDS, spreads
        )
    given_up = sum(row["state"] == "given_up" for row in states)
    return given_up, [row["endpoint_id"] for row in changed if row["status"] == "off"]


def _retry_seconds(attempt: int) -> float:
    return min(LAST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2.0 ** min(attempt - 1, 20))


async def forget_old(connection: Connection) -> bool:
    """Give up what waits for nobody, and delete what is old, a bounded number of rows of each; whether there may be more."""
    given_up = await connection.execute(_GIVE_UP_UNSENT, UNSENT_DAYS, FORGET_ROWS)
    deleted = await connection.execute(_FORGET, KEPT_DAYS, FORGET_ROWS)
    return any(status.endswith(f" {FORGET_ROWS}") for status in (given_up, deleted))
