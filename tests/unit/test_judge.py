"""The judge must be able to accuse: every lie planted here is one that a broken tracker would tell."""

import dataclasses
from typing import Any

import pytest
from judge import History, StoredClick, accusations

LINKS = 10
TOKENS = [b"token %d" % number for number in range(5)]
ACKS = [(token, number) for number, token in enumerate(TOKENS)]
HISTORY = History(ACKS, sent=7, requests=6, resent={5: 1}, statuses={302: 5})
ROWS = [StoredClick(b"id of " + token, number % LINKS + 1, str(number)) for number, token in enumerate(TOKENS)]


def judged(history: History = HISTORY, rows: list[StoredClick] = ROWS) -> list[str]:
    return accusations(history, rows, links=LINKS, uuid_of=lambda token: b"id of " + token)


def test_it_has_nothing_to_say_about_the_truth() -> None:
    """Request 5 was sent twice and never answered: none, one or two rows of it are all true."""
    unanswered = [StoredClick(b"written, not answered", 6, "5"), StoredClick(b"and once more", 6, "5")]
    for rows in (ROWS, ROWS + unanswered[:1], ROWS + unanswered):
        assert [] == judged(rows=rows)


@pytest.mark.parametrize(("lie", "rows"), [
    ("acknowledged, but no row", ROWS[1:]),
    ("stored twice", [*ROWS, ROWS[2]]),
    ("more rows than the request was sent", [*ROWS, StoredClick(b"a ghost", 3, "2")]),
    ("more rows than the request was sent", [*ROWS, StoredClick(b"of nobody", 8, "77")]),
    ("more rows than the request was sent", [*ROWS, StoredClick(b"without a label", 8, None)]),
    ("more rows than requests", [*ROWS, *(StoredClick(b"ghost %d" % number, 6, "5") for number in range(3))]),
    ("the row of another request", [ROWS[0]._replace(sub1="1"), ROWS[1]._replace(sub1="0"), *ROWS[2:]]),
    ("the row of another request", [ROWS[0]._replace(link_id=2), *ROWS[1:]]),
])  # fmt: skip
def test_rows_that_lie_are_named(lie: str, rows: list[StoredClick]) -> None:
    """A checker that accepts a missing, doubled or invented row proves nothing."""
    assert any(said.startswith(lie) for said in judged(rows=rows)), judged(rows=rows)


@pytest.mark.parametrize(("lie", "changed"), [
    ("acknowledged twice", {"acks": [*HISTORY.acks, HISTORY.acks[0]]}),
    ("answers other than redirects", {"statuses": {302: 5, 503: 1}}),
    ("answers to another request", {"mismatched": 1}),
    ("never answered", {"stuck": 1}),
])  # fmt: skip
def test_answers_that_lie_are_named(lie: str, changed: dict[str, Any]) -> None:
    """The same id for two visitors, an error page, a stranger's answer."""
    history = dataclasses.replace(HISTORY, **changed)
    assert any(said.startswith(lie) for said in judged(history)), judged(history)


def test_a_forged_token_is_not_accepted() -> None:
    """An id that the service did not sign is no id at all."""
    with pytest.raises(ValueError, match="foreign_format"):
        accusations(HISTORY, ROWS, links=LINKS)
