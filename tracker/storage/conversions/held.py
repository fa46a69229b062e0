"""Keys that somebody else has locked: their messages wait here, in order, and those of all other keys go ahead."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from tracker.domain.postback import Postback
from tracker.storage.conversions.group_commit import rough_key

_FIRST_WAIT_SECONDS: Final = 0.1
_LAST_WAIT_SECONDS: Final = 2.0


@dataclass(slots=True)
class Held:
    """Messages of one key, and when to try them again (monotonic seconds)."""

    key: bytes
    messages: list[Postback]
    wait: float = _FIRST_WAIT_SECONDS
    due: float = field(default_factory=lambda: time.monotonic() + _FIRST_WAIT_SECONDS)


class HeldKeys:
    """Of one recorder."""

    def __init__(self) -> None:
        self._by_key: dict[bytes, Held] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def clear(self) -> None:
        """Forget them: they will be read again."""
        self._by_key.clear()

    def hold(self, unit: Sequence[Postback]) -> None:
        """Messages of a key that turned out to be locked."""
        key = rough_key(unit[0])
        self._by_key[key] = Held(key, list(unit))

    def pass_by(self, messages: Iterable[Postback]) -> list[Postback]:
        """Those of the messages whose key is not held; the others wait behind those of their key."""
        if not self._by_key:
            return list(messages)
        free = []
        for message in messages:
            held = self._by_key.get(rough_key(message))
            if held is None:
                free.append(message)
            else:
                held.messages.append(message)
        return free

    def due(self) -> list[Held]:
        """Those to be tried again now."""
        now = time.monotonic()
        return [held for held in self._by_key.values() if held.due <= now]

    def release(self, held: Held) -> None:
        """It was free, its messages are applied."""
        del self._by_key[held.key]

    def put_off(self, held: Held) -> None:
        """It is still locked: less and less often."""
        held.wait = min(2 * held.wait, _LAST_WAIT_SECONDS)
        held.due = time.monotonic() + held.wait

    def seconds(self, at_most: float) -> float:
        """Until one is due."""
        now = time.monotonic()
        return max(0.0, min((held.due - now for held in self._by_key.values()), default=at_most))

    def messages(self) -> Iterator[Postback]:
        """All that wait."""
        return (message for held in self._by_key.values() for message in held.messages)
