"""This module chooses servers for all blocks of a model as Petals' client does for generating text.

It finds the path with the least expected seconds per token, with the client's own costs (petals
`RemoteSequenceManager._build_inference_graph`): half of the round trip to the first and from the last server, half of
the announced ping from each server to the next, a fixed cost per hop, and 1 / `inference_rps` per block. A path stays
on a server to the end of its span. Two things differ: pings from the client are the crawler's, and servers that the
crawler could not reach are left out, instead of those that failed for the client.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.snapshot import ServerReport

HOP_SECONDS = 0.018
NO_CACHE_SECONDS = 10.0
UNKNOWN_PING_SECONDS = 0.15
"""Of one direction."""
LONGEST_PING_SECONDS = 5.0
DEFAULT_BLOCKS_PER_SECOND = 300.0
CACHE_TOKENS = 128
"""Tokens that a client wants room for."""


class Leg(NamedTuple):
    """Blocks `start <= block < end` on one server."""

    server: ServerReport
    start: int
    end: int


class _Path(NamedTuple):
    """The fastest path to a block. Its last server computes from block `entered` on."""

    seconds: float
    server: ServerReport
    entered: int
    before: _Path | None


def route(servers: Sequence[ServerReport], start: int, end: int) -> list[Leg] | None:
    """Return the legs through blocks `start <= block < end`; None where some block has no server.

    Linear in blocks and in the pairs of servers of which one can follow another.
    """
    holding: list[list[ServerReport]] = [[] for _ in range(end)]
    ending: list[list[ServerReport]] = [[] for _ in range(end + 1)]
    for server in sorted(servers, key=lambda one: one.peer_id):
        for block in range(max(server.span.start, start), min(server.span.end, end)):
            holding[block].append(server)
        if start < server.span.end < end:
            ending[server.span.end].append(server)
    paths: dict[str, _Path] = {
        server.peer_id: _Path(_delay(server.rtt) + _entry(server), server, start, None) for server in holding[start]
    }
    for block in range(start, end):
        arrived: dict[str, _Path] = {}
        leaving = [paths[server.peer_id] for server in ending[block] if server.peer_id in paths]
        for server in holding[block]:
            best = paths.get(server.peer_id)
            for path in leaving:
                ping = (path.server.next_pings or {}).get(server.peer_id)
                seconds = path.seconds + _delay(ping) + _entry(server)
                if best is None or seconds < best.seconds:
                    best = _Path(seconds, server, block, path)
            if best is not None:
                arrived[server.peer_id] = best._replace(seconds=best.seconds + _block_seconds(server))
        paths = arrived
    if not paths:
        return None
    return _legs(min(paths.values(), key=lambda path: path.seconds + _delay(path.server.rtt)), end)


def _legs(last: _Path, end: int) -> list[Leg]:
    legs: list[Leg] = []
    path: _Path | None = last
    while path is not None:
        legs.append(Leg(path.server, path.entered, end))
        end, path = path.entered, path.before
    return legs[::-1]


def _delay(ping: float | None) -> float:
    if ping is None or math.isnan(ping):
        return UNKNOWN_PING_SECONDS
    return min(max(ping, 0.0) / 2, LONGEST_PING_SECONDS)


def _entry(server: ServerReport) -> float:
    left = server.cache_tokens_left
    has_cache = left is None or 2 * CACHE_TOKENS * server.span.length <= left
    return HOP_SECONDS + (0.0 if has_cache else NO_CACHE_SECONDS)


def _block_seconds(server: ServerReport) -> float:
    speed = server.inference_rps
    return 1.0 / (speed if speed is not None and speed > 0 else DEFAULT_BLOCKS_PER_SECOND)
