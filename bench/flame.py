"""Flame graphs of the click path and of the postback path: where a worker under load spends its time.

    python -m bench.flame

py-spy looks at the worker from outside, C's frames too, and stops it for each look: shares of time are right, rates are not.
The pictures lie in bench/results: flame-click.svg, flame-postback.svg.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from bench.kit.database import database, work_folder
from bench.kit.kept import rows_kept
from bench.kit.machine import LOAD_CORE, RESULTS, ROOT, need_tools, on_core
from bench.kit.plan import Plan, command
from bench.kit.progress import steps
from bench.kit.report import Report
from bench.kit.servers import Edge, click_tokens, edge
from bench.kit.traffic import postbacks, rich_clicks
from bench.kit.wrk import CONNECTIONS, SERIAL, load

SECONDS = 20
SMOKE_SECONDS = 2
SAMPLES_PER_SECOND = 200
CLICKS = 1000
CLICK, POSTBACK = "flame-click.svg", "flame-postback.svg"


def measure(plan: Plan) -> Report:
    """Flame graphs of the click path and of the postback path."""
    need_tools("wrk", "taskset")
    seconds = SMOKE_SECONDS if plan.smoke else SECONDS
    drawn: dict[str, tuple[int, int]] = {}      # answers, bytes
    with work_folder() as folder, database(folder) as stored:
        with edge(folder, stored.dsn) as tracker:
            sales = postbacks(click_tokens(tracker, CLICKS), SERIAL)
            loads: dict[str, Sequence[bytes]] = {CLICK: rich_clicks(), POSTBACK: sales}
            for name in steps("flame graphs", loads):
                path = (folder if plan.smoke else RESULTS) / name
                completed = _draw_one(tracker, path, loads[name], seconds)
                drawn[name] = completed, path.stat().st_size
                tracker.settle()
        notes = [
            rows_kept(stored, "clicks", "SELECT count(*) FROM clicks", completed=drawn[CLICK][0] + CLICKS, under_way=CONNECTIONS),
            rows_kept(stored, "sales", "SELECT count(*) FROM conversions", completed=drawn[POSTBACK][0], under_way=CONNECTIONS),
        ]
    return Report(
        "flame", "Flame graphs of a worker under load", {"seconds": seconds, "samples_per_second": SAMPLES_PER_SECOND},
        ["picture", "answers meanwhile", "KB"],
        [[name, f"{answers:,}", f"{size / 1024:.0f}"] for name, (answers, size) in drawn.items()], notes=notes,
    )


def _draw_one(tracker: Edge, path: Path, requests: Sequence[bytes], seconds: int) -> int:
    """How many requests were answered while py-spy looked. Raises click.ClickException when it could not."""
    [worker] = tracker.workers
    program = Path(sys.executable).with_name("py-spy")
    command = [str(program), "record", "--pid", str(worker), "--duration", str(seconds), "--rate", str(SAMPLES_PER_SECOND),
               "--format", "flamegraph", "--output", str(path), "--native"]
    spy = subprocess.Popen(on_core(LOAD_CORE, command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        completed = load(tracker.port, requests, seconds=seconds + 1).completed
    finally:
        said, _ = spy.communicate(timeout=60)
    if spy.returncode or not path.exists():
        raise click.ClickException(f"py-spy failed: {said[-2000:]}")
    path.write_text(path.read_text().replace(f"{ROOT}/", ""))      # it quotes its command line: where we live is nobody's business
    return completed


main = command(measure)

if __name__ == "__main__":
    main()
