"""The click id against its published vectors, made again here from the layout alone."""

import base64
import json
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest

from tracker.domain import click_id
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


def test_both_ways_of_spelling_are_one() -> None:
    """The compiled one answers where there is a compiler, its twin everywhere else."""
    for vector in VECTORS:
        packed = base64.b32hexdecode(vector["token"].upper())
        assert vector["token"].encode() == click_id.spell_in_python(packed) == click_id.spell(packed)


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        (VECTORS[1]["token"][:-1], "truncated"),
        ("a", "truncated"),
        ("", "foreign_format"),
        ("a-b", "foreign_format"),
        ("a" * 33, "foreign_format"),
        ("\ud800" * 32, "foreign_format"),      # a lone surrogate, as JSON can hold it
        ("x" * 10_000, "foreign_format"),
        (VECTORS[1]["token"][:-1] + "w", "foreign_format"),     # w is not base32hex
        (VECTORS[1]["token"][:-1] + "é", "foreign_format"),
        ("f47ac10b-58cc-4372-a567-0e02b2c3", "foreign_format"),
        *((odd + VECTORS[1]["token"][1:], "foreign_format") for odd in "+- \t"),       # int() would take all of these
        (VECTORS[1]["token"][:5] + "_" + VECTORS[1]["token"][6:], "foreign_format"),
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


def test_the_limits_are_those_of_the_layout() -> None:
    limits = (click_id.TIME_LIMIT, click_id.LINK_LIMIT, click_id.WORKER_LIMIT, click_id.COUNTER_LIMIT, click_id.TOKEN_LENGTH)
    assert (2**45, 2**30, 2**15, 2**20, 32) == limits


@pytest.mark.parametrize("worker", [-1, 2**15])
def test_a_worker_number_that_does_not_fit_is_refused(worker: int) -> None:
    """One bit more would be a bit of the link: the sale would be somebody else's."""
    with pytest.raises(ValueError, match="15 bits"):
        ClickIdMaker(keyring=Keyring(((3, b"k" * 16),)), worker=worker, random_counter=lambda: 0)


def moment_and_counter(uuid: bytes) -> tuple[int, int]:
    return uuid_time_ms(uuid), int.from_bytes(uuid[:15], "big") & 0xFFFFF


def test_a_counter_goes_round_once_and_then_takes_the_next_millisecond(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four ids a millisecond instead of 2^20: whatever the first counter, each is used once."""
    monkeypatch.setattr(click_id, "COUNTER_LIMIT", 4)
    monkeypatch.setattr(click_id, "Run", click_id.RunInPython)       # the compiled twin has the true limit alone
    maker = ClickIdMaker(keyring=Keyring(((3, b"k" * 16),)), worker=1, random_counter=lambda: 2)
    made = [moment_and_counter(maker.make(1000, 5)[0]) for _ in range(6)]
    assert [(1000, 2), (1000, 3), (1000, 0), (1000, 1), (1001, 2), (1001, 3)] == made
    assert (1001, 0) == moment_and_counter(maker.make(999, 5)[0])       # a clock set back
    assert (2000, 2) == moment_and_counter(maker.make(2000, 5)[0])
    assert (0, 2) == moment_and_counter(
        ClickIdMaker(keyring=Keyring(((3, b"k" * 16),)), worker=1, random_counter=lambda: 2).make(0, 5)[0])


def test_another_key_signs_from_the_next_millisecond_on() -> None:
    """Under a number that was used before in this one, with other bytes behind it, an id could come twice."""
    old, new = Keyring(((3, b"o" * 16),)), Keyring(((4, b"n" * 16),))
    maker = ClickIdMaker(keyring=old, worker=1, random_counter=lambda: 7)
    before, token = maker.make(1000, 5)
    assert (False, False) == (old.verify(token).test, old.verify(token).not_spooled)       # an id is plain unless told
    maker.use(new)
    uuid, token = maker.make(1000, 5)
    assert (1000, 1001) == (uuid_time_ms(before), new.verify(token).time_ms)
    assert (1001, 7) == moment_and_counter(uuid)      # a millisecond of its own, so a counter of its own
    with pytest.raises(BadClickId, match="unknown_key"):
        old.verify(token)


def test_keys_are_exchanged_under_those_who_verify_and_sign_with_them() -> None:
    keyring = Keyring(((3, b"o" * 16),))
    keyring.use(((4, b"n" * 16), (3, b"o" * 16)))
    assert (4, b"n" * 16) == (keyring.signing_number, keyring.signing_secret)
    assert click_id.sub_key(b"n" * 16, b"click id") == keyring.signing_key
    assert click_id.sub_key(b"n" * 16, b"visitor") != keyring.signing_key
