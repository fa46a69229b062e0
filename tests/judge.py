"""The judge of every fault test: holds what a client knows against what the database has.

The client's word comes from tests/load_client.py, which keeps each id that it received whole. The rules are the
service's promises: every acknowledged id is exactly one row, of the request that it answered; no id is there twice; no
more rows than requests; nothing spooled that is not shipped or waiting; statistics equal the rows. `accusations` is
pure, so that planted lies can show that it can accuse.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from demo_world import LINKS, fetch
from tracker_process import KEYRING, run_tracker, until

from tracker.storage.spool.dead_spool import find_spools, verify
from tracker.storage.spool.reader import LogReader

CLIENT = Path(__file__).parent / "load_client.py"
CLIENT_SECONDS = 60.0


class StoredClick(NamedTuple):
    """A row, of `clicks` or `clicks_stray`."""

    click_id: bytes
    link_id: int
    sub1: str | None


@dataclass(frozen=True, slots=True)
class History:
    """What the clients know. `acks`: (token, request number); `resent`: how often a request was sent again."""

    acks: list[tuple[bytes, int]] = field(repr=False)
    sent: int
    requests: int                                  # numbers 0 … requests - 1 were given out
    resent: Mapping[int, int] = field(default_factory=dict)
    statuses: Mapping[int, int] = field(default_factory=dict)
    torn: int = 0                                  # answers that began and did not end
    mismatched: int = 0                            # answers to another request
    unanswered_reused: int = 0                     # requests without a byte of answer, on connections that had served before
    unanswered_fresh: int = 0                      # the same on new connections
    refused: int = 0                               # connections not accepted
    stuck: int = 0                                 # requests without an answer when the client ended
    slowest: float = 0.0                           # seconds from a request to its whole answer
    odd: tuple[str, ...] = ()

    @property
    def flawless(self) -> bool:
        """Every request got its own redirect at the first try."""
        return (
            set(self.statuses) <= {302} and not self.resent
            and not (self.torn or self.mismatched or self.unanswered_reused or self.unanswered_fresh or self.refused or self.stuck)
        )


class Clients:
    """A running load client."""

    def __init__(self, port: int, out: Path, *, connections: int, links: int, pause: float) -> None:
        self._out = out
        arguments = [str(CLIENT), str(port), str(connections), str(links), str(out), str(pause)]
        self._process = subprocess.Popen([sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.acked = 0

    def wait_for_acks(self, more: int, *, seconds: float = 0.0) -> None:
        """Until so many more clicks are acknowledged than when they were last counted, and for at least so long."""
        assert self._process.stdout is not None
        goal, end = self.acked + more, time.monotonic() + seconds
        while self.acked < goal or time.monotonic() < end:
            word, _, count = self._process.stdout.readline().partition(" ")
            assert word == "acked", "the load client has ended"
            self.acked = int(count)

    def stop(self) -> History:
        """Take the answers that are on their way, then tell everything."""
        told, _ = self._process.communicate(timeout=CLIENT_SECONDS)     # closes its input
        assert 0 == self._process.returncode
        history: dict[str, Any] = json.loads(told.splitlines()[-1])
        acks = [(token, int(number)) for token, number in map(bytes.split, self._out.read_bytes().splitlines())]
        resent, statuses = ({int(key): count for key, count in history.pop(name).items()} for name in ("resent", "statuses"))
        return History(acks, resent=resent, statuses=statuses, odd=tuple(history.pop("odd")), **history)

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()


@contextmanager
def clients(port: int, out: Path, *, connections: int = 32, links: int = LINKS, pause: float = 0.0) -> Iterator[Clients]:
    """Clients that click as fast as they are answered, or after a pause of so many seconds, from now until `stop`."""
    started = Clients(port, out, connections=connections, links=links, pause=pause)
    try:
        yield started
    finally:
        started.close()


def uuid_in(token: bytes) -> bytes:
    """The stored id that a token holds; raises when it is not the service's."""
    return KEYRING.verify(token).uuid


def accusations(
    history: History, rows: Iterable[StoredClick], *, links: int = LINKS, uuid_of: Callable[[bytes], bytes] = uuid_in
) -> list[str]:
    """What is wrong, in words; empty: every promise was kept."""
    acked = [(uuid_of(token), number) for token, number in history.acks]
    rows = list(rows)
    stored = Counter(row.click_id for row in rows)
    said = {row.click_id: row for row in rows}
    answered = Counter(uuid for uuid, _ in acked)
    rows_of = Counter(int(row.sub1) if row.sub1 is not None and row.sub1.isdecimal() else -1 for row in rows)

    def sendings(number: int) -> int:
        return 1 + history.resent.get(number, 0) if 0 <= number < history.requests else 0

    found: dict[str, Sequence[object]] = {
        "acknowledged, but no row": [uuid.hex() for uuid in answered if uuid not in stored],
        "acknowledged twice": [uuid.hex() for uuid, count in answered.items() if count > 1],
        "stored twice": [uuid.hex() for uuid, count in stored.items() if count > 1],
        "the row of another request": [
            uuid.hex() for uuid, number in acked
            if uuid in said and (said[uuid].sub1, said[uuid].link_id) != (str(number), number % links + 1)
        ],
        "more rows than the request was sent": [number for number, count in rows_of.items() if count > sendings(number)],
        "more rows than requests": [len(rows) - history.sent] if len(rows) > history.sent else [],
        "answers other than redirects": [f"{status} × {count}" for status, count in history.statuses.items() if status != 302],
        "answers to another request": [history.mismatched] if history.mismatched else [],
        "never answered": [history.stuck] if history.stuck else [],
    }
    odd = [f"the client notes: {history.odd}"] if history.odd else []
    return [f"{what}: {len(whose)}, such as {whose[:3]}" for what, whose in found.items() if whose] + odd


