"""Trade that goes on while something breaks: a crowd that clicks, shops that sell, and the verdict on both at the end.

Shops stand on the senders' side: each sale is a click of its own and a postback whose sender gives up after 1.5 s, as some
networks do. What a shop heard is its history; the verdict holds that against the database, and the crowd's as well.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from demo_world import fetch, value
from judge import Clients, all_is_shipped, assert_kept, clients
from tracker_process import TrackerProcess, running, tracker_environ, until
from visitor import POSTBACK_SECONDS, Answer, Connection, click, urgent_postback

PART_SECONDS = 0.5           # of trade, in each part of a test at least
SALES = 8                    # in each as well: what a few shops sell in half a second, or in 3 when each waits for 1.2
BROWSERS = 16
BROWSER_PAUSE_SECONDS = 0.02 # some 700 clicks a second: a machine at its limit would make answers late that are not the tracker's
SHOPS = 4
PAUSE_SECONDS = 0.05         # between a shop's sales: some 60 a second in all, a load that is never the point
CLICK_SECONDS = 1.0          # no redirect ever waits for PostgreSQL
BACK_SECONDS = 10.0          # from PostgreSQL's return to the first sale that is `recorded` again
DRAINED_SECONDS = 60.0       # and until everything is in its tables
KEPT = ("recorded", "queued", "pending_click")

SOLD = """
    SELECT txid, s.conversion_id, s.status, s.amount, s.partner_id,
           (SELECT count(*) FROM conversions AS c WHERE c.conversion_id = s.conversion_id) AS conversions,
           (SELECT array_agg(l.amount) FROM ledger AS l WHERE l.conversion_id = s.conversion_id) AS ledger
      FROM conversion_state AS s
