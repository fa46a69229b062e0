"""Signatures: the published vector, and what is covered by one."""

from __future__ import annotations

import pytest

from tracker.domain.refusal import Reason, Refused
from tracker.web import postback_auth
from tracker.web.postback_auth import Proof, Sender, Signature, sign, signed_part


def test_the_published_vector_holds() -> None:
    """Senders in other languages were written against it: a changed byte locks them all out."""
    target = b"/postback?click_id=abc&amount=1&sig_ts=1790000000"
    signature = sign(b"0123456789abcdef", "1790000000", signed_part("GET", target, b""))
    assert "f2a0599e4564341ea19c7ee4413aeb7d623b9e30d586b9a6f0f0455ae607f19f" == signature
    assert signature in (postback_auth.__doc__ or "")


@pytest.mark.parametrize(
    ("target", "covered"),
    [
        (b"/postback", b"/postback"), (b"/postback?sig=x", b"/postback"), (b"/postback?sig=x&a=1", b"/postback?a=1"),
        (b"/postback?a=1&sig=x", b"/postback?a=1"), (b"/postback?a=1&sig=x&b=2&sig=y", b"/postback?a=1&b=2"),
        (b"/postback?sig_ts=1&sigh=2&a=sig=3", b"/postback?sig_ts=1&sigh=2&a=sig=3"),
    ],
)  # fmt: skip
def test_everything_but_the_signature_is_signed(target: bytes, covered: bytes) -> None:
    """What is not covered can be changed by whoever sees the request."""
    assert b"GET\n" + covered + b"\n" == signed_part("GET", target, b"")
    assert b"POST\n" + covered + b'\n{"a": 1}' == signed_part("POST", target, b'{"a": 1}')


def test_headers_win_over_parameters_and_two_tokens_are_none() -> None:
    """Mixing the one's timestamp with the other's signature would be a message nobody signed."""
    secrets = {"sig": "s", "sig_ts": "1", "token": "t"}
    assert Signature("1", "s", b"x") == Sender("ip", signed=lambda: b"x").proof(secrets).signature
    signing = Sender("ip", timestamp="2", hex_digest="h", signed=lambda: b"x")
    assert Signature("2", "h", b"x") == signing.proof(secrets).signature
    assert "t" == Sender("ip", bearer="t").proof(secrets).token
    with pytest.raises(Refused) as caught:
        Sender("ip", bearer="other").proof(secrets)
    assert Reason.REPEATED_PARAMETER == caught.value.reason


def test_representations_hold_no_secret() -> None:
    """They end in tracebacks."""
    sender = Sender("192.0.2.1", bearer="S3CRET", timestamp="1", hex_digest="S3CRET", signed=lambda: b"S3CRET")
    assert "S3CRET" not in repr(sender) + repr(sender.proof({}))
    assert not Proof("192.0.2.1", token="x").is_empty
