"""The benchmarks still run, and their own accounts balance. No speed is judged: test machines are busy."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import missing

from bench import redirect_path
from bench.options import SMOKE
from bench.report import Bar, Report, median_ratio
from bench.traffic import mixed, plain_clicks, postbacks, rich_clicks, user_agents
from tracker.web.framing import plain_click

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _own_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process a benchmark must not bind the test runner to a core."""
    monkeypatch.setattr(redirect_path, "stay_off_the_servers_core", lambda: None)


def test_a_short_run_of_all_benchmarks_loses_nothing() -> None:
    """Each benchmark compares what clients saw with what PostgreSQL has; a bench that rots is a claim without an address."""
    for tool in ("wrk", "nginx", "taskset"):
        if shutil.which(tool) is None and not Path("/usr/sbin", tool).exists():
            missing(f"no {tool} (Debian: apt-get install wrk nginx-light util-linux)")
    before = sorted((ROOT / "bench" / "results").glob("*"))
    done = subprocess.run(
        [sys.executable, "-m", "tracker", "bench", "--smoke"], cwd=ROOT, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("rich", "plain", "bare aiohttp", "nginx", "with 5 % other requests"):
        assert name in done.stdout
    assert 4 == len(re.findall("All kept|Every row", done.stdout))
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


def test_a_report_is_kept_with_what_is_needed_to_repeat_it(tmp_path: Path) -> None:
    """A figure without commit and machine is hearsay; names in the page must not become markup."""
    report = Report("x", "A <title>", {"seconds": 1}, ["server", "rate"], [["a & b", "7"]], {"Rate": {"a & b": [7.0, 9.0]}},
                    [Bar("speed", 1.0, 1.6)], ["All kept."])
    path = report.save(tmp_path)
    kept = json.loads(path.read_text())
    assert {"bench", "date", "commit", "machine", "settings", "table", "bars", "rounds"} <= kept.keys()
    assert [{"what": "speed", "measured": 1.0, "least": 1.6, "reached": False}] == kept["bars"]
    page = path.with_suffix(".html").read_text()
    assert "A &lt;title&gt;" in page
    assert "a &amp; b" in page
    assert "MISSED: speed: 1.00, at least 1.60 wanted" in page
    assert "http" not in page.replace("http-equiv", ""), "the page must not load anything"


def test_ratios_are_taken_round_by_round() -> None:
    """The machine may be twice as fast in one round; medians of each side apart would compare different rounds."""
    assert 2.0 == median_ratio([2, 20, 200], [1, 10, 100])
