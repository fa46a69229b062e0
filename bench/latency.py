"""Latency of redirects at fixed rates, from the moment a request should have left: tracker, tracker with `always`, nginx.

    python -m bench.latency [--seconds 5] [--rounds 5]

Open loop (kit/pacer.py) at 5,000 and 10,000 requests a second, fdatasync running, shipping on. With `always` a click waits for two
flushes at most, the one under way and its own. What it costs is told in flushes, by their mean in that turn (tracker's own metric,
PostgreSQL flushing the same disk) and when all was quiet; and against how long two in a row took, at the same percentile, for a
row that comes at any moment.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping

from bench.kit.database import database, work_folder
from bench.kit.fdatasync import fdatasync_ms, two_in_a_row_ms
from bench.kit.kept import clicks_kept
from bench.kit.machine import need_tools
from bench.kit.nginx import nginx
from bench.kit.pacer import COLUMNS, CONNECTIONS, Latencies, paced, told
from bench.kit.plan import Plan, command
from bench.kit.progress import in_turn
from bench.kit.report import Report
from bench.kit.rounds import pacer_too_busy, ratio
from bench.kit.servers import Server, edge
from bench.kit.traffic import plain_clicks

RATES = (2_500, 5_000, 7_500, 10_000)
SMOKE_RATES = (1_000, 5_000)
ALWAYS_RATE = 5_000      # what `always` is judged at
ALWAYS = "tracker, always"
SYNCS = "tracker_spool_sync_duration_seconds"


def measure(plan: Plan) -> Report:
    """Latency of redirects at fixed rates: tracker, tracker with TRACKER_SYNC=always, nginx."""
    need_tools("nginx", "taskset")
    requests = plain_clicks()
    rates = SMOKE_RATES if plan.smoke else RATES
    found: dict[tuple[int, str], list[Latencies]] = {}
    quiet: list[float] = []
    flushes: list[float] = []     # at the rate it is judged at: the mean of a turn's …
    in_a_row: list[float] = []    # … and the 99th percentile of what two of them take
    with work_folder() as folder, database(folder) as stored, edge(folder, stored.dsn) as tracker, \
            edge(folder, stored.dsn, name=ALWAYS, TRACKER_SYNC="always") as always, nginx(folder) as front:
        contenders: list[Server] = [tracker, front, always]
        warm = {      # else the first figures would be those of a cold start
            server.name: paced(server.port, requests, rate=rates[0], seconds=1 if plan.smoke else 3).sent for server in contenders
        }
        turns = [(rate, server) for rate in rates for server in contenders]
        for rate, server in in_turn("latency", plan.rounds, turns, lambda turn: f"{turn[1].name} at {turn[0]:,}/s"):
            if server is always:
                quiet.append(fdatasync_ms(folder)[0])
            before = always.settle()
            seen = paced(server.port, requests, rate=rate, seconds=plan.seconds)
            after = server.settle()
            if server is always and rate == ALWAYS_RATE:
                seconds, count = (after[f"{SYNCS}_{part}"] - before[f"{SYNCS}_{part}"] for part in ("sum", "count"))
                flushes.append(seconds / count * 1e3)
                in_a_row.append(two_in_a_row_ms(_buckets(before, after)))
            found.setdefault((rate, server.name), []).append(seen)
        sent = sum(one.sent for (_, name), series in found.items() for one in series if name != front.name)
        sent += warm[tracker.name] + warm[always.name]
        note = clicks_kept([tracker, always], stored, completed=sent, under_way=0)
    quiet_ms = statistics.median(quiet)
    report = Report(
        "latency", "Latency of redirects at fixed rates, open loop",
        {"seconds": plan.seconds, "rounds": plan.rounds, "connections": CONNECTIONS, "fdatasync_ms": round(quiet_ms, 3)},
        ["rate and server", *COLUMNS],
        notes=[
            note,
            f"A page and its fdatasync took {quiet_ms:.2f} ms here when all was quiet, median of {len(quiet) * 200:,}.",
            f"With `always` at {ALWAYS_RATE:,}/s a flush took {statistics.median(flushes):.2f} ms, mean of a turn.",
            f"Two of them, for a click that comes at any moment: {statistics.median(in_a_row):.2f} ms at the 99th percentile.",
        ],
    )
    for (rate, name), series in found.items():
        report.rows.append([f"{rate:,}/s, {name}", *told(series)])
    for percentile in ("p50", "p99", "p999"):
        report.curves[f"redirects a second: {percentile} of redirects, ms"] = {
            server.name: [(rate, statistics.median(_of(found[rate, server.name], percentile))) for rate in rates]
            for server in contenders
        }
    for rate in rates:
        ours, theirs = found[rate, tracker.name], found[rate, front.name]
        for percentile in ("p50", "p99", "p999"):
            report.findings[f"{rate}/s: {percentile} to nginx"] = ratio(
                _of(ours, percentile), _of(theirs, percentile), void=pacer_too_busy([*ours, *theirs]),
                note=_both(ours, theirs, percentile),
            )
    ours, safe = found[ALWAYS_RATE, tracker.name], found[ALWAYS_RATE, ALWAYS]
    more = [late - soon for late, soon in zip(_of(safe, "p99"), _of(ours, "p99"), strict=True)]
    late = pacer_too_busy([*ours, *safe])
    report.findings["always: syncs more"] = ratio(
        more, flushes, void=late, note=f"{_both(safe, ours, 'p99')}; of quiet ones {statistics.median(more) / quiet_ms:.0f}",
    )
    report.findings["always: p99 more to two flushes"] = ratio(
        more, in_a_row, void=late, note=f"they take {statistics.median(in_a_row):.2f} ms",
    )
    return report


def _buckets(before: Mapping[str, float], after: Mapping[str, float]) -> list[tuple[float, int]]:
    """Of the flushes between two looks at /metrics: upper bounds in ms, and how many; over the last bound, as if at twice it."""
    found: list[tuple[float, int]] = []
    below = 0
    for name, count in after.items():
        if name.startswith(f"{SYNCS}_bucket"):
            total = round(count - before[name])
            bound = name.partition('le="')[2].rstrip('"}')
            found.append((2 * found[-1][0] if bound == "+Inf" else float(bound) * 1e3, total - below))
            below = total
    return found


def _of(series: list[Latencies], percentile: str) -> list[float]:
    return [getattr(one, f"{percentile}_ms") for one in series]


def _both(ours: list[Latencies], theirs: list[Latencies], percentile: str) -> str:
    return f"{statistics.median(_of(ours, percentile)):.2f} ms to {statistics.median(_of(theirs, percentile)):.2f}"


main = command(measure)

if __name__ == "__main__":
    main()
