"""CPU for each click without a network: what the code between socket and spool costs. The tool for optimising it.

    python -m bench.redirect_path [--rounds 9] [--profile]

Requests go straight into a lane and answers into nothing, sixteen to a loop iteration, rows into a list that is dropped:
what differs from a served click is the kernel and the loop. The fastest round counts, because noise only ever adds.
"""

from __future__ import annotations

import asyncio
import cProfile
import gc
import pstats
import secrets
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any, Final

import click
from aiohttp import web

from bench.kit.machine import stay_off_the_servers_core
from bench.kit.plan import Plan, perform
from bench.kit.report import Report
from bench.kit.traffic import LINKS, plain_clicks, rich_clicks
from tracker.domain.click_id import ClickIdMaker, Keyring
from tracker.domain.link import Link
from tracker.web.agents import Places
from tracker.web.desk import Desk
from tracker.web.fastlane import Lane, Lanes
from tracker.web.redirect import Redirector

IN_ONE_ITERATION: Final = 16      # requests a loop iteration finds waiting under load from 64 connections


class NoTransport(asyncio.Transport):
    """Takes answers and forgets them."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else default

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass


class LastRows:
    """A log that keeps the rows of the last append and nothing else."""

    available = True

    def __init__(self) -> None:
        self.rows: list[bytes] = []

    def append(self, rows: list[bytes]) -> int:
        self.rows = rows
        return 0


class NoCounts:
    def add(self, *, clicks: int, prefetches: int, heads: int, appended: int, unlogged: int) -> None:
        pass


def links() -> dict[bytes, Link]:
    """The 1,000 links of the traffic, as servers.py puts them into the database."""
    more = "&s={sub1}&c={query.utm_campaign}"
    return {
        b"l%d" % number: Link.compile(
            link_id=number, slug=f"l{number}", program_id=7, partner_id=13, program_slug="shop", partner_slug="anna", version=1,
            destination=f"https://shop.example/p/{number}?cid={{click_id}}" + ("" if number % 4 else more),
            fallback=None, channel=None, pass_query=False, referrer_policy="origin", allow_test=False, status="active",
            expires_at_ms=None,
        )
        for number in range(1, LINKS + 1)
    }


def lane_into(log: LastRows) -> tuple[Lane, Desk]:
    """A connection's lane whose rows go to `log`; the desk is flushed by the caller, as the loop would."""
    ring = Keyring(((1, b"k" * 32),))
    ids = ClickIdMaker(keyring=ring, worker=1, random_counter=lambda: secrets.randbits(20))
    redirector = Redirector(links=links(), ids=ids, visitor_secret=b"k" * 32, log=log, counts=NoCounts())

    async def nobody(_: bytes) -> None:
        return None

    desk = Desk(redirector, sync=None, may_look_up=lambda: False, look_up=nobody, missed=lambda *_: None)
    places = Places(trusted=(), ip_mode="truncate", countries=None)
    lanes = Lanes(desk=desk, places=places, server=web.Server(_unused), connection_limit=10)
    lane = lanes()
    lane.connection_made(NoTransport())
    return lane, desk


async def _unused(_: web.BaseRequest) -> web.StreamResponse:
    raise AssertionError("a plain click went to aiohttp")


def serve(lane: Lane, desk: Desk, requests: Sequence[bytes]) -> None:
    """All requests, in groups as they arrive under load."""
    for first in range(0, len(requests), IN_ONE_ITERATION):
        for request in requests[first:first + IN_ONE_ITERATION]:
            lane.data_received(request)
        desk.flush()


async def _microseconds(requests: Sequence[bytes], plan: Plan, profile: cProfile.Profile | None) -> list[float]:
    log = LastRows()
    lane, desk = lane_into(log)
    serve(lane, desk, requests)
    assert log.rows, "no click became a row"
    gc.collect()
    gc.freeze()
    found = []
    for _ in range(plan.rounds):
        began = time.process_time()
        serve(lane, desk, requests)
        found.append((time.process_time() - began) / len(requests) * 1e6)
    if profile is not None:
        profile.runcall(serve, lane, desk, requests)
    return found


def measure(plan: Plan, profile: cProfile.Profile | None = None) -> Report:
    """CPU for each click without a network."""
    stay_off_the_servers_core()
    report = Report(
        "redirect_path", "CPU for each click, without network and disk",
        {"rounds": plan.rounds, "in_one_iteration": IN_ONE_ITERATION}, ["load", "fastest round, µs", "median, µs"],
    )
    found = {}
    for name, requests in (("rich", rich_clicks()), ("plain", plain_clicks() * 4)):
        found[name] = asyncio.run(_microseconds(requests, plan, profile if name == "rich" else None))
        report.rows.append([name, f"{min(found[name]):.2f}", f"{statistics.median(found[name]):.2f}"])
    report.rounds["CPU a click without network and disk, µs"] = found
    return report


@click.command(help="CPU for each click without a network.")
@click.option("--seconds", type=int, default=0, help="Not used: a round is 4,000 clicks.")
@click.option("--rounds", type=click.IntRange(1, 1000), default=25, show_default=True)
@click.option("--full", is_flag=True, help="Nothing more: it is whole already.")
@click.option("--smoke", is_flag=True, help="Only whether it works.")
@click.option("--profile", is_flag=True, help="Then print where the rich load's time goes, profiler included.")
def main(seconds: int, rounds: int, full: bool, smoke: bool, profile: bool) -> None:
    profiler = cProfile.Profile() if profile else None
    code = perform(lambda plan: measure(plan, profiler), Plan(seconds, 1 if smoke else rounds, full, smoke))
    if profiler is not None:
        pstats.Stats(profiler).sort_stats("tottime").print_stats(25)
    sys.exit(code)


if __name__ == "__main__":
    main()
