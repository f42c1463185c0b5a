"""The messages of libp2p's Kademlia that a search needs, in bytes.

Format: https://github.com/libp2p/specs/blob/master/kad-dht/README.md: FIND_NODE with length-prefixed protobuf on
the protocol /ipfs/kad/1.0.0. p2pd has no call for it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import base58

from shared.p2p.multiaddr import MAX_VARINT_BITS, read_varint, varint

if TYPE_CHECKING:
    import asyncio

MAX_FIELDS = 1000
"""Fields of one message. A genuine one has some dozens; to read 100,000 empty ones would hold up the event loop."""
PROTOCOL = "/ipfs/kad/1.0.0"
FIND_NODE = 4
MAX_MESSAGE_BYTES = 256 * 1024
MAX_CLOSER_PEERS = 32
"""Peers taken from one answer; libp2p's nodes name 20."""
MAX_ADDRESSES = 16
"""Addresses taken of each of them."""
MAX_ID_BYTES, MAX_ADDRESS_BYTES = 64, 256
"""Longer ones are not read. A peer id takes 34 to 42, an address over a relay some 60."""


def find_node(key: bytes) -> bytes:
    """Return the FIND_NODE request for the peers nearest to a key."""
    message = b"\x08" + bytes((FIND_NODE,)) + b"\x12" + varint(len(key)) + key
    return varint(len(message)) + message


async def read_message(reader: asyncio.StreamReader, max_bytes: int = MAX_MESSAGE_BYTES) -> bytes:
    """Return one message. Raises `ValueError` for one that is too long, `EOFError` where it ends early."""
    length = 0
    for shift in range(0, MAX_VARINT_BITS, 7):
        byte = (await reader.readexactly(1))[0]
        length |= (byte & 0x7F) << shift
        if length > max_bytes:
            raise ValueError("message too long")
        if byte < 0x80:  # noqa: PLR2004 - a varint's last byte
            return await reader.readexactly(length)
    raise ValueError("a length without an end")


_CLOSER_PEERS, _PEER_ID, _PEER_ADDRESS = 8, 1, 2


def closer_peers(message: bytes) -> dict[str, tuple[bytes, ...]]:
    """Return the peers that an answer names and their addresses, as they are written. Raises `ValueError`."""
    peers: dict[str, tuple[bytes, ...]] = {}
    named = [value for field, value in bytes_fields(message) if field == _CLOSER_PEERS]
    for parts in map(bytes_fields, named[:MAX_CLOSER_PEERS]):
        ids = [part for number, part in parts if number == _PEER_ID and len(part) <= MAX_ID_BYTES]
        packed = [part for number, part in parts if number == _PEER_ADDRESS and len(part) <= MAX_ADDRESS_BYTES]
        if ids:
            peers[_name(ids[0])] = tuple(packed[:MAX_ADDRESSES])
    return peers


# Nodes of the swarm name each other, and themselves, in nearly every answer.
@lru_cache(maxsize=4096)
def _name(peer_id: bytes) -> str:
    return base58.b58encode(peer_id).decode()


@lru_cache(maxsize=4096)
def packed_id(peer_id: str) -> bytes:
    """Return a peer id as messages hold it. Raises `ValueError`."""
    return base58.b58decode(peer_id)


def bytes_fields(message: bytes) -> list[tuple[int, bytes]]:
    """Return a protobuf message's length-delimited fields. Raises `ValueError` for other bytes."""
    fields: list[tuple[int, bytes]] = []
    place = 0
    for _ in range(MAX_FIELDS):
        if place == len(message):
            return fields
        tag, place = read_varint(message, place)
        if tag & 7 == 0:
            _, place = read_varint(message, place)
        elif tag & 7 == 2:  # noqa: PLR2004 - protobuf's wire type "length-delimited"
            length, place = read_varint(message, place)
            if place + length > len(message):
                raise ValueError("truncated message")
            fields.append((tag >> 3, message[place : place + length]))
            place += length
        else:
            raise ValueError("unexpected wire type")
    raise ValueError("too many fields")
