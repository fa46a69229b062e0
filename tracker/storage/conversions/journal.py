"""The journal: every authenticated postback, on this machine's disk before anything is promised.

A row is the JSON of one message and the version of its form; the spool's id and the row's number are the message's id.
It exists so that a message outlives PostgreSQL: what was answered `queued` is applied from here, and what a failover or
a restore lost is refilled (`tracker journal replay`). Frames and files are the spool's; applying is the recorder's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import orjson

from tracker.domain.postback import Postback
from tracker.domain.values import changed
from tracker.storage.spool.log import Log
from tracker.storage.spool.reader import Batch, LogReader

VERSION = 1
_READ_ROWS = 1000
_READ_BYTES = 2**20


class BadJournalRowError(ValueError):
    """A row that is no message, or of a version made later than this program."""


def message_id_of(spool_id: int, seq: int) -> bytes:
    """A message's id: 16 bytes, spool id and number in its journal, big-endian."""
    return spool_id.to_bytes(8, "big") + seq.to_bytes(8, "big")


def encode_row(message: Postback) -> bytes:
    """The row of a message; its id is not in it, the row's place is the id."""
    return orjson.dumps({"v": VERSION, **message.to_json()})


def decode_row(spool_id: int, seq: int, row: bytes) -> Postback:
    """The message of a row. Raises BadJournalRowError."""
    try:
        fields = orjson.loads(row)
        version = fields.pop("v")
        if version == VERSION:
            return Postback.from_json(message_id_of(spool_id, seq), fields)
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as exc:
        raise BadJournalRowError(f"row {seq} of the journal of spool {spool_id:016x} is no message") from exc
    raise BadJournalRowError(f"row {seq} of the journal of spool {spool_id:016x} is of version {version!r}")


class Journal:
    """The journal of this start of a worker."""

    def __init__(self, log: Log, spool_id: int) -> None:
        self._log = log
        self._spool_id = spool_id

    def append(self, drafts: Sequence[Postback]) -> list[Postback]:
        """Write the messages as one frame; returns them with their ids. They outlive this process, and wait for `sync`
        to outlive the machine. Raises SpoolUnavailable: then none was taken."""
        first_seq = self._log.append([encode_row(draft) for draft in drafts])
        return [
            changed(draft, message_id=message_id_of(self._spool_id, seq)) for seq, draft in enumerate(drafts, first_seq)
        ]

    async def sync(self) -> None:
        """Bring everything appended so far to the disk; callers share one sync. Raises SpoolUnavailable."""
        await self._log.sync()


def read_journal(directory: Path, *, since_ms: int = 0) -> Iterator[Postback | BadJournalRowError]:
    """The messages received since then that the spool in `directory` still holds, oldest first.

    Takes no lock and changes nothing: of a live spool it sees what is there now. A row that is no message is given as
    the error, so that one cannot hide those behind it. OSError when a file cannot be read.
    """
    reader = LogReader(directory, "journal", spool_id=None)
    try:
        if not reader.segments:
            return
        spool_id = reader.segments[0].header.spool_id
        next_seq = reader.first_seq
        while (found := reader.read(next_seq, max_rows=_READ_ROWS, max_bytes=_READ_BYTES)) is not None:
            next_seq = found.next_seq
            if isinstance(found, Batch):
                yield from _messages_of(found, spool_id, since_ms)
    finally:
        reader.close()


def _messages_of(batch: Batch, spool_id: int, since_ms: int) -> Iterator[Postback | BadJournalRowError]:
    for seq, row in batch.numbered():
        try:
            message = decode_row(spool_id, seq, row)
        except BadJournalRowError as bad:
            yield bad
        else:
            if message.received_ms >= since_ms:
                yield message
