"""`tracker program|partner|link|coupon` as a person and a script use them: real processes, real PostgreSQL."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent

Tracker = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def tracker(dsn: str, tmp_path: Path) -> Tracker:
    def run(*arguments: str, code: int = 0, **environ: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "tracker", *arguments], capture_output=True, text=True, timeout=60, check=False,
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT), "TRACKER_DATABASE_URL": dsn, **environ},
        )  # fmt: skip
        assert code == done.returncode, done.stderr
        assert "Traceback" not in done.stderr
        return done

    return run


def read(done: subprocess.CompletedProcess[str]) -> Any:
    return json.loads(done.stdout)


def test_a_shop_is_set_up_and_looked_at(tracker: Tracker) -> None:
    made = tracker("program", "add", "shop", "--currency", "EUR", "--commission", "10%", "--auth", "open")
    assert "warning: auth_mode open" in made.stderr
    assert "10%" in made.stdout
    assert "warning" not in made.stdout
    rated = tracker("partner", "add", "anna", "--program", "shop", "--commission", "15%", "--json")
    assert "15%" == read(rated)["commissions"][0]["commission"]
    to = "https://shop.example/?cid={click_id}"
    row = read(tracker("link", "add", "--program", "shop", "--partner", "anna", "--to", to, "--json"))
    edited = read(tracker("link", "edit", row["slug"], "--channel", "facebook", "--expires", "2030-01-01T00:00:00Z", "--json"))
    assert (2, "facebook", "2030-01-01T00:00:00Z") == (edited["version"], edited["channel"], edited["expires_at"])
    emptied = read(tracker("link", "edit", row["slug"], "--channel", "", "--expires", "", "--json"))
    assert (3, None, None) == (emptied["version"], emptied["channel"], emptied["expires_at"])
    listed = tracker("link", "list", "--program", "shop")
    assert to in listed.stdout
    assert [row["slug"]] == [one["slug"] for one in read(tracker("link", "list", "--json"))]
    tracker("coupon", "add", "Summer20", "--program", "shop", "--partner", "anna")
    ended = read(tracker("coupon", "edit", "SUMMER20", "--program", "shop", "--to", "2099-01-01T00:00:00Z", "--json"))
    assert ("Summer20", "2099-01-01T00:00:00Z") == (ended["code"], ended["valid_to"])
    assert "Summer20" in tracker("coupon", "list").stdout
    assert "Summer20" in tracker("coupon", "show", "summer20", "--program", "shop").stdout
    shown = tracker("program", "show", "shop").stdout
    assert "commissions" in shown
    tracker("program", "edit", "shop", "--commission", "5.00 EUR", "--event", "lead", "--ip", "203.0.113.0/24")
    assert {"5.00 EUR", "10%", "15%"} == {
        one["commission"] for one in read(tracker("program", "show", "shop", "--json"))["commissions"]
    }
    assert "anna" in tracker("partner", "list").stdout
    assert "shop" in tracker("partner", "show", "anna").stdout
    assert "shop" in tracker("program", "list").stdout
    assert "blocked" in tracker("partner", "edit", "anna", "--status", "blocked").stdout
    assert "paused" in tracker("link", "edit", row["slug"], "--status", "paused").stdout
    assert "versions" in tracker("link", "show", row["slug"]).stdout


def test_a_token_alone_is_on_stdout(tracker: Tracker) -> None:
    """Scripts take it with $(…), and it is never to be seen again."""
    tracker("program", "add", "shop", "--currency", "EUR")
    made = tracker("program", "token", "shop", "--label", "network")
    assert 40 == len(made.stdout.strip())
    assert made.stdout.strip() not in made.stderr + tracker("program", "show", "shop").stdout
    secret = read(tracker("program", "hmac", "shop", "--json"))
    assert 64 == len(secret["hmac_secret"])
    revoked = read(tracker("program", "hmac", "shop", "--revoke", str(secret["credential_id"]), "--json"))
    assert revoked["revoked_at"]


def test_a_partner_gets_his_postbacks(tracker: Tracker) -> None:
    tracker("partner", "add", "anna")
    url = "https://t.example/pb?cid={ext}&s={status}"
    made = read(tracker("partner", "postback", "add", "anna", url, "--events", "sale, lead", "--json"))
    assert made["secret"].startswith("whsec_")
    assert (["sale", "lead"], ["approved", "rejected", "reversed"]) == (made["events"], made["statuses"])
    number = str(made["endpoint_id"])
    edited = read(tracker("partner", "postback", "edit", "anna", number, "--statuses", "approved", "--events", "", "--json"))
    assert (["approved"], []) == (edited["statuses"], edited["events"])
    assert "paused" in tracker("partner", "postback", "edit", "anna", number, "--status", "paused").stdout
    for shown in (tracker("partner", "postback", "list", "anna"), tracker("partner", "postback", "show", "anna", number)):
        assert url in shown.stdout
        assert "whsec_" not in shown.stdout
    refused = tracker("partner", "postback", "add", "anna", "http://0x7f.1/", code=2)
    assert "url, position 7: an address has to be written" in refused.stderr
    tracker("partner", "postback", "add", "anna", "http://10.0.0.1:9000/", code=2)
    tracker("partner", "postback", "add", "anna", "http://10.0.0.1:9000/", TRACKER_OUTBOX_NETWORKS="10.0.0.0/8")
    assert "[]" == tracker("outbox", "list", "--json").stdout.strip()
    assert "0 to be tried again" in tracker("outbox", "retry", "--partner", "anna", "--since", "7d").stdout


def test_mistakes_are_sentences_and_exit_codes(tracker: Tracker) -> None:
    tracker("program", "add", "shop", "--currency", "EUR")
    tracker("partner", "add", "anna")
    bad = tracker("program", "add", "a b", "--currency", "nothing", "--window-days", "0", code=2)
    assert 3 == len(bad.stderr.strip().splitlines())
    assert "" == bad.stdout
    template = tracker("link", "add", "--program", "shop", "--partner", "anna", "--to", "https://{sub1}.x/", code=2)
    assert "destination, position 8: a macro cannot stand in the host" in template.stderr
    assert "there is no such link" in tracker("link", "show", "missing", code=1).stderr
    assert "already" in tracker("program", "add", "shop", "--currency", "EUR", code=1).stderr
    tracker("program", "list", code=2, TRACKER_DATABASE_URL="")
    away = tracker("program", "list", code=1, TRACKER_DATABASE_URL="postgresql://nobody@127.0.0.1:1/nothing")
    assert "cannot be reached" in away.stderr
    assert "[]" == tracker("link", "list", "--json").stdout.strip()


def test_a_database_without_tables_is_told_what_to_do(tracker: Tracker, empty_dsn: str) -> None:
    assert "tracker db init" in tracker("program", "list", code=1, TRACKER_DATABASE_URL=empty_dsn).stderr
