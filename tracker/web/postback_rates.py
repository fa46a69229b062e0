"""How many messages one sender may bring: a bucket of them for each credential, filled again at a steady rate.

It exists for arrays: a script in a loop can journal 30,000 messages a second, five times what is committed, and every other
sender's sale would wait behind them (answered `queued`, kept, but late). Counted per worker, of proven senders only: what
strangers send is refused before, costs next to nothing, and must not use up what is somebody's.
"""

from __future__ import annotations

from typing import Final

PER_SECOND: Final = 10_000.0
"""More than a worker commits of what comes by HTTP (7,000/s on a fast core), so nobody whose sales are real meets it: at half, a
fast machine's single big sender did. No more than it commits of what it has already, so an hour of one script is no second hour
of everybody's waiting."""
BURST: Final = 10_000.0      # ten full arrays at once: as many as the recorder holds for their callers


class Rates:
    """One per worker. Knows only senders that were authenticated, so no more of them than there are credentials."""

    def __init__(self, *, per_second: float = PER_SECOND, burst: float = BURST) -> None:
        self._per_second, self._burst = per_second, burst
        self._left: dict[int, tuple[float, float]] = {}      # by sender: messages left, and when that was so

    def allows(self, sender: int, now: float) -> bool:
        """Whether this sender may bring one more message; `now` in seconds of a clock that never goes back."""
        left, since = self._left.get(sender, (self._burst, now))
        left = min(self._burst, left + (now - since) * self._per_second)
        allowed = left >= 1
        self._left[sender] = (left - allowed, now)
        return allowed
