"""Where is a peer? Asked of libp2p's Kademlia directly, one FIND_NODE at a time.

p2pd's own look-up dials the peer that it looks for, and waits for every slow neighbour: after it has hung,
nobody can tell "no address is known" from "the address does not answer" — the first of which may be our
failure, the second is the peer's. Asking the swarm's nodes ourselves takes 1-4 ms, never dials the peer, and
gives the addresses that are then dialled.

Wire format: https://github.com/libp2p/specs/blob/master/kad-dht/README.md, messages FIND_NODE with
length-prefixed protobuf on the protocol /ipfs/kad/1.0.0.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hivemind.p2p import PeerID
from hivemind.p2p.p2p_daemon_bindings.control import P2PDaemonError
from hivemind.utils.multiaddr import Multiaddr

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from shared.p2p.node import Dialler

PROTOCOL = "/ipfs/kad/1.0.0"
FIND_NODE = 4
ASK_TIMEOUT = 1.0
"""Seconds for one node's answer."""
ASKED_AT_ONCE = 3
MAX_ASKED = 12
"""Nodes asked in one search: beyond the nearest dozen nobody knows more."""
MAX_MESSAGE_BYTES = 256 * 1024
MAX_CLOSER_PEERS = 32
"""Peers taken from one answer; libp2p's nodes name 20."""
MAX_ADDRESSES = 16
MAX_VARINT_BITS = 63


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """What the swarm's nodes say of a peer's addresses."""

    addresses: tuple[str, ...]
    finished: bool
    """Whether "no addresses" can be believed: nodes answered, and the nearest ones had nothing nearer to name."""
    withheld: tuple[str, ...] = ()
    """Where there are no others: the peer's addresses that may not be dialled."""


async def locate(
    node: Dialler, peer_id: str, start: Iterable[str], may_dial: Callable[[str], bool] = lambda _: True
) -> Whereabouts:
    """Search from the `start` peers (connected ones) towards the peer. Bounded by `MAX_ASKED`; never raises.

    Addresses that `may_dial` denies are neither returned nor dialled on the way.
    """
    withheld: tuple[str, ...] = ()
    target = _distance_key(peer_id)
    known: dict[str, tuple[str, ...]] = dict.fromkeys(start, ())
    asked: set[str] = set()
    answered = 0
    while len(asked) < MAX_ASKED:
        nearest = sorted((name for name in known if name not in asked), key=lambda name: _distance_key(name) ^ target)
        batch = [name for name in nearest if name != peer_id][:ASKED_AT_ONCE]
        if not batch:
            break
        asked.update(batch)
        tasks = [asyncio.create_task(_find_node(node, name, known[name], peer_id, may_dial)) for name in batch]
        try:
            news = 0
            for answer in asyncio.as_completed(tasks):
                closer = await answer
                if closer is None:
                    continue
                answered += 1
                if here := closer.pop(peer_id, ()):
                    if allowed := tuple(filter(may_dial, here)):
                        return Whereabouts(allowed, finished=True)
                    withheld = here
                fresh = {name: addresses for name, addresses in closer.items() if name not in known}
                known |= fresh
                news += len(fresh)
        finally:
            for task in tasks:
                task.cancel()
        if answered and not news:
            break
    return Whereabouts((), finished=answered > 0, withheld=withheld)


def _distance_key(peer_id: str) -> int:
    return int.from_bytes(hashlib.sha256(PeerID.from_base58(peer_id).to_bytes()).digest(), "big")


async def _find_node(
    node: Dialler, ask: str, addresses: tuple[str, ...], target: str, may_dial: Callable[[str], bool]
) -> dict[str, tuple[str, ...]] | None:
    """Ask one node for the peers nearest to the target; None where it does not answer."""
    if addresses and not (addresses := tuple(filter(may_dial, addresses))):
        return None
    try:
        async with asyncio.timeout(ASK_TIMEOUT):
            if addresses:
                await node.connect(ask, addresses)
            async with node.stream(ask, PROTOCOL) as (reader, writer):
                writer.write(_request(PeerID.from_base58(target).to_bytes()))
                await writer.drain()
                return _closer_peers(await read_message(reader))
    except (TimeoutError, P2PDaemonError, OSError, EOFError, ValueError, IndexError):
        return None


def _request(key: bytes) -> bytes:
    message = b"\x08" + bytes((FIND_NODE,)) + b"\x12" + varint(len(key)) + key
    return varint(len(message)) + message


def varint(number: int) -> bytes:
    packed = bytearray()
    while number > 0x7F:  # noqa: PLR2004 - seven bits a byte
        packed.append(number & 0x7F | 0x80)
        number >>= 7
    packed.append(number)
    return bytes(packed)


def _read_varint(data: bytes, place: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[place]
        number |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:  # noqa: PLR2004 - the last byte
            return number, place
        if shift > MAX_VARINT_BITS:
            raise ValueError("varint too long")


async def read_message(reader: asyncio.StreamReader) -> bytes:
    length = shift = 0
    while True:
        byte = (await reader.readexactly(1))[0]
        length |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - a varint's last byte
            break
        shift += 7
        if length > MAX_MESSAGE_BYTES:
            break
    if length > MAX_MESSAGE_BYTES:
        raise ValueError("message too long")
    return await reader.readexactly(length)


_CLOSER_PEERS, _PEER_ID, _PEER_ADDRESS = 8, 1, 2


def _closer_peers(message: bytes) -> dict[str, tuple[str, ...]]:
    peers: dict[str, tuple[str, ...]] = {}
    for field, value in bytes_fields(message):
        if field == _CLOSER_PEERS:
            parts = bytes_fields(value)
            ids = [part for number, part in parts if number == _PEER_ID]
            packed = [part for number, part in parts if number == _PEER_ADDRESS]
            if ids and len(peers) < MAX_CLOSER_PEERS:
                peers[str(PeerID(ids[0]))] = tuple(filter(None, map(_address, packed[:MAX_ADDRESSES])))
    return peers


def _address(packed: bytes) -> str | None:
    try:
        return str(Multiaddr(packed))
    except Exception:  # noqa: BLE001 - multiaddr has no common error; the bytes are a stranger's
        return None


def bytes_fields(message: bytes) -> list[tuple[int, bytes]]:
    """Return a protobuf message's length-delimited fields. Raises `ValueError` or `IndexError` for other bytes."""
    fields, place = [], 0
    while place < len(message):
        tag, place = _read_varint(message, place)
        if tag & 7 == 0:
            _, place = _read_varint(message, place)
        elif tag & 7 == 2:  # noqa: PLR2004 - protobuf's wire type "length-delimited"
            length, place = _read_varint(message, place)
            if place + length > len(message):
                raise ValueError("truncated message")
            fields.append((tag >> 3, message[place : place + length]))
            place += length
        else:
            raise ValueError("unexpected wire type")
    return fields