"""
DECIDED = "SELECT count(*) FROM conversion_state WHERE status = 'approved'"


@dataclass(frozen=True, slots=True)
class Sale:
    """One postback: what its sender heard, after how many seconds."""

    txid: str
    status: int
    said: Mapping[str, Any]
    seconds: float


class Shops:
    """Sell from now until `stop`. Half of the sales come the instant after their click, half from a visitor of long ago."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._regular = click(port)                      # whose row is there before anything breaks
        self.clicks = [self._regular.uuid]
        self.sales: list[Sale] = []
        self.failed: list[str] = []
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._sell, args=(number,), daemon=True) for number in range(SHOPS)]
        for thread in self._threads:
            thread.start()

    def wait_for(self, more: int, status: str = "") -> None:
        """Until so many more sales were answered, of this status if one is given."""
        with self._changed:
            goal = self._heard(status) + more
            met = self._changed.wait_for(lambda: self.failed or self._heard(status) >= goal, DRAINED_SECONDS)
            assert met and not self.failed, f"{self.failed}, heard {self.heard()}, not {goal} {status}"

    def heard(self, *, since: int = 0) -> Counter[str]:
        """How many sales had which answer, leaving out the first so many."""
        return Counter(str(sale.said.get("status")) for sale in self.sales[since:])

    def _heard(self, status: str) -> int:
        return sum(not status or sale.said.get("status") == status for sale in self.sales)

    def stop(self) -> None:
        """After the sales under way."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(2 * POSTBACK_SECONDS)

    def _sell(self, shop: int) -> None:
        number = 0
        while not self._stopping.wait(PAUSE_SECONDS):
            number += 1
            txid = f"shop {shop} sale {number}"
            doing = "click"
            try:
                with Connection(self._port, seconds=CLICK_SECONDS) as visitor:
                    clicked = visitor.click()
                with self._changed:
                    self.clicks.append(clicked.uuid)
                doing = "postback"
                sale = self._post(txid, clicked if number % 2 else self._regular)
            except Exception as error:
                with self._changed:
                    self.failed.append(f"{txid}, {doing}: {type(error).__name__}: {error}")
                    self._changed.notify_all()
                return
            with self._changed:
                self.sales.append(sale)
                self._changed.notify_all()

    def _post(self, txid: str, clicked: Answer) -> Sale:
        started = time.monotonic()
        answer = urgent_postback(self._port, click_id=clicked.token, txid=txid, amount="10")
        return Sale(txid, answer.status, answer.said, time.monotonic() - started)


def sale_accusations(sales: Iterable[Sale], rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """What is wrong with the sales, in words: each acknowledged one is one conversion, decided and owed exactly once."""
    stored = {row["txid"]: row for row in rows}
    found = []
    for sale in sales:
        row = stored.pop(sale.txid, None)
        if sale.status != 200 or sale.said.get("status") not in KEPT:
            found.append(f"{sale.txid} was answered {sale.status} {dict(sale.said)}")
        elif sale.seconds > POSTBACK_SECONDS:
            found.append(f"{sale.txid} was answered after {sale.seconds:.2f} s")
        elif row is None:
            found.append(f"{sale.txid} was {sale.said['status']}, but there is no conversion")
        elif sale.said["conversion_id"] not in (None, str(row["conversion_id"])):
            found.append(f"{sale.txid} was told {sale.said['conversion_id']}, but is {row['conversion_id']}")
        elif (1, "approved", Decimal(10), 13, [Decimal(1)]) != tuple(
            row[name] for name in ("conversions", "status", "amount", "partner_id", "ledger")
        ):
            found.append(f"{sale.txid} is {dict(row)}")
    return found + [f"{txid} was never sold" for txid in stored]


@dataclass(slots=True)
class Trade:
    """A running service with everybody who uses it."""

    tracker: TrackerProcess
    crowd: Clients
    shops: Shops
    spool_dir: Path
    environ: dict[str, str]

    def goes_on(self, seconds: float = PART_SECONDS) -> Counter[str]:
        """Clicks for so long, and so many sales more; how the sales were answered."""
        before = len(self.shops.sales)
        self.crowd.wait_for_acks(1, seconds=seconds)
        self.shops.wait_for(SALES)
        return self.shops.heard(since=before)

    def comes_back(self) -> None:
        """PostgreSQL is well: within 10 s a sale is `recorded` again and every worker says that it has a database."""
        end_at = time.monotonic() + BACK_SECONDS
        self.shops.wait_for(1, "recorded")
        until(
            lambda: self.tracker.metric("tracker_database_up") == self.tracker.metric("tracker_workers"),
            "every worker has its database", seconds=max(0.0, end_at - time.monotonic()),
        )

    def status_of(self, slug: str) -> int:
        """How a click of ours is answered."""
        answer = click(self.tracker.public_port, slug)
        if answer.status == 302:
            self.shops.clicks.append(answer.uuid)
        return answer.status

    def counts(self, metric: str, label: str, expected: float) -> bool:
        return self.tracker.metric(metric, label) == expected

    def assert_all_kept(self, dsn: str, *, strays: bool = False) -> None:
        """Stop, let everything arrive, judge: no request failed or waited, nothing is missing, nothing is there twice."""
        self.shops.stop()
        history = self.crowd.stop()
        assert [] == self.shops.failed
        assert history.flawless, history
        assert history.slowest < CLICK_SECONDS
        until(lambda: all_is_shipped(dsn, self.spool_dir), "every click is shipped", seconds=DRAINED_SECONDS, every=0.1)
        until(lambda: value(dsn, DECIDED) >= len(self.shops.sales), "every sale is decided", seconds=DRAINED_SECONDS, every=0.1)
        found = sale_accusations(self.shops.sales, map(dict, fetch(dsn, SOLD)))
        assert [] == found, "\n".join(found)
        assert_kept(dsn, self.spool_dir, history, self.environ, besides=self.shops.clicks, strays=strays)


@contextmanager
def trading(dsn: str, folder: Path, *, role: str = "serve", **settings: str) -> Iterator[Trade]:
    """The service over `dsn`, with files in `folder`, a crowd and shops."""
    environ = tracker_environ(dsn, folder / "spool", **settings)
    with (
        running(role, environ) as tracker,
        clients(tracker.public_port, folder / "acks", connections=BROWSERS, pause=BROWSER_PAUSE_SECONDS) as crowd,
    ):
        shops = Shops(tracker.public_port)
        try:
            yield Trade(tracker, crowd, shops, folder / "spool", environ)
        finally:
            shops.stop()
