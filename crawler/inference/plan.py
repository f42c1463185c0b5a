"""This module decides which servers are checked in a round, when, and with what: pure functions.

A round is one period. It begins with each model's chain, which checks the servers on its path. Every other server then
gets one session, spread over the rest of the round. A server that holds all blocks of a hop of the chain gets the same
hidden states as that hop, so that the two can be compared; all others get the round's random hidden states.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.p2p.chain import Link
    from shared.snapshot import ServerReport


class Step(NamedTuple):
    """What one server computes: which blocks, from which input, with which adapter."""

    blocks: tuple[int, int]
    hop: Link | None
    """The hop of the model's chain whose input is used; None: the round's random input."""
    adapter: str | None


def slot_of(peer_id: str, slots: int) -> int:
    """Return in which slot of a round a server is checked: always the same one, evenly spread over all servers."""
    return zlib.crc32(peer_id.encode()) % slots


def choose_adapter(server: ServerReport, number: int) -> str | None:
    """Return the adapter for a round: one of the server's in every second round, in turn."""
    if not server.adapters or number % 2 == 0:
        return None
    return server.adapters[number // 2 % len(server.adapters)]


def choose_step(server: ServerReport, hops: Sequence[Link], number: int) -> Step:
    """Return what a server is given in the round of this number.

    Its whole span; where it holds a hop of the chain and more, this hop in every second round.
    """
    span = (server.span.start, server.span.end)
    adapter = choose_adapter(server, number)
    held = [hop for hop in hops if span[0] <= hop.blocks[0] and hop.blocks[1] <= span[1]]
    for hop in held:
        if hop.blocks == span:
            return Step(span, hop, adapter)
    if held and number % 2 == 0:
        hop = held[number // 2 % len(held)]
        return Step(hop.blocks, hop, None)  # adapters have the other rounds
    return Step(span, None, adapter)
