"""Playing journalled messages again, on demand: after a restored database, after a mended cause of quarantine.

No cursor is asked and none moves; the postback log knows what was applied.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from tracker.domain.postback import Postback
from tracker.storage.conversions.answers import Answer
from tracker.storage.conversions.group_commit import commit_group
from tracker.storage.conversions.recorder import MAX_GROUP
from tracker.storage.conversions.store import apply_again
from tracker.storage.conversions.transaction import NoMark
from tracker.storage.postgres import Connection


async def replay(connection: Connection, messages: Iterable[Postback]) -> dict[str, int]:
    """Play journalled messages again, whatever the cursors say; those in the postback log are left alone, unless they were
    quarantined: these are tried again.

    Returns how many had which answer; keys that stay locked count as `locked`. Raises what is an outage: play again then.
    """
    tally: dict[str, int] = {}

    def count(answers: dict[bytes, Answer]) -> None:
        for answer in answers.values():
            tally[answer.status] = tally.get(answer.status, 0) + 1

    source = iter(messages)
    while group := list(islice(source, MAX_GROUP)):
        for unit in await commit_group(connection, group, NoMark(), count, apply=apply_again):
            tally["locked"] = tally.get("locked", 0) + len(unit)
    return tally
