"""This module parses libp2p peer ids given as text, without a libp2p stack.

https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md: a peer id is a multihash (SHA-256 of the
public key, or the key itself where it is short), written in base58btc, or as a CIDv1 of it in any multibase.
"""

from __future__ import annotations

import base64
import binascii

import base58

MAX_PEER_ID_CHARS = 128
"""The longest form, base16 of a CID around a 42-byte inlined key, has 93 characters."""

_IDENTITY, _SHA2_256 = 0x00, 0x12
_SHA2_256_BYTES = 32
_MAX_INLINED_KEY_BYTES = 42
_CID_V1, _LIBP2P_KEY = 0x01, 0x72


class BadPeerIdError(ValueError):
    """Not a peer id; the message says why."""


def parse_peer_id(text: str) -> str:
    """Return the canonical form (base58btc) of a peer id in any form that the specification accepts.

    Raises `BadPeerIdError`.
    """
    if not text:
        raise BadPeerIdError("the peer id is empty")
    if len(text) > MAX_PEER_ID_CHARS:
        raise BadPeerIdError(f"the peer id is too long: {len(text)} characters, at most {MAX_PEER_ID_CHARS}")
    if not text.isascii() or not text.isalnum():
        raise BadPeerIdError("the peer id has characters that are neither letters nor digits")
    multihash = _from_base58(text) if text.startswith(("Qm", "1")) else _from_cid(text)
    _check_multihash(multihash)
    return base58.b58encode(multihash).decode()


def _from_base58(text: str) -> bytes:
    try:
        return base58.b58decode(text)
    except ValueError as error:
        raise BadPeerIdError("the peer id is not base58: 0, O, I and l are not in its alphabet") from error


def _from_cid(text: str) -> bytes:
    base, digits = text[0], text[1:]
    try:
        match base:
            case "b" | "B":
                cid = base64.b32decode(digits.upper() + "=" * (-len(digits) % 8))
            case "k" | "K":
                number = int(digits, 36)
                cid = number.to_bytes((number.bit_length() + 7) // 8, "big")
            case "f" | "F":
                cid = bytes.fromhex(digits)
            case "z":
                cid = base58.b58decode(digits)
            case _:
                raise BadPeerIdError("the peer id starts neither like base58 (Qm…, 12D3Koo…) nor like a CID (bafz…)")
    except (ValueError, binascii.Error) as error:
        if isinstance(error, BadPeerIdError):
            raise
        raise BadPeerIdError("the peer id starts like a CID, but its digits do not fit its base") from error
    if cid[:2] != bytes((_CID_V1, _LIBP2P_KEY)):
        raise BadPeerIdError("the peer id is a CID, but not one of a libp2p key")
    return cid[2:]


def _check_multihash(multihash: bytes) -> None:
    if len(multihash) < 2:  # noqa: PLR2004 - the code and the length
        raise BadPeerIdError("the peer id is too short")
    code, length, digest = multihash[0], multihash[1], multihash[2:]
    if len(digest) != length:
        raise BadPeerIdError(f"the peer id is cut off or has a tail: {len(digest)} bytes of hash, {length} announced")
    if code == _SHA2_256 and length == _SHA2_256_BYTES:
        return
    # An inlined key is a protobuf: field 1 (key type) comes first.
    if code == _IDENTITY and 0 < length <= _MAX_INLINED_KEY_BYTES and digest[0] == 0x08:  # noqa: PLR2004 - its tag
        return
    raise BadPeerIdError("the peer id's hash is neither SHA-256 nor an inlined public key")


def short_peer_id(peer_id: str) -> str:
    """Return the form that JSON and pictures show: "..." and the last six characters."""
    return "..." + peer_id[-6:]


def named_peer(peer_id: str) -> str:
    """Return how sentences name a peer: `…` and the last six characters."""
    return "…" + peer_id[-6:]
