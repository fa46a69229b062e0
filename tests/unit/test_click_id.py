"""The click id against its published vectors, made again here from the layout alone."""

import base64
import json
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest

from tracker.domain.click_id import BadClickId, ClickIdMaker, Keyring, uuid_time_ms

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "click_ids.json").read_text())["vectors"]


def from_the_layout(vector: Any) -> Any:
    """DESIGN section 2, word by word: big-endian, first field most significant."""
    secret = bytes.fromhex(vector["secret_hex"])
    key = blake2b(b"", key=secret, person=b"click id", digest_size=32).digest()
    flags = "1" if vector["not_spooled"] else "0", "1" if vector["test"] else "0", "0000"
    bits = (
        f"{vector['time_ms']:045b}" + "".join(flags) + f"{vector['key_number']:04b}"
        + f"{vector['link']:030b}" + f"{vector['worker']:015b}" + f"{vector['counter']:020b}"
    )
    head = int(bits, 2).to_bytes(15, "big")
    return head + blake2b(head, key=key, digest_size=5).digest()


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["token"])
def test_an_id_is_made_as_published(vector: Any) -> None:
    keyring = Keyring(((vector["key_number"], bytes.fromhex(vector["secret_hex"])),))
    maker = ClickIdMaker(keyring=keyring, worker=vector["worker"], random_counter=lambda: vector["counter"])
    uuid, token = maker.make(
        vector["time_ms"], vector["link"], test=vector["test"], not_spooled=vector["not_spooled"]
    )
    packed = from_the_layout(vector)
    assert vector["token"] == token.decode() == base64.b32hexencode(packed).decode().lower()
    assert vector["uuid"] == uuid.hex() == packed[:16].hex()
    assert vector["time_ms"] == uuid_time_ms(uuid)
    read = keyring.verify(token.upper())
    assert (uuid, vector["link"], vector["test"], vector["not_spooled"]) == (read.uuid, read.link, read.test, read.not_spooled)
    assert (vector["time_ms"], vector["worker"]) == (read.time_ms, read.worker)


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        (VECTORS[1]["token"][:-1], "truncated"),
        ("", "foreign_format"),
        ("x" * 10_000, "foreign_format"),
        (VECTORS[1]["token"][:-1] + "w", "foreign_format"),     # w is not base32hex
        (VECTORS[1]["token"][:-1] + "é", "foreign_format"),
        ("f47ac10b-58cc-4372-a567-0e02b2c3", "foreign_format"),
        (VECTORS[0]["token"], "unknown_key"),
        (VECTORS[1]["token"][:-1] + ("0" if VECTORS[1]["token"][-1] != "0" else "1"), "forged"),
    ],
)
def test_what_is_not_our_id_is_refused_with_its_reason(token: Any, reason: Any) -> None:
    keyring = Keyring(((3, bytes(range(32))),))
    with pytest.raises(BadClickId) as refused:
        keyring.verify(token)
    assert reason == refused.value.reason


def test_a_reserved_flag_is_refused_even_when_the_mac_is_right() -> None:
    """A later version's flags mean something: an old edge must not guess."""
    secret = bytes(range(32))
    key = blake2b(b"", key=secret, person=b"click id", digest_size=32).digest()
    head = (1 << 75 | 1 << 69 | 3 << 65 | 5 << 35).to_bytes(15, "big")
    token = base64.b32hexencode(head + blake2b(head, key=key, digest_size=5).digest())
    with pytest.raises(BadClickId, match="forged"):
        Keyring(((3, secret),)).verify(token)


def test_rotation_signs_with_the_first_key_and_verifies_with_all() -> None:
    old, new = (1, b"o" * 16), (2, b"n" * 16)

    def token(keyring: Any) -> Any:
        return ClickIdMaker(keyring=keyring, worker=1, random_counter=lambda: 7).make(1000, 5)[1]

    before, between, after = Keyring((old,)), Keyring((old, new)), Keyring((new, old))
    assert token(before) == token(between) != token(after)
    for keyring in (between, after):
        assert 5 == keyring.verify(token(before)).link
    assert 5 == between.verify(token(after)).link      # step one, adding it everywhere, is what makes step two safe
    with pytest.raises(BadClickId, match="unknown_key"):
        before.verify(token(after))


@pytest.mark.parametrize("secrets", [(), ((1, b"a" * 16), (1, b"b" * 16))])
def test_a_keyring_without_keys_or_with_a_number_twice_is_refused(secrets: Any) -> None:
    with pytest.raises(ValueError, match="keyring"):
        Keyring(secrets)
