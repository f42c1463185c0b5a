import base64

import base58
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.peer_id import BadPeerIdError, parse_peer_id

RSA = "QmedTaZXmULqwspJXz44SsPZyTNKxhnnFvYRajfH7MGhCY"
ED25519 = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"


def as_cid(peer_id: str) -> bytes:
    return b"\x01\x72" + base58.b58decode(peer_id)


@pytest.mark.parametrize("peer_id", [RSA, ED25519])
def test_every_form_of_the_specification_names_the_same_peer(peer_id):
    """base58 and CIDs in base32, base36, base16 and base58 are accepted and become base58."""
    cid = as_cid(peer_id)
    digits = "0123456789abcdefghijklmnopqrstuvwxyz"
    number, base36 = int.from_bytes(cid, "big"), ""
    while number:
        number, rest = divmod(number, 36)
        base36 = digits[rest] + base36
    forms = [
        peer_id,
        "b" + base64.b32encode(cid).decode().rstrip("=").lower(),
        "k" + base36,
        "f" + cid.hex(),
        "z" + base58.b58encode(cid).decode(),
    ]
    assert {parse_peer_id(form) for form in forms} == {peer_id}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        ("Q1", "neither like base58"),
        ("1", "too short"),
        (RSA[:-1], "cut off"),
        (RSA + "a", "cut off or has a tail"),
        ("Q" * 10_000, "too long"),
        ("QmO0Il", "not base58"),
        (ED25519 + "/../x", "neither letters nor digits"),
        ("Qmé", "neither letters nor digits"),
        ("hello", "neither like base58"),
        ("bafz!", "neither letters"),
        ("bafy1", "do not fit"),
        ("f0171" + "00" * 8, "not one of a libp2p key"),
        (base58.b58encode(b"\x13\x20" + bytes(32)).decode(), "neither"),
        ("f0172" + "1110" + "00" * 16, "neither SHA-256 nor"),
        ("f0172" + "0002" + "ffff", "neither SHA-256 nor"),
    ],
)
def test_what_is_no_peer_id_is_refused_with_a_reason(text, why):
    """The message names what is wrong, for a 400 that helps."""
    with pytest.raises(BadPeerIdError, match=why):
        parse_peer_id(text)


@given(st.text(max_size=200))
def test_no_text_does_anything_but_parse_or_be_refused(text):
    """Hostile text never raises anything else, and what is accepted is canonical."""
    try:
        parsed = parse_peer_id(text)
    except BadPeerIdError:
        return
    assert parse_peer_id(parsed) == parsed