def stored_clicks(dsn: str) -> list[StoredClick]:
    """Every click PostgreSQL has, wherever it put it."""
    rows = fetch(dsn, "SELECT click_id, link_id, sub1 FROM clicks UNION ALL SELECT click_id, link_id, sub1 FROM clicks_stray")
    return [StoredClick(row["click_id"].bytes, row["link_id"], row["sub1"]) for row in rows]


_CURSORS = "SELECT spool_id, next_seq, rows_stored, rows_stray, rows_quarantined FROM spool_cursors WHERE log = 'clicks'"
# Test before head before prefetch before bot before click: 8, 4, 2, 1, 0.
_STATISTICS = """
    SELECT coalesce(s.link_id, r.link_id) AS link_id, s.kind, s.clicks, r.kind AS row_kind, r.clicks AS row_clicks
      FROM (SELECT link_id, kind, sum(clicks) AS clicks FROM click_statistics GROUP BY 1, 2) AS s
      FULL JOIN (SELECT link_id, CASE WHEN flags & 8 > 0 THEN 'test' WHEN flags & 4 > 0 THEN 'head'
                                      WHEN flags & 2 > 0 THEN 'prefetch' WHEN flags & 1 > 0 THEN 'bot' ELSE 'click' END AS kind,
                        count(*) AS clicks
                   FROM clicks GROUP BY 1, 2) AS r USING (link_id, kind)
     WHERE s.clicks IS DISTINCT FROM r.clicks
"""


def spool_accusations(dsn: str, spool_dir: Path, *, strays: bool = False) -> list[str]:
    """Law and statistics, at rest: what the files hold = stored + stray + quarantined; nothing is quarantined, nor stray unless
    `strays` says that some were on their way here."""
    cursors = {row["spool_id"]: row for row in fetch(dsn, _CURSORS)}
    found: list[str] = []
    for path in find_spools(spool_dir):
        clicks, _ = verify(path)
        cursor = cursors.pop(int(path.name, 16), None)
        shipped = cursor["next_seq"] if cursor else 0
        if clicks.end_seq != shipped:
            found.append(f"spool {path.name}: {clicks.end_seq} clicks in its files, {shipped} shipped")
        if clicks.gaps:
            found.append(f"spool {path.name}: gaps {clicks.gaps}")
        stray = cursor["rows_stray"] if cursor and strays else 0
        if cursor and (cursor["rows_quarantined"] or cursor["rows_stray"] != stray or cursor["rows_stored"] + stray != shipped):
            found.append(f"spool {path.name}: {dict(cursor)}")
    found += [f"spool {spool_id:016x} has a cursor and no files" for spool_id in cursors]
    found += [f"statistics differ from rows: {dict(row)}" for row in fetch(dsn, _STATISTICS)[:3]]
    return found


def all_is_shipped(dsn: str, spool_dir: Path) -> bool:
    """Whether PostgreSQL has every click that the spools under `spool_dir` hold."""
    marks = {row["spool_id"]: row["next_seq"] for row in fetch(dsn, _CURSORS)}
    return all(_end_seq(path) == marks.get(int(path.name, 16), 0) for path in find_spools(spool_dir))


def _end_seq(path: Path) -> int:
    """How many clicks were written to a spool. Looks at its last segment only: this is asked again and again."""
    reader = LogReader(path, "clicks", spool_id=int(path.name, 16))
    try:
        return reader.end_seq()
    finally:
        reader.close()


def assert_kept(
    dsn: str, spool_dir: Path, history: History, environ: Mapping[str, str], *, besides: Collection[bytes] = (),
    strays: bool = False,
) -> None:
    """The verdict, once everything is shipped: the client's history, the law, the statistics, and `tracker verify` agree.

    `besides`: the ids of clicks that the test itself made. `strays`: some had no partition when they came.
    """
    assert history.acks, "the client was never answered: nothing is proved"
    rows = stored_clicks(dsn)
    assert sorted(besides) == sorted(row.click_id for row in rows if row.click_id in besides)
    found = accusations(history, [row for row in rows if row.click_id not in besides])
    found += spool_accusations(dsn, spool_dir, strays=strays)
    assert [] == found, "\n".join(found)
    assert_verified(environ)


def assert_all_kept(dsn: str, spool_dir: Path, crowd: Clients, environ: Mapping[str, str]) -> None:
    """Stop the clients, let everything be shipped, judge."""
    history = crowd.stop()
    until(lambda: all_is_shipped(dsn, spool_dir), "every click is shipped", seconds=60, every=0.1)
    assert_kept(dsn, spool_dir, history, environ)


def assert_verified(environ: Mapping[str, str]) -> None:
    """`tracker verify` finds no difference."""
    ended = run_tracker(["verify", "--json"], environ)
    assert 0 == ended.returncode, ended.stdout + ended.stderr
