"""From a visitor's click to a partner's own tracker, through real processes: what it hears, and who may know of it."""

from __future__ import annotations

import json
from pathlib import Path

from demo_world import make_world, value
from judge import all_is_shipped, assert_verified
from receiver import BROKEN, OK, receiver, says
from tracker_process import run_tracker, running, tracker_environ, until
from visitor import click, postback

URL = "/pb?cid={ext}&s={sub1}&status={status}&payout={commission}&token=only-theirs"


def test_a_partner_hears_of_his_sale_once_and_of_its_reversal_once(dsn: str, tmp_path: Path) -> None:
    make_world(dsn, links=3)
    environ = tracker_environ(dsn, tmp_path / "spool", TRACKER_OUTBOX_NETWORKS="127.0.0.1/32")
    with receiver() as partner, running("serve", environ) as tracker:
        status, made = tracker.admin("POST", "/v1/partners/anna/postbacks", {"url": partner.url(URL)})
        assert (201, ["approved", "rejected", "reversed"]) == (status, made["statuses"])
        assert "secret" not in tracker.admin("GET", f"/v1/partners/anna/postbacks/{made['endpoint_id']}")[1]
        clicked = click(tracker.public_port, "l1", "sub1=a%26b&ext=my-click-1")
        until(lambda: all_is_shipped(dsn, tmp_path / "spool"), "the click is shipped")
        sold = {"click_id": clicked.token, "txid": "order-1", "amount": "49.90"}
        assert "recorded" == postback(tracker.public_port, **sold).said["status"]
        assert "duplicate" == postback(tracker.public_port, **sold).said["status"]
        [first] = partner.wait_for(1)
        assert "updated" == postback(tracker.public_port, **sold, status="reversed").said["status"]
        second = partner.wait_for(2)[1]
        for heard, told, payout in ((first, "approved", "4.99"), (second, "reversed", "0.00")):
            assert {"cid": "my-click-1", "s": "a&b", "status": told, "payout": payout, "token": "only-theirs"} == heard.query
            heard.assert_signed(made["secret"])

        partner.answer = says(BROKEN)
        assert "recorded" == postback(tracker.public_port, **{**sold, "txid": "order-2"}).said["status"]
        states = f"/v1/outbox?partner=anna&conversion_id={value(dsn, 'SELECT conversion_id FROM conversions ORDER BY txid DESC')}"
        until(lambda: [one["state"] for one in tracker.admin("GET", states)[1]["items"]] == ["failed"], "it is seen to fail")
        assert [("status", 500)] == [(one["last_reason"], one["last_status"]) for one in tracker.admin("GET", states)[1]["items"]]
        partner.answer = says(OK)
        value(dsn, "UPDATE outbox SET state = 'given_up' WHERE state = 'waiting' RETURNING 1")
        assert (200, {"retried": 1}) == tracker.admin("POST", "/v1/outbox/retry", {"partner": "anna"})
        partner.wait_for(4)
        until(lambda: [one["state"] for one in tracker.admin("GET", states)[1]["items"]] == ["sent"], "it is sent")
        listed = run_tracker(["outbox", "list", "--partner", "anna", "--json"], environ)
        assert ["sent"] * 3 == [one["state"] for one in json.loads(listed.stdout)]
        tracker.terminate()
        assert 0 == tracker.exit_code()
        assert 4 == len(partner.heard)
        for secret in ("only-theirs", made["secret"]):
            assert secret not in tracker.output + listed.stdout
    assert_verified(environ)
