"""Credentials of postbacks: made and shown once, revoked, never shown again."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from tracker.domain.fields import CREDENTIAL
from tracker.domain.mistakes import Conflict, FieldMistake, Invalid, NotFound
from tracker.domain.program import CredentialKind, token_digest
from tracker.storage.entities.table import Row, Table, insert_numbered

LIVING_LIMIT = 10   # of one kind and program: two while one is replaced, more for several senders; an end to scripts

_INSERT = """
INSERT INTO credentials (credential_id, kind, label, token_hash, hmac_secret)
VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING RETURNING credential_id
"""
_COVER = "INSERT INTO credential_programs (credential_id, program_id) VALUES ($1, $2)"
_LOCK = "SELECT program_id, slug FROM programs WHERE slug = ANY ($1::text[]) ORDER BY program_id FOR UPDATE"
_LIVING = """
SELECT count(*) FROM credentials JOIN credential_programs USING (credential_id)
 WHERE program_id = ANY ($1::int[]) AND kind = $2 AND revoked_at IS NULL
"""
_REVOKE = """
UPDATE credentials AS c SET revoked_at = coalesce(c.revoked_at, now())
  FROM credential_programs AS cp JOIN programs AS p USING (program_id)
 WHERE c.credential_id = $2 AND cp.credential_id = c.credential_id AND p.slug = $1
RETURNING c.credential_id, c.kind, c.label, c.created_at, c.revoked_at
"""


class Credentials(Table):
    """Of one or more programs."""

    async def issue(self, programs: Sequence[str], *, kind: CredentialKind = "token", label: str = "") -> Row:
        """A new credential for these programs (slugs): its row with `token` or `hmac_secret` (hex), shown this once.

        Raises NotFound (program), Invalid, Conflict when there are too many living ones.
        """
        label = CREDENTIAL.check_new({"label": label} if label else {}).get("label", "")
        # Letters and digits only: tokens travel in URLs that networks fold, quote and mail about. 160 bit.
        secret = secrets.token_hex(20 if kind == "token" else 32)
        stored = (token_digest(secret.encode()), None) if kind == "token" else (None, bytes.fromhex(secret))
        async with self._transaction() as connection:
            found = await connection.fetch(_LOCK, list(programs))
            if not found or len(found) != len(set(programs)):
                raise NotFound("program")
            numbers = [row["program_id"] for row in found]
            if await connection.fetchval(_LIVING, numbers, kind) >= LIVING_LIMIT * len(numbers):
                raise Conflict(f"there are {LIVING_LIMIT} living ones already; revoke one first")
            number = await insert_numbered(connection, _INSERT, kind, label, *stored)
            if number is None:
                raise Conflict("no free number was found; try again")
            for program_id in numbers:
                await connection.execute(_COVER, number, program_id)
        return {
            "credential_id": number,
            "kind": kind,
            "label": label,
            "programs": [row["slug"] for row in found],
            "token" if kind == "token" else "hmac_secret": secret,
        }

    async def revoke(self, program: str, credential_id: int) -> Row:
        """End a credential at once, for all its programs. Raises NotFound (credential); again changes nothing."""
        if not 1 <= credential_id < 1 << 30:
            raise Invalid(FieldMistake("credential_id", "must be a number from 1 to 1073741823"))
        async with self._transaction() as connection:
            record: Any = await connection.fetchrow(_REVOKE, program, credential_id)
        if record is None:
            raise NotFound("credential")
        return dict(record)
