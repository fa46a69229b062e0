"""The journal: what it holds, what it survives, and playing it again."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from doors import SHOP_TOKEN, SPOOL_ID, Door, open_door

from tracker.domain.postback import Postback, Status
from tracker.domain.postback_message import UNNUMBERED
from tracker.storage.clicks.rows import CLICK_COLUMNS
from tracker.storage.conversions.journal import BadJournalRowError, Journal, decode_row, encode_row, message_id_of, read_journal
from tracker.storage.spool.spool import Spool, SpoolUnavailable


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool.create(
        tmp_path, spool_id=SPOOL_ID, worker=1, clicks=CLICK_COLUMNS, max_bytes=2**26, sync="off",
        clicks_segment_bytes=2**16, journal_segment_bytes=2**16,
    )  # fmt: skip


@pytest.fixture
async def door(dsn: str, tmp_path: Path) -> AsyncIterator[Door]:
    async with open_door(dsn, tmp_path) as opened:
        yield opened


def a_message(number: int) -> Postback:
    return Postback(
        message_id=UNNUMBERED, received_ms=1_790_000_000_000 + number, program_id=1, click_id=bytes(range(16)),
        link_id=5, txid=f"é{number}", amount=Decimal("12.50"), currency="EUR", status=Status.REJECTED,
        credential_id=3, limited=True,
    )  # fmt: skip


async def test_messages_come_back_as_they_were_with_their_ids(spool: Spool) -> None:
    """The id is the place: it is the key that lets a message in once, however often it is played."""
    journal = Journal(spool.journal, SPOOL_ID)
    kept = journal.append([a_message(0), a_message(1)]) + journal.append([a_message(2)])
    await journal.sync()
    assert 3 == spool.journal.synced_seq
    expected = [replace(a_message(number), message_id=message_id_of(SPOOL_ID, number)) for number in range(3)]
    assert expected == kept
    assert expected == list(read_journal(spool.path))
    assert expected[1:] == list(read_journal(spool.path, since_ms=1_790_000_000_001))
    spool.close()
    assert expected == list(read_journal(spool.path))
    assert "123456789abcdef00000000000000002" == kept[2].message_id.hex()
    with pytest.raises(SpoolUnavailable):
        journal.append([a_message(3)] * 1000)


def test_a_row_that_is_no_message_says_so_and_hides_nobody(spool: Spool) -> None:
    """A row of a newer version after a rollback, or damage, must cost itself alone."""
    newer = encode_row(a_message(1)).replace(b'"v":1', b'"v":2')
    spool.journal.append([encode_row(a_message(0)), b"junk", b"[]", b"{}", newer, b'{"v":1}', encode_row(a_message(2))])
    found = list(read_journal(spool.path))
    assert [False, True, True, True, True, True, False] == [isinstance(one, BadJournalRowError) for one in found]
    with pytest.raises(BadJournalRowError, match="version 2"):
        decode_row(1, 2, newer)
    spool.close()


def test_a_folder_without_a_journal_holds_no_messages(tmp_path: Path) -> None:
    """A spool whose disk was full from the start has no segment; that is no error."""
    assert [] == list(read_journal(tmp_path))


async def replay(dsn: str, folder: Path, since: str) -> tuple[int, str]:
    """Exit code and output of `tracker journal replay`, run as people run it."""
    environ = {**os.environ, "TRACKER_DATABASE_URL": dsn, "TRACKER_SPOOL_DIR": str(folder)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tracker", "journal", "replay", "--since", since,
        env=environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await process.communicate()
    return process.returncode or 0, " ".join(out.decode().split())


async def test_a_replay_refills_what_a_restore_lost_and_changes_nothing_else(
    door: Door, dsn: str, tmp_path: Path
) -> None:
    """After a restore the newest sales are in the journals only; played over a whole database they pay nobody twice."""
    for number in range(3):
        sale = {"click_id": door.click(), "txid": f"R{number}", "amount": "10", "token": SHOP_TOKEN}
        assert 200 == (await door.send(params=sale))[0]
    sums = "SELECT count(*), sum(amount) FROM ledger"
    before = await door.db.fetchrow(sums)
    assert (0, "3 recorded") == await replay(dsn, tmp_path, "1h")
    assert before == await door.db.fetchrow(sums)
    await door.db.execute("SET session_replication_role = replica")  # as a restore does: past the append-only triggers
    await door.db.execute("TRUNCATE conversion_state, conversions, conversion_history, ledger, postback_log")
    assert (0, "3 recorded") == await replay(dsn, tmp_path, "7d")
    assert before == await door.db.fetchrow(sums)
    assert (0, "nothing to play again") == await replay(dsn, tmp_path, "2100-01-01T00:00:00Z")


async def test_a_replay_says_what_it_cannot_play(door: Door, dsn: str, tmp_path: Path) -> None:
    """An exit code of 0 would let a runbook go on over a hole."""
    door.spool.journal.append([b"junk"])
    code, said = await replay(dsn, tmp_path, "1h")
    assert (1, True) == (code, "row 0 of the journal of spool 123456789abcdef0 is no message" in said)
    code, said = await replay(dsn, tmp_path, "yesterday")
    assert (2, True) == (code, "give 90m, 24h or 7d" in said)
