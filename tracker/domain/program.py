"""Programs, partners, coupons and credentials as the doors need them: enough to credit and to authenticate.

They exist so that a click or a postback can be judged without asking PostgreSQL; the catalog keeps them in memory.
Dated terms (commission, window, enrolment) are not here: decisions read them where the decision is stored.
"""

from __future__ import annotations

import hashlib
import unicodedata
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Literal

AuthMode = Literal["token", "hmac", "ip", "open"]
CredentialKind = Literal["token", "hmac"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """An advertiser's scheme. `pending_cap`: in mode open, at most this many pending conversions a day."""

    program_id: int
    slug: str
    name: str
    currency: str                                       # ISO 4217, of amounts that name none
    auth_mode: AuthMode = "token"
    ip_allow: tuple[IPv4Network | IPv6Network, ...] = ()   # mode ip; empty: nobody
    several_per_key: bool = False
    pending_cap: int = 1000

    def allows_address(self, address: IPv4Address | IPv6Address) -> bool:
        """Whether mode ip lets this sender in. An IPv4 address written as IPv6 (::ffff:1.2.3.4) counts as IPv4."""
        mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        plain = mapped or address
        return any(plain.version == network.version and plain in network for network in self.ip_allow)


@dataclass(frozen=True, slots=True, kw_only=True)
class Partner:
    """Who sends visitors. Whether he is blocked is dated, and judged at the click's time: not here."""

    partner_id: int
    slug: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Coupon:
    """A code that credits a partner without a click. Times in ms since the Unix epoch: from inclusive, to exclusive."""

    coupon_id: int
    program_id: int
    partner_id: int
    code: str
    valid_from_ms: int
    valid_to_ms: int | None = None

    def valid_at(self, moment_ms: int) -> bool:
        return self.valid_from_ms <= moment_ms and (self.valid_to_ms is None or moment_ms < self.valid_to_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """What authenticates postbacks of one or more programs; only living ones are ever in memory."""

    credential_id: int
    kind: CredentialKind
    program_ids: frozenset[int]
    token_hash: bytes | None = None     # kind token: SHA-256
    hmac_secret: bytes | None = None    # kind hmac: in clear, needed to check a signature

    def __repr__(self) -> str:
        """Without the secret: representations end in logs and tracebacks."""
        return f"Credential({self.credential_id}, {self.kind}, programs={sorted(self.program_ids)})"


def coupon_key(code: str) -> str:
    """The form under which a coupon code is looked up: customers type codes in any case and with stray spaces."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", code).strip().casefold())


def token_digest(token: bytes) -> bytes:
    """What is kept of a postback token. Tokens are random: a fast hash is right, there is nothing to guess."""
    return hashlib.sha256(token).digest()
