"""Who sends a postback: a program says how it wants to be convinced, and nothing here asks PostgreSQL.

**Token** (the usual): parameter `token`, or `Authorization: Bearer`. It may cover several programs, the click decides.
**HMAC**: `signature` is the lower-case hex HMAC-SHA256, under the program's secret, of

    timestamp LF METHOD LF target LF body

where timestamp is Unix seconds in digits, METHOD is GET or POST, target is the path and query exactly as sent, less
the pair `sig=…` (and the `&` or `?` before it), body is the raw bytes, empty for GET. Both come as headers
X-Tracker-Timestamp and X-Tracker-Signature, or as `sig_ts=` and `sig=` in the query, where `sig_ts` is part of what is
signed. A message is believed for 300 s around its timestamp. Two secrets or more are valid at once, for changing them.

    secret    b"0123456789abcdef"
    signed    b"1790000000\\nGET\\n/postback?click_id=abc&amount=1&sig_ts=1790000000\\n"
    signature f2a0599e4564341ea19c7ee4413aeb7d623b9e30d586b9a6f0f0455ae607f19f

**IP**: the sender's address is in the program's list. **Open**: a valid click id is enough; such a message is limited.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address

from tracker.domain.postback_message import Authority
from tracker.domain.program import Credential, Program
from tracker.domain.refusal import Reason, Refused
from tracker.domain.values import valueclass
from tracker.storage.catalog.memory import CatalogMemory

TOLERANCE_SECONDS = 300             # clocks differ by seconds, senders' queues by minutes; a replay is a duplicate

_NOBODY = (Credential(credential_id=0, kind="hmac", program_ids=frozenset(), hmac_secret=bytes(32)),)


@valueclass(frozen=True, slots=True)
class Signature:
    """A signature as it came: nothing of it is believed. `signed` is what stands behind `timestamp LF`."""

    timestamp: str
    hex_digest: str
    signed: bytes


@valueclass(frozen=True, slots=True)
class Proof:
    """What a sender shows. Its parts stay out of representations, logs and the journal."""

    client_ip: str
    token: str | None = None
    signature: Signature | None = None

    @property
    def is_empty(self) -> bool:
        """Nothing but an address."""
        return self.token is None and self.signature is None

    def __repr__(self) -> str:
        return f"Proof(token={self.token is not None}, signature={self.signature is not None})"


@valueclass(frozen=True, slots=True)
class Sender:
    """What a request shows of its sender beside the parameters; one for all messages of an array."""

    client_ip: str
    bearer: str | None = None
    timestamp: str | None = None        # header X-Tracker-Timestamp
    hex_digest: str | None = None       # header X-Tracker-Signature
    signed: Callable[[], bytes] = bytes     # what a signature has to cover, from signed_part; few show one

    def __repr__(self) -> str:
        return f"Sender(bearer={self.bearer is not None})"

    def proof(self, secrets: Mapping[str, str]) -> Proof:
        """Headers and secret parameters together. Raises Refused(REPEATED_PARAMETER) when they show two tokens."""
        token = secrets.get("token")
        if token is not None and self.bearer is not None and token != self.bearer:
            raise Refused(Reason.REPEATED_PARAMETER)
        digest, timestamp = self.hex_digest, self.timestamp
        if digest is None:
            digest, timestamp = secrets.get("sig"), secrets.get("sig_ts")
        signature = None if digest is None else Signature(timestamp or "", digest, self.signed())
        return Proof(self.client_ip, token or self.bearer, signature)


def signed_part(method: str, target: bytes, body: bytes) -> bytes:
    """What is signed behind the timestamp, from a request's method, raw target and raw body."""
    path, question, query = target.partition(b"?")
    kept = b"&".join(pair for pair in query.split(b"&") if not pair.startswith(b"sig="))
    return b"\n".join((method.encode(), path + (question if kept else b"") + kept, body))


def sign(secret: bytes, timestamp: str, signed: bytes) -> str:
    """The signature a sender makes: lower-case hex."""
    return hmac.new(secret, _bytes(timestamp) + b"\n" + signed, hashlib.sha256).hexdigest()


