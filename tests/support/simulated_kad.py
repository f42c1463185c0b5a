"""The other side of a search: what a node of the swarm answers to FIND_NODE. For tests and benchmarks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.p2p.hivemind import PeerID
from shared.p2p.kad_messages import FIND_NODE
from shared.p2p.multiaddr import from_text, varint

if TYPE_CHECKING:
    from collections.abc import Iterable


def closer_peer(peer_id: str, addresses: Iterable[str | bytes]) -> bytes:
    """Return a peer and its addresses as an answer names them (field 8)."""
    packed = _field(1, PeerID.from_base58(peer_id).to_bytes())
    return _field(8, packed + b"".join(_field(2, from_text(one) if isinstance(one, str) else one) for one in addresses))


def answer(closer_peers: bytes) -> bytes:
    """Return the whole message, with its length in front."""
    message = b"\x08" + bytes((FIND_NODE,)) + closer_peers
    return varint(len(message)) + message


def _field(number: int, value: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(value)) + value
