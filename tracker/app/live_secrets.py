"""Secrets that are taken anew from their files while the service runs: the keys of click ids, the admin token.

It exists so that a key can be changed without a restart. Files are read again every SECRETS_SECONDS, which is what a mounted
Secret of Kubernetes needs (nobody sends a signal) and serves all else. What a file says counts when two looks agree, so one
that is just being written does no harm; what cannot be read or used is told, and the secrets in use stay.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from tracker.domain.click_id import ClickIdMaker, Keyring
from tracker.settings import Settings

log = logging.getLogger(__name__)

SECRETS_SECONDS: Final = 2.0     # a change counts after two looks; a look is one small file, 30 µs


class SecretFile:
    """One setting, watched in the file that it came from; one that came from no file never changes."""

    def __init__(self, settings: Settings, field: str) -> None:
        self._settings, self._field = settings, field
        self._in_use = self._seen = getattr(settings, field)
        self._told = ""

    def changed(self) -> Any | None:
        """The new value, once, when it was there at the last look already. Logs a file that cannot be used, once."""
        try:
            value = self._settings.reread(self._field)
        except ValueError as exc:
            if self._told != str(exc):
                self._told = str(exc)
                log.error("what was read before stays in use: %s", exc)  # noqa: TRY400 - the sentence is all there is to know
            return None
        self._told = ""
        settled, self._seen = value == self._seen, value
        if value is None or not settled or value == self._in_use:
            return None
        self._in_use = value
        return value


class LiveKeys:
    """A worker's keys: the first signs, all verify. `taken` is called after each change.

    Visitors are hashed with the first key of the start, also after a change: with the new one, everybody would be a new
    visitor in the middle of a day.
    """

    def __init__(self, settings: Settings, *, taken: Callable[[], None]) -> None:
        self._file = SecretFile(settings, "secret_keys")
        self._secrets = settings.secret_keys
        self._taken = taken
        self.ring = Keyring(settings.secret_keys)
        self._makers: list[ClickIdMaker] = []

    def id_maker(self, *, worker: int, random_counter: Callable[[], int]) -> ClickIdMaker:
        maker = ClickIdMaker(keyring=self.ring, worker=worker, random_counter=random_counter)
        self._makers.append(maker)
        return maker

    async def look(self) -> None:
        """Take the keys anew when their file has changed."""
        secrets: tuple[tuple[int, bytes], ...] | None = self._file.changed()
        if secrets is None:
            return
        before = dict(self._secrets)
        for number, secret in secrets:
            if before.get(number, secret) != secret:
                log.error("key %d has another secret now: a new key needs a new number; the keys in use stay", number)
                return
        self._secrets = secrets
        self.ring.use(secrets)
        for maker in self._makers:
            maker.use(self.ring)
        numbers = [number for number, _ in secrets]
        log.info("keys were taken anew: %d signs, %s verify", numbers[0], numbers)
        self._taken()
