"""What is fuzzed: each target is a function of any bytes that raises when a promise is broken, and the bytes to begin with.

Randomness with a shape (tests/property) finds what its author thought of. Here the fuzzer sees which branches an input took,
and keeps what reached a new one: it walks into corners by itself.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from hashlib import blake2b
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from model_fs import ModelFs
from spools import COLUMNS, DIRECTORY, SPOOL_ID, read_all

from tracker.domain.click_id import BadClickId, ClickIdMaker, Keyring, spell, spell_in_python
from tracker.domain.link import BadTemplate, parse_template, passed_query, percent_encode
from tracker.domain.postback_message import Authority, check_subject, compose, read_click_id
from tracker.domain.postback_parameters import Pair, gather, read_json, read_urlencoded
from tracker.domain.refusal import Refused
from tracker.storage.clicks.query_columns import take_any_query, take_query
from tracker.storage.spool.reader import LogReader
from tracker.storage.spool.segments import DATA_START, SegmentHeader, encode_header, pack_frame, pack_rows, parse_header
from tracker.web.framing import frame, plain_click, plain_click_in_python

SECRET: Final = bytes(range(32))
KEYRING: Final = Keyring(((3, SECRET),))
NOW_MS: Final = 1_790_000_000_000
TOKEN: Final = ClickIdMaker(keyring=KEYRING, worker=1, random_counter=lambda: 7).make(NOW_MS, 5)[1]


class Target(NamedTuple):
    check: Callable[[bytes], None]
    seeds: tuple[bytes, ...]


# The spool: two segments of small frames, over which the input writes; two bytes of place (from the first frame on, or in a
# header), one of length, the bytes. What is read back must be among what was written.
_FRAMES: Final = (([b"first", b"", b"third row"], [b"x" * 30]), ([b"4", b"5"], [b"six"]))
_ROWS: Final = dict(enumerate(row for frames in _FRAMES for rows in frames for row in rows))
_NONCES: Final = (0x1122334455667788, 0x99AABBCCDDEEFF01)


def _segments() -> list[bytes]:
    files, seq = [], 0
    for nonce, frames in zip(_NONCES, _FRAMES, strict=True):
        data = encode_header(SegmentHeader("clicks", SPOOL_ID, nonce, seq, COLUMNS))
        for rows in frames:
            data, seq = data + pack_frame(nonce, seq, len(rows), pack_rows(rows)), seq + len(rows)
        files.append(data + bytes(100))
    return files


SEGMENTS: Final = _segments()


def spool(raw: bytes) -> None:
    files = [bytearray(data) for data in SEGMENTS]
    at = 0
    while len(head := raw[at : at + 3]) == 3:
        file, place, size = files[head[0] & 1], int.from_bytes(head[:2], "big") >> 1 & 0x1FFF, head[2]
        place += 0 if head[0] & 0x80 else DATA_START
        file[place : place + size] = raw[at + 3 : at + 3 + size]     # shorter than `size` at the end: bytes are cut out
        at += 3 + size
    fs = ModelFs()
    fs.mkdir(DIRECTORY, parents=True)
    for index, file in enumerate(files):
        fs.pwrite(fs.open_new(DIRECTORY / f"clicks-{index:08d}.seg"), bytes(file), 0)
    assert read_all(LogReader(DIRECTORY, "clicks", spool_id=SPOOL_ID, fs=fs)).items() <= _ROWS.items()     # and no exception
    assert parse_header(raw) in (None, parse_header(SEGMENTS[0]), parse_header(SEGMENTS[1]))


def click_id(raw: bytes) -> None:
    """An id is taken only when its MAC is right by a second reckoning, from the layout alone."""
    flipped = bytes(a ^ b for a, b in zip(TOKEN, raw.ljust(len(TOKEN), b"\0"), strict=False))
    for token in (raw, flipped, raw.decode("utf-8", "replace")):
        try:
            taken = KEYRING.verify(token)
        except BadClickId as bad:
            assert bad.reason in ("truncated", "foreign_format", "unknown_key", "forged")
            continue
        packed = base64.b32hexdecode(token, casefold=True)
        key = blake2b(b"", key=SECRET, person=b"click id", digest_size=32).digest()
        assert blake2b(packed[:15], key=key, digest_size=5).digest() == packed[15:]
        assert taken.uuid == packed[:16]
    body = raw[:20].ljust(20, b"\0")
    assert base64.b32hexencode(body).lower() == spell(body) == spell_in_python(body)


def framing(raw: bytes) -> None:
    """The twins agree on any bytes, and what is a plain click is a request that ends where the framing says."""
    for start in {0, min(len(raw), 3)}:
        taken = plain_click(raw, start)
        assert plain_click_in_python(raw, start) == taken
        end = frame(raw, start)
        assert end >= -1
        assert taken is None or taken[2] == end


def query(raw: bytes) -> None:
    """A query (behind a template and a line end) is taken alike by the twins; the answer's host is the template's."""
    first_line, _, visited = raw.partition(b"\n")
    text = first_line.decode("utf-8", "replace")
    asked: tuple[bytes, ...] = (b"utm_source", b"test", b"sub1", b"ext")
    try:
        template = parse_template(text, {"partner": "al ice&x=1"})
    except BadTemplate as bad:
        assert 0 <= bad.position <= len(text)
    else:
        asked = template.asked_names
        said = dict(zip(asked[2:], take_query(visited, asked)[1][2:], strict=True))
        passed = bytes(byte for byte in visited if 0x21 <= byte < 0x7F)     # what the door lets through
        location = template.fill(
            lambda slot: percent_encode(said.get(slot.removeprefix("query.").encode(), b"")), passed_query(passed, template)
        )
        assert all(0x21 <= byte < 0x7F for byte in location)
        authority = text.partition("://")[2]
        for mark in "/?#":
            authority = authority.partition(mark)[0]
        assert authority == urlsplit(location.decode()).netloc
    assert take_any_query(visited, asked) == take_query(visited, asked)


def postback(raw: bytes) -> None:
    """Any query, form or JSON body is messages or refusals."""
    for limited in (False, True):
        _judge(read_urlencoded(raw), Authority(program_id=7, currency="EUR", limited=limited))
    try:
        items, _ = read_json(raw, most_items=3)
    except Refused:
        return
    for pairs in items:
        _judge(pairs, Authority(program_id=None, currency=None))


def _judge(pairs: list[Pair], authority: Authority) -> None:
    try:
        parameters = gather(pairs)
        click = read_click_id(parameters, KEYRING)
        if click is None:
            check_subject(parameters)
        message = compose(parameters, received_ms=NOW_MS, click=click, authority=authority)
    except Refused:
        return
    stored = json.dumps(message.to_json(), ensure_ascii=False).encode()
    assert b"\0" not in stored
    assert message == type(message).from_json(message.message_id, json.loads(stored))
    assert (message.amount is None) == (message.currency is None)


REQUEST: Final = (
    b"GET /c/slug/?sub1=a%20b HTTP/1.1\r\nHost: a:80\r\nUser-Agent: \tx y \r\nReferer: http://b/\r\nX-Forwarded-For: 1.1.1.1 \r\n"
    b"Sec-Purpose: prefetch\r\nConnection: keep-alive\r\nAccept: */*\r\n\r\n"
)
SALE: Final = b"click_id=" + TOKEN + b"&txid=A%201&amount=12.50&currency=eur&status=approved&ts=1789999999&event=Sale&sub={x}"
TARGETS: Final = {
    "spool": Target(spool, (b"\x00\x00\x08", b"\x00\x2c\x01\xff", b"\x80\x08\x02\xff\xff", b"\x01\x10\x04\0\0\0\0", *SEGMENTS)),
    "click_id": Target(click_id, (TOKEN, TOKEN.upper(), TOKEN[:-1], b"0" * 32, b"\0" * 32)),
    "framing": Target(framing, (
        REQUEST, REQUEST * 2, REQUEST[:-4], b"POST /postback HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\na=b",
        b"HEAD /c/a HTTP/1.1\r\nhost: a\r\nPurpose: x\r\n\r\n",
    )),
    "query": Target(query, (
        b"https://shop.example/p/{sub1}?cid={click_id}&g={query.gclid}&p={partner}#{ext}\nsub1=a+b&sub10=%41&gclid=x&gclid=y&a",
        b"http://[::1]:80/\nsub1=%00&sub1=b&ext=%c3%a9&utm_source=\xff&test=1",
        b"\n" + b"&".join(b"%d=%d" % (n, n) for n in range(66)),
    )),
    "postback": Target(postback, (
        SALE, b"txid=A&program=x&amount=1&currency=", json.dumps([{"txid": "A", "program": "x", "amount": 1.5}]).encode(),
        json.dumps({"click_id": TOKEN.decode(), "txid": None, "ts": "2026-09-21T10:00:00+02:00"}).encode(), b'{"a":[{}]}',
    )),
}
