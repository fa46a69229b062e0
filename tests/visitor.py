"""One visitor, and one shop: a click, a postback, on a connection of their own or a kept one."""

from __future__ import annotations

import http.client
import json
import re
import urllib.parse
from dataclasses import dataclass
from typing import Any, Self

from demo_world import TOKEN
from tracker_process import KEYRING

POSTBACK_SECONDS = 1.5       # the contract: an answer by then, whatever PostgreSQL does; some senders give up at 2
PATIENT_SECONDS = 20.0       # for whoever is not testing that

_TOKEN = re.compile(r"[0-9a-v]{32}")


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, headers by lower-case name, and what the body says: JSON, else text."""

    status: int
    headers: dict[str, str]
    said: Any

    @property
    def location(self) -> str:
        return self.headers["location"]

    @property
    def token(self) -> str:
        """The click id in the Location, verified."""
        [token] = _TOKEN.findall(self.location)
        KEYRING.verify(token)
        return str(token)

    @property
    def uuid(self) -> bytes:
        return KEYRING.verify(self.token).uuid

    @property
    def worker(self) -> int:
        """The number of the worker that answered: it is in the id."""
        return KEYRING.verify(self.token).worker


class Connection:
    """A kept connection. With SO_REUSEPORT the kernel gives it to one worker for its life."""

    def __init__(self, port: int, *, seconds: float = PATIENT_SECONDS) -> None:
        self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def ask(self, method: str, target: str, *, body: bytes | None = None, headers: dict[str, str] | None = None) -> Answer:
        self._http.request(method, target, body, headers or {})
        response = self._http.getresponse()
        raw = response.read().decode()
        said = json.loads(raw) if "json" in response.headers.get_content_type() else raw
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, said)

    def click(self, slug: str = "l1", query: str = "", **headers: str) -> Answer:
        return self.ask("GET", f"/c/{slug}" + (f"?{query}" if query else ""), headers=headers)

    def postback(self, **parameters: str) -> Answer:
        """With the shop's token unless another is given; token="" leaves it out."""
        given = {"token": TOKEN} | parameters
        return self.ask("GET", "/postback?" + urllib.parse.urlencode({name: value for name, value in given.items() if value}))


def click(port: int, slug: str = "l1", query: str = "", **headers: str) -> Answer:
    """A click on a new connection."""
    with Connection(port) as connection:
        return connection.click(slug, query, **headers)


def postback(port: int, **parameters: str) -> Answer:
    """A postback on a new connection, from a patient sender."""
    with Connection(port) as connection:
        return connection.postback(**parameters)


def urgent_postback(port: int, **parameters: str) -> Answer:
    """A postback whose sender gives up when the contract is broken: TimeoutError after 1.5 s without an answer."""
    with Connection(port, seconds=POSTBACK_SECONDS) as connection:
        return connection.postback(**parameters)


def one_connection_per_worker(port: int, workers: int) -> dict[int, Connection]:
    """By worker number; opens connections until each worker has one. The clicks that this takes are on link l2."""
    found: dict[int, Connection] = {}
    for _ in range(1000):
        if len(found) == workers:
            return found
        connection = Connection(port)
        worker = connection.click("l2").worker
        if worker in found:
            connection.close()
        else:
            found[worker] = connection
    raise AssertionError(f"only workers {sorted(found)} answer")
