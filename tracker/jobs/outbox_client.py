"""One request to a stranger's server: only to an address that may be reached, never for long, never much of the answer.

A name is resolved once, every address it has is judged (domain/addresses.py), and the connection goes to one of those very
addresses: asking again would let a name server answer otherwise the second time (DNS rebinding). No redirect is followed,
nothing of the environment (proxies, .netrc) is looked at, no cookie is kept, no answer is unpacked, logged or kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import ip_address
from typing import Any, Final, NamedTuple, Self

from aiohttp import (
    ClientConnectorDNSError,
    ClientError,
    ClientSession,
    ClientSSLError,
    ClientTimeout,
    DummyCookieJar,
    TCPConnector,
)
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from tracker.domain.addresses import Address, Network, literal, may_reach
from tracker.domain.endpoint import authority_of
from tracker.domain.outgoing import Outcome, Request

SECONDS: Final = 5.0             # for all of it. A tracker that needs longer is down; every attempt holds one of few places
ANSWER_BYTES: Final = 64 * 1024  # an honest answer is "OK"; whoever sends a page is not the tracker that was meant
READ_BYTES: Final = 16 * 1024    # in memory at a time
LOOK_UPS: Final = 32             # names being resolved at once; each holds a thread, some for half a minute

LookUp = Callable[[str, int], Awaitable[Sequence[str]]]
"""All addresses of a name, as text; OSError when it has none."""


class RefusedAddressError(OSError):
    """A name stands for an address that may not be reached."""


class Answer(NamedTuple):
    """How it ended; `status` where something was answered."""

    outcome: Outcome
    status: int | None = None


class OutboxClient:
    """Use it as a context manager, in the loop that sends. `allowed`: networks that may be reached though private."""

    def __init__(self, allowed: Sequence[Network] = (), *, look_up: LookUp | None = None, seconds: float = SECONDS) -> None:
        self._allowed, self._seconds = tuple(allowed), seconds
        self._look_up = look_up or SystemLookUp()
        self._session: ClientSession | None = None

    async def __aenter__(self) -> Self:
        # A connection that was kept would go to an address that was judged for another request.
        connector = TCPConnector(
            resolver=_JudgingResolver(self._look_up, self._allowed), use_dns_cache=False, force_close=True, limit=0
        )
        self._session = ClientSession(
            connector=connector, cookie_jar=DummyCookieJar(), trust_env=False, auto_decompress=False, read_bufsize=READ_BYTES,
            timeout=ClientTimeout(total=self._seconds),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._session is not None
        await self._session.close()

    async def send(self, request: Request) -> Answer:
        """Send it. Whatever the other side does is an outcome, no exception."""
        host, port = authority_of(request.url)
        try:
            address = literal(host)
        except ValueError:
            return Answer("refused")
        if address is not None and not may_reach(address, port, self._allowed):
            return Answer("refused")
        try:
            return await self._ask(request)
        except TimeoutError:
            return Answer("timeout")
        except ClientConnectorDNSError as error:
            return Answer("refused" if isinstance(error.__cause__, RefusedAddressError) else "unresolved")
        except ClientSSLError:
            return Answer("tls")
        except (ClientError, OSError, ValueError):      # ValueError: what is no HTTP, in places
            return Answer("connection")

    async def _ask(self, request: Request) -> Answer:
        assert self._session is not None
        asking = self._session.request(
            request.method, URL(request.url, encoded=True), data=request.body, headers=request.headers, allow_redirects=False
        )
        async with asking as response:
            try:
                if not 200 <= response.status < 300:
                    return Answer("status", response.status)
                read = 0
                async for piece in response.content.iter_any():
                    read += len(piece)
                    if read > ANSWER_BYTES:
                        return Answer("too_long", response.status)
            finally:
                response.close()
        return Answer("sent", response.status)


class _JudgingResolver(AbstractResolver):
    """aiohttp connects to what this gives. One address that may not be reached refuses the name: whoever has both means harm."""

    def __init__(self, look_up: LookUp, allowed: Sequence[Network]) -> None:
        self._look_up, self._allowed = look_up, allowed

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC) -> list[ResolveResult]:  # noqa: ARG002
        addresses = [ip_address(text) for text in await self._look_up(host, port)]
        if not addresses:
            raise OSError("no address")
        if not all(may_reach(address, port, self._allowed) for address in addresses):
            raise RefusedAddressError("not a public address")
        return [_result(host, address, port) for address in addresses]

    async def close(self) -> None:
        """Nothing is kept."""


def _result(host: str, address: Address, port: int) -> ResolveResult:
    return ResolveResult(
        hostname=host, host=str(address), port=port, family=socket.AF_INET if address.version == 4 else socket.AF_INET6,
        proto=0, flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
    )


class SystemLookUp:
    """The system's resolver, in threads of its own: it cannot be stopped, and a slow one must hold up nobody's exit."""

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(LOOK_UPS)

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        await self._places.acquire()
        loop = asyncio.get_running_loop()
        found: asyncio.Future[list[str]] = loop.create_future()

        def tell(result: list[str] | OSError) -> None:
            self._places.release()
            if found.done():      # nobody waits any more
                return
            if isinstance(result, OSError):
                found.set_exception(result)
            else:
                found.set_result(result)

        def look() -> None:
            result: list[str] | OSError
            try:
                infos: list[Any] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                result = list(dict.fromkeys(info[4][0] for info in infos))
            except (OSError, UnicodeError) as error:     # UnicodeError: a label that no name may have
                result = error if isinstance(error, OSError) else OSError(str(error))
            with contextlib.suppress(RuntimeError):      # the loop has ended
                loop.call_soon_threadsafe(tell, result)

        try:
            threading.Thread(target=look, name="look-up", daemon=True).start()
        except RuntimeError as error:      # the machine has no room for another
            self._places.release()
            raise OSError(str(error)) from error
        return await found
