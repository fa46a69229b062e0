"""Plays kept refusals again after a mistake of ours was mended: `tracker postbacks retry`.

It exists because many senders never send twice: a token that lacked a program, or a program made too late, would cost
its sales for good. Secrets were never kept, so a token cannot be checked again. What vouches for a message instead is
what the door wrote down when it still saw the proof, judged by today's catalog:
- it had proven to speak for this very program, and failed later (a bad currency, say); or
- its token or signature was a live credential's, and that credential covers the program now.
All else stays refused: a wrong token, a forged id, an address. A message keeps one id through any number of retries.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import replace
from hashlib import blake2b
from typing import Any

import orjson

from tracker.domain.click_id import Keyring
from tracker.domain.postback import Postback
from tracker.domain.postback_message import Authority, check_subject, compose, read_click_id
from tracker.domain.postback_parameters import Parameters
from tracker.domain.program import Program
from tracker.domain.refusal import CURABLE, Reason, Refused
from tracker.storage.catalog.memory import CatalogMemory
from tracker.storage.catalog.sql import ALL, KINDS
from tracker.storage.conversions.recorder import MAX_GROUP
from tracker.storage.conversions.replay import replay
from tracker.storage.postgres import Connection, Record

_REFUSED = """
SELECT message_id, (extract(epoch FROM received_at) * 1000)::bigint AS received_ms, message FROM postback_log
 WHERE outcome = 'refused' AND reason = ANY($1) AND received_at >= to_timestamp($2 / 1000.0)
 ORDER BY received_at, message_id
"""


async def retry_refusals(
    reader: Connection, writer: Connection, keyring: Keyring, *, since_ms: int, reasons: Collection[Reason] = CURABLE
) -> dict[str, int]:
    """Play refusals received since then again; how many ended how: an answer's status, or `refused: reason`.

    Repeating it changes nothing. Raises what is an outage: what was committed by then stays.
    """
    memory = await _read_catalog(reader)
    tally: dict[str, int] = {}
    async for rows in _refused(reader, [reason.value for reason in reasons], since_ms):
        messages = []
        for row in rows:
            try:
                messages.append(message_again(memory, keyring, row))
            except Refused as refused:
                _add(tally, {f"refused: {refused.reason}": 1})
        _add(tally, await replay(writer, messages))
    return tally


def message_again(memory: CatalogMemory, keyring: Keyring, row: Mapping[str, Any] | Record) -> Postback:
    """The message of a refusal's row in the log, judged anew. Raises Refused."""
    logged: dict[str, Any] = orjson.loads(row["message"])
    parameters = Parameters.from_log(logged)
    click = read_click_id(parameters, keyring)
    named = parameters.get("program")
    if click is None:
        check_subject(parameters)
        program = memory.program_by_slug.get(named or "")
    else:
        link = memory.links.numbered(click.link)
        program = None if link is None else memory.programs.get(link.program_id)
    if program is None:
        raise Refused(Reason.UNKNOWN_PROGRAM)
    if named not in (None, program.slug):
        raise Refused(Reason.WRONG_PROGRAM)
    authority = _authority(memory, program, logged)
    draft = compose(parameters, received_ms=row["received_ms"], click=click, authority=authority)
    return replace(draft, message_id=retry_id(row["message_id"].bytes))


def retry_id(message_id: bytes) -> bytes:
    """The id a refusal's message is played under: always the same, never a refusal's own."""
    return blake2b(message_id, digest_size=16, person=b"postback retry").digest()


def _authority(memory: CatalogMemory, program: Program, logged: Mapping[str, Any]) -> Authority:
    credential_id = logged.get("_credential_id")
    if logged.get("_program_id") == program.program_id:
        return Authority(program.program_id, program.currency, credential_id, limited=bool(logged.get("_limited")))
    credential = memory.credentials.get(credential_id or 0)
    if credential is None:
        raise Refused(Reason.BAD_TOKEN)
    if credential.kind != program.auth_mode or program.program_id not in credential.program_ids:
        raise Refused(Reason.WRONG_PROGRAM)
    return Authority(program.program_id, program.currency, credential_id)


async def _read_catalog(connection: Connection) -> CatalogMemory:
    memory = CatalogMemory()
    for kind in KINDS:
        for row in await connection.fetch(ALL[kind]):
            memory.put(kind, tuple(row))
    return memory


async def _refused(connection: Connection, reasons: list[str], since_ms: int) -> AsyncIterator[list[Record]]:
    async with connection.transaction(readonly=True):
        cursor = await connection.cursor(_REFUSED, reasons, since_ms)
        while rows := await cursor.fetch(MAX_GROUP):
            yield rows


def _add(tally: dict[str, int], more: Mapping[str, int]) -> None:
    for name, count in more.items():
        tally[name] = tally.get(name, 0) + count