def authenticate(catalog: CatalogMemory, program: Program, proof: Proof, *, has_click: bool, now_ms: int) -> Authority:
    """That this sender may speak for `program`, and how far. Raises Refused: BAD_TOKEN, WRONG_PROGRAM, EXPIRED …"""
    if program.auth_mode == "token":
        credential = _token_credential(catalog, proof)
        if program.program_id not in credential.program_ids:
            raise Refused(Reason.WRONG_PROGRAM)
        return Authority(program.program_id, program.currency, credential.credential_id)
    if program.auth_mode == "hmac":
        signer = _signer(catalog.hmac_credentials(program.program_id), proof, now_ms)
        return Authority(program.program_id, program.currency, signer.credential_id)
    if program.auth_mode == "ip":
        if not _address_allowed(program, proof.client_ip):
            raise Refused(Reason.IP_DENIED)
        return Authority(program.program_id, program.currency)
    if not has_click:
        raise Refused(Reason.MISSING_TOKEN)
    return Authority(program.program_id, program.currency, limited=True)


def authenticate_provisionally(
    catalog: CatalogMemory, proof: Proof, named: Program | None, *, now_ms: int
) -> Authority:
    """For a valid click id whose link is unknown here: any live credential vouches until control knows the program.

    `named` is the program the message names, if any: only then is a signature looked at, for trying every secret would
    cost more than one HMAC. The authority has a currency when the credential's programs share one. Raises Refused.
    """
    if proof.token is None and proof.signature is not None and named is not None:
        credential = _signer(catalog.hmac_credentials(named.program_id), proof, now_ms)
    else:
        credential = _token_credential(catalog, proof)
    currencies = {catalog.programs[number].currency for number in credential.program_ids if number in catalog.programs}
    return Authority(None, currencies.pop() if len(currencies) == 1 else None, credential.credential_id)


def refuse_unknown_program(catalog: CatalogMemory, proof: Proof) -> Refused:
    """What to raise for a program nobody has: only who holds a token of some program learns that it is not his."""
    try:
        _token_credential(catalog, proof)
    except Refused as refused:
        return refused
    return Refused(Reason.UNKNOWN_PROGRAM)


def credential_of(catalog: CatalogMemory, proof: Proof) -> int | None:
    """The number of the live credential whose token was shown, for the log of refusals."""
    found = catalog.credential_of_token(_bytes(proof.token)) if proof.token is not None else None
    return None if found is None else found.credential_id


def _token_credential(catalog: CatalogMemory, proof: Proof) -> Credential:
    if proof.token is None:
        raise Refused(Reason.MISSING_TOKEN)
    credential = catalog.credential_of_token(_bytes(proof.token))
    if credential is None:
        raise Refused(Reason.BAD_TOKEN)
    return credential


def _signer(credentials: Iterable[Credential], proof: Proof, now_ms: int) -> Credential:
    """Whose signature it is. A program without secrets costs one HMAC too: time tells nobody which it is."""
    signature = proof.signature
    if signature is None:
        raise Refused(Reason.MISSING_TOKEN)
    shown = _bytes(signature.hex_digest)
    signer = None
    for credential in tuple(credentials) or _NOBODY:
        if credential.hmac_secret is not None:
            made = sign(credential.hmac_secret, signature.timestamp, signature.signed)
            if hmac.compare_digest(made.encode(), shown) and credential.credential_id:
                signer = credential
    if signer is None:
        raise Refused(Reason.BAD_SIGNATURE)
    timestamp = signature.timestamp
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):
        raise Refused(Reason.EXPIRED)
    if abs(int(timestamp) - now_ms // 1000) > TOLERANCE_SECONDS:
        raise Refused(Reason.EXPIRED)
    return signer


def _address_allowed(program: Program, client_ip: str) -> bool:
    try:
        return program.allows_address(ip_address(client_ip))
    except ValueError:
        return False


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")
