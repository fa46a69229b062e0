"""The benchmarks still run, and their own accounts balance. No speed is judged: test machines are busy."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import missing

from bench import redirect_path
from bench.__main__ import NAMES
from bench.kit.plan import SMOKE
from bench.kit.traffic import mixed, plain_clicks, postbacks, rich_clicks, user_agents
from tracker.web.framing import plain_click

ROOT = Path(__file__).parents[2]
SUMS = {"redirect_path": 0, "redirects": 2, "postbacks": 2, "table_size": 2, "partitions": 2, "many_links": 2, "two_workers": 2,
        "flame": 2}
"""How many accounts a benchmark settles, where that is not one: with each database, or each way to store. redirect_path
stores nothing."""

QUICK = {"redirect_path", "redirects", "proxied", "postbacks", "ship"}      # tried in CI, the others nightly: half a minute each


@pytest.fixture(autouse=True)
def _own_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process a benchmark must not bind the test runner to a core."""
    monkeypatch.setattr(redirect_path, "stay_off_the_servers_core", lambda: None)


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.nightly) for name in NAMES])
def test_a_short_run_loses_nothing_and_leaves_nothing(name: str) -> None:
    """Each benchmark compares what clients saw with what PostgreSQL has; a bench that rots is a claim without an address."""
    for tool in ("wrk", "nginx", "taskset", "openssl"):
        if shutil.which(tool) is None and not Path("/usr/sbin", tool).exists():
            missing(f"no {tool} (Debian: apt-get install wrk nginx-light util-linux openssl)")
    before = sorted((ROOT / "bench" / "results").glob("*"))
    done = subprocess.run(
        [sys.executable, "-m", "tracker", "bench", name, "--smoke"], cwd=ROOT, capture_output=True, text=True, timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert SUMS.get(name, 1) == len(re.findall("All kept|Every row", done.stdout)), done.stdout
    assert before == sorted((ROOT / "bench" / "results").glob("*")), "a smoke run must not leave figures that look like results"


def test_every_click_of_the_load_is_one_that_the_fast_lane_takes() -> None:
    """Else the benchmark would measure aiohttp twice."""
    for request in rich_clicks() + plain_clicks():
        click = plain_click(request, 0)
        assert click is not None
        assert click[2] == len(request)
    assert 4000 == len({request.partition(b"User-Agent: ")[2].partition(b"\r\n")[0] for request in rich_clicks()})
    assert 4000 == len(set(user_agents()))


def test_the_mix_has_the_share_of_others_it_says() -> None:
    """5 % means 5 % of all requests; each of them must be a new sale."""
    others = postbacks(["0" * 32], b"\x01")
    requests = mixed([b"click"] * 950, others, share=0.05)
    assert 50 == sum(request in others for request in requests)
    assert 1000 == len(requests)
    assert others[0].count(b"\x01") == 1


def test_a_click_is_measured_without_a_network() -> None:
    """The optimiser's tool must see a row for each click, or it measures refusals."""
    report = redirect_path.measure(SMOKE)
    assert ["rich", "plain"] == [row[0] for row in report.rows]
