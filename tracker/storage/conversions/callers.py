"""Who waits for word of a message that the journal has, and the messages themselves, which spares decoding them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from tracker.domain.postback import Postback
from tracker.storage.conversions.answers import QUEUED, Answer
from tracker.storage.conversions.journal_mark import sequence_of

MOST_WAITING: Final = 10_000
"""Callers who wait. Beyond, a message is answered `queued` at once and read from the journal: about 20 MB of memory."""

Heard = Callable[[bytes, Answer], None]
"""Told a message's id and what became of it."""


class Callers:
    """Of one recorder."""

    def __init__(self) -> None:
        self._heard: dict[bytes, Heard] = {}
        self._messages: dict[int, Postback] = {}      # by number

    def __contains__(self, message_id: bytes) -> bool:
        return message_id in self._heard

    def wait(self, message: Postback, heard: Heard) -> bool:
        """Have `heard` called when there is word of the message. False: too many wait, it was told `queued`."""
        if len(self._heard) >= MOST_WAITING:
            heard(message.message_id, Answer(QUEUED, None))
            return False
        self._heard[message.message_id] = heard
        self._messages[sequence_of(message)] = message
        return True

    def message(self, seq: int) -> Postback | None:
        """The message of this number, when somebody waits for word of it."""
        return self._messages.get(seq)

    def forget(self, first_seq: int, next_seq: int) -> None:
        """There will be no word of these: they are lost to damage."""
        for seq in [seq for seq in self._messages if first_seq <= seq < next_seq]:
            del self._heard[self._messages.pop(seq).message_id]

    def below(self, seq: int) -> list[bytes]:
        """The ids of messages with a smaller number that somebody waits for."""
        return [message.message_id for number, message in self._messages.items() if number < seq]

    def answer(self, answers: dict[bytes, Answer]) -> None:
        """Tell those who wait, in the next turn of the event loop: by then the next group has asked PostgreSQL its first
        question, and need not wait."""
        told = []
        for message_id, answer in answers.items():
            heard = self._heard.pop(message_id, None)
            if heard is not None:
                del self._messages[int.from_bytes(message_id[8:], "big")]
                told.append((heard, message_id, answer))
        if told:
            asyncio.get_running_loop().call_soon(_tell, told)


def _tell(told: Iterable[tuple[Heard, bytes, Answer]]) -> None:
    for heard, message_id, answer in told:
        heard(message_id, answer)
