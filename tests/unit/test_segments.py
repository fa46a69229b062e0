"""The bytes of a segment, as documented at the top of segments.py."""

import zlib

import pytest

from tracker.storage.spool.segments import (
    DATA_START,
    FRAME_HEADER_BYTES,
    HEADER_SLOT_BYTES,
    Column,
    SegmentHeader,
    encode_header,
    frame_is_whole,
    pack_frame,
    pack_rows,
    parse_frame_header,
    parse_header,
    parse_segment_name,
    row_lengths,
    segment_name,
)

HEADER = SegmentHeader("journal", 2**63 - 1, 2**64 - 1, 12345, (Column("message", 114), Column("späße", 2**32 - 1)))


def test_a_header_reads_back_from_either_copy() -> None:
    """A torn first page must not make a whole segment unreadable."""
    data = encode_header(HEADER)
    assert len(data) == DATA_START
    assert parse_header(data) == HEADER
    assert parse_header(bytes(HEADER_SLOT_BYTES) + data[HEADER_SLOT_BYTES:]) == HEADER
    assert parse_header(data[:HEADER_SLOT_BYTES]) == HEADER


def test_a_header_with_any_bit_flipped_in_either_copy_reads_back_the_same() -> None:
    """A flipped bit that went unseen would name another spool, another first number, other columns."""
    data = bytearray(encode_header(HEADER))
    for bit in range(DATA_START * 8):
        if bit % (HEADER_SLOT_BYTES * 8) >= 8 * 128:  # the header is shorter than 128 bytes; behind it is padding
            continue
        data[bit // 8] ^= 1 << bit % 8
        assert parse_header(bytes(data)) == HEADER
        data[bit // 8] ^= 1 << bit % 8


@pytest.mark.parametrize("data", [b"", b"\0" * DATA_START, b"TRKSEG\r\n", b"\xff" * DATA_START], ids=len)
def test_what_is_no_header_is_none(data: bytes) -> None:
    assert parse_header(data) is None


def test_a_header_whose_both_copies_are_damaged_is_none() -> None:
    data = bytearray(encode_header(HEADER))
    data[20] ^= 1
    data[HEADER_SLOT_BYTES + 30] ^= 1
    assert parse_header(bytes(data)) is None


def test_columns_that_do_not_fit_a_page_are_refused() -> None:
    """A header cut to fit would be unreadable at the next start."""
    fits = (*(Column("x" * 250, n) for n in range(15)), Column("x" * 220, 15))     # to the last byte
    header = SegmentHeader("clicks", 1, 1, 0, fits)
    assert header == parse_header(encode_header(header))
    with pytest.raises(ValueError, match="columns need 4097 bytes"):
        encode_header(SegmentHeader("clicks", 1, 1, 0, (*fits[:-1], Column("x" * 221, 15))))


def test_a_header_without_columns_is_one_and_a_shorter_one_is_none() -> None:
    """Its size is what the file says: one that would put the checksum inside the fixed part is nothing we wrote."""
    header = SegmentHeader("clicks", 1, 1, 0, ())
    data = bytearray(encode_header(header)[:HEADER_SLOT_BYTES])
    assert header == parse_header(bytes(data))
    assert 46 == int.from_bytes(data[12:16], "big")
    for size in (38, 45):
        data[12:16] = size.to_bytes(4, "big")
        data[size - 4 : size] = zlib.crc32(data[: size - 4]).to_bytes(4, "big")
        assert parse_header(bytes(data)) is None


def test_a_frame_has_exactly_the_documented_bytes() -> None:
    """Files outlive versions of this program: the layout may only change with the version number in the header."""
    assert (4096, 8192, 28) == (HEADER_SLOT_BYTES, DATA_START, FRAME_HEADER_BYTES)
    head = bytes.fromhex("0102030405060708 0000000d 00000002 0000000000000007")
    payload = bytes.fromhex("00000003 00000002") + b"abcde"
    expected = head + zlib.crc32(head + payload).to_bytes(4, "big") + payload
    assert expected == pack_frame(0x0102030405060708, 7, 2, pack_rows([b"abc", b"de"]))
    assert parse_frame_header(expected, 0)[:4] == (0x0102030405060708, 13, 2, 7)
    assert list(row_lengths(memoryview(expected), 0, 2)) == [3, 2]


def test_a_header_has_exactly_the_documented_bytes() -> None:
    body = b"TRKSEG\r\n" + bytes.fromhex("0001 01 00 00000046 7fffffffffffffff ffffffffffffffff 0000000000003039 0002 00000072 07")
    body += b"message" + bytes.fromhex("ffffffff 07") + "späße".encode()
    expected = (body + zlib.crc32(body).to_bytes(4, "big")).ljust(HEADER_SLOT_BYTES, b"\0")
    assert expected * 2 == encode_header(HEADER)


def test_a_frame_with_any_bit_flipped_is_not_whole() -> None:
    frame = bytearray(pack_frame(99, 7, 2, pack_rows([b"abc", b"de"])))
    for bit in range(len(frame) * 8):
        frame[bit // 8] ^= 1 << bit % 8
        data = memoryview(bytes(frame))
        nonce, payload_bytes, *_ = parse_frame_header(data, 0)
        assert not (nonce == 99 and payload_bytes <= len(data) and frame_is_whole(data, 0))
        frame[bit // 8] ^= 1 << bit % 8


def test_a_frame_that_claims_more_rows_than_bytes_is_not_whole() -> None:
    """A CRC proves the bytes, not the sense: a directory longer than the payload would read past its end."""
    assert not frame_is_whole(memoryview(pack_frame(99, 7, 2, b"1234567")), 0)
    assert frame_is_whole(memoryview(pack_frame(99, 7, 2, b"12345678")), 0)


def test_a_frame_without_rows_is_not_whole() -> None:
    """It would end where it begins to count: whoever reads on from its end would read it for ever."""
    assert not frame_is_whole(memoryview(pack_frame(99, 7, 0, b"")), 0)


def test_only_our_file_names_are_segments() -> None:
    """A backup beside a segment must not be taken for one."""
    assert parse_segment_name(segment_name("clicks", 12)) == ("clicks", 12)
    assert parse_segment_name(segment_name("journal", 123456789)) == ("journal", 123456789)
    for name in ("clicks-1.seg", "clicks-00000001.seg.bak", "clicks-00000001", "clicks-0000000².seg", "x-00000001.seg"):
        assert parse_segment_name(name) is None
