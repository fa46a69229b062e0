"""What an edge knows of the catalog: indexes over rows, and the rows themselves as they came.

A row is a JSON list, its id first, in the columns of catalog/sql.py; PostgreSQL and the snapshot on disk both speak it,
so one function takes in both. Rows are kept encoded: equal bytes mean nothing to compile again (a reload of 100,000
known links then costs microseconds a row), and the snapshot is written without encoding anything.

No I/O in here. The dictionaries are changed in place and never replaced: the hot path holds on to them.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Callable, Sequence
from functools import partial
from ipaddress import ip_network
from typing import Any, TypeVar

import orjson

from tracker.domain.program import Coupon, Credential, Partner, Program, coupon_key, token_digest
from tracker.storage.catalog.links import BAD_ROW, Links
from tracker.storage.catalog.sql import KINDS, Kind

log = logging.getLogger(__name__)

_NO_DIGEST = bytes(32)

K = TypeVar("K")
V = TypeVar("V")


class CatalogMemory:
    """All links and all that the doors need. `links` is by slug and holds archived and paused links too."""

    def __init__(self) -> None:
        self.rows: dict[Kind, dict[int, bytes]] = {kind: {} for kind in KINDS}
        self.links = Links(self.rows["links"], partial(self._leave_out, "links"))
        self.programs: dict[int, Program] = {}
        self.program_by_slug: dict[str, Program] = {}
        self.partners: dict[int, Partner] = {}
        self.partner_by_slug: dict[str, Partner] = {}
        self.coupons: dict[tuple[int, str], Coupon] = {}         # by program and coupon_key(code)
        self.credentials: dict[int, Credential] = {}             # living ones only
        self.bad_rows: set[tuple[Kind, int]] = set()             # known to exist, but they make no sense here
        self._coupons_by_id: dict[int, Coupon] = {}
        self._tokens: dict[bytes, Credential] = {}
        self._hmac: dict[int, tuple[Credential, ...]] = {}
        self._take_in: dict[Kind, Callable[[Sequence[Any]], None]] = {
            "programs": self._program,
            "partners": self._partner,
            "links": self.links.take_in,
            "coupons": self._coupon,
            "credentials": self._credential,
        }
        self._forget: dict[Kind, Callable[[int], None]] = {
            "programs": self._forget_program,
            "partners": self._forget_partner,
            "links": self.links.forget,
            "coupons": self._forget_coupon,
            "credentials": self._forget_credential,
        }

    def credential_of_token(self, token: bytes) -> Credential | None:
        """Whose postback token this is. An unknown token costs the same comparison as a known one."""
        digest = token_digest(token)
        found = self._tokens.get(digest)
        kept = found.token_hash if found and found.token_hash else _NO_DIGEST
        return found if hmac.compare_digest(kept, digest) else None

    def hmac_credentials(self, program_id: int) -> tuple[Credential, ...]:
        """The HMAC secrets that may sign this program's postbacks: two or more while they are being changed."""
        return self._hmac.get(program_id, ())

    def coupon(self, program_id: int, code: str) -> Coupon | None:
        return self.coupons.get((program_id, coupon_key(code)))

    def put(self, kind: Kind, row: Sequence[Any]) -> bool:
        """Take in a row; whether it was news. A row that makes no sense is logged, remembered in bad_rows and left out:
        what was known under its id stays, and the rest of the catalog goes on."""
        number: int = row[0]
        encoded = orjson.dumps(row)
        if self.rows[kind].get(number) == encoded:
            return False
        encoded = bytes(memoryview(encoded))    # what orjson makes keeps the 4 KB it was made in
        try:
            self._take_in[kind](row)
        except BAD_ROW as exc:
            self._leave_out(kind, number, exc)
            return False
        self.bad_rows.discard((kind, number))
        self.rows[kind][number] = encoded
        return True

    def drop(self, kind: Kind, number: int) -> None:
        """Forget a row: only after a restore of the database can one be gone."""
        self._forget[kind](number)
        self.rows[kind].pop(number, None)
        self.bad_rows.discard((kind, number))

    def _leave_out(self, kind: Kind, number: int, why: Exception) -> None:
        if (kind, number) not in self.bad_rows:
            self.bad_rows.add((kind, number))
            log.warning("catalog: row %d of %s is left out: %s", number, kind, why)

    def _program(self, row: Sequence[Any]) -> None:
        number, slug, name, currency, auth_mode, ip_allow, several_per_key, pending_cap = row
        networks = tuple(ip_network(text) for text in ip_allow)
        self._forget_program(number)
        self.programs[number] = self.program_by_slug[slug] = Program(
            program_id=number, slug=slug, name=name, currency=currency, auth_mode=auth_mode, ip_allow=networks,
            several_per_key=several_per_key, pending_cap=pending_cap,
        )  # fmt: skip

    def _forget_program(self, number: int) -> None:
        if old := self.programs.pop(number, None):
            _remove(self.program_by_slug, old.slug, old)

    def _partner(self, row: Sequence[Any]) -> None:
        number, slug, name = row
        self._forget_partner(number)
        self.partners[number] = self.partner_by_slug[slug] = Partner(partner_id=number, slug=slug, name=name)

    def _forget_partner(self, number: int) -> None:
        if old := self.partners.pop(number, None):
            _remove(self.partner_by_slug, old.slug, old)

    def _coupon(self, row: Sequence[Any]) -> None:
        number, program_id, partner_id, code, valid_from_ms, valid_to_ms = row
        self._forget_coupon(number)
        self._coupons_by_id[number] = self.coupons[program_id, coupon_key(code)] = Coupon(
            coupon_id=number, program_id=program_id, partner_id=partner_id, code=code, valid_from_ms=valid_from_ms,
            valid_to_ms=valid_to_ms,
        )  # fmt: skip

    def _forget_coupon(self, number: int) -> None:
        if old := self._coupons_by_id.pop(number, None):
            _remove(self.coupons, (old.program_id, coupon_key(old.code)), old)

    def _credential(self, row: Sequence[Any]) -> None:
        number, kind, program_ids, token_hash, hmac_secret, revoked = row
        new = Credential(
            credential_id=number, kind=kind, program_ids=frozenset(program_ids),
            token_hash=None if token_hash is None else bytes.fromhex(token_hash),
            hmac_secret=None if hmac_secret is None else bytes.fromhex(hmac_secret),
        )  # fmt: skip
        self._forget_credential(number)
        if revoked:
            return
        self.credentials[number] = new
        if new.token_hash is not None:
            self._tokens[new.token_hash] = new
        if new.hmac_secret is not None:
            for program_id in new.program_ids:
                self._hmac[program_id] = (*self._hmac.get(program_id, ()), new)

    def _forget_credential(self, number: int) -> None:
        old = self.credentials.pop(number, None)
        if old is None:
            return
        if old.token_hash is not None:
            self._tokens.pop(old.token_hash, None)
        for program_id in old.program_ids:
            left = tuple(one for one in self._hmac.get(program_id, ()) if one.credential_id != number)
            if left:
                self._hmac[program_id] = left
            else:
                self._hmac.pop(program_id, None)


def _remove(index: dict[K, V], key: K, value: V) -> None:
    """Only if it is this one: another row may have come under the key since."""
    if index.get(key) is value:
        del index[key]
