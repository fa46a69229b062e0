"""The derivation of conversion ids, against the published vectors and against a second, plain implementation."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tracker.domain.conversion_id import ConversionKey, canonical_event, canonical_txid, key_of
from tracker.domain.postback import Postback

VECTORS = json.loads((Path(__file__).parent.parent / "vectors/conversion_ids.json").read_text())["vectors"]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_published_vectors_hold(vector: dict[str, Any]) -> None:
    """Danger: one byte of difference and every sale that is delivered again is paid again."""
    click_id = bytes.fromhex(vector["click_id"]) if vector["click_id"] else None
    key = ConversionKey(
        vector["program_id"], canonical_event(vector["event"]), canonical_txid(vector["txid"]), click_id,
        vector["discriminator"],
    )
    assert vector["conversion_id"] == key.conversion_id.hex()


def test_the_rule_is_what_the_design_says() -> None:
    parts = [b"7", b"sale", b"txid", "Café".encode(), b""]
    framed = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    assert hashlib.blake2b(framed, digest_size=16).digest() == ConversionKey(7, "sale", "Café", None).conversion_id


def test_same_ids_in_the_vectors_are_the_ones_meant() -> None:
    by_name = {vector["name"]: vector["conversion_id"] for vector in VECTORS}
    same = {"a sale by its order number", "event missing: sale", "event in capitals is the same event",
            "blanks around the order number do not count"}
    assert 1 == len({by_name[name] for name in same})
    assert len(VECTORS) - 4 == len(set(by_name.values()))


def message(**fields: Any) -> Postback:
    return Postback(**{"message_id": bytes(15) + b"\x05", "received_ms": 1, "program_id": 7, "click_id": None,
                       "link_id": None, **fields})


def test_a_txid_wins_over_the_click_as_key() -> None:
    key = key_of(message(txid="A", click_id=bytes(16)), several_per_key=False)
    assert ConversionKey(7, "sale", "A", None) == key


def test_without_a_txid_the_click_is_the_key() -> None:
    assert ConversionKey(7, "sale", None, b"c" * 16) == key_of(message(click_id=b"c" * 16), several_per_key=False)


def test_event_ids_count_only_where_the_program_allows_several() -> None:
    """Danger: a program of one sale per order must not be paid twice because a sender numbers its events."""
    first, second = message(txid="A", event_id="1"), message(txid="A", event_id="2")
    assert key_of(first, several_per_key=False) == key_of(second, several_per_key=False)
    assert key_of(first, several_per_key=True) != key_of(second, several_per_key=True)


def test_without_event_id_the_journal_id_tells_several_apart() -> None:
    key = key_of(message(txid="A"), several_per_key=True)
    assert "00" * 15 + "05" == key.discriminator


@pytest.mark.parametrize("fields", [{"program_id": None, "txid": "A"}, {}])
def test_a_message_without_program_or_subject_has_no_key(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"program|txid"):
        _ = key_of(message(**fields), several_per_key=False).conversion_id
