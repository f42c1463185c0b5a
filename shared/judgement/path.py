"""This module finds the path of servers that Petals' client would take through a model, and how fast it is.

Costs are the client's own (petals `RemoteSequenceManager._build_inference_graph`), in seconds per token: half of the
ping to the first server, from each server to the next (`next_pings`) and back from the last one, 0.018 for each
server, 1 / `inference_rps` for each block, and 10 for a server without enough free cache. A path stays on a server to
the end of its span. One thing differs: a client pings up to three servers of either end of a model itself; here the
crawler's own connections to all servers (`rtt`) stand for its pings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from shared.snapshot import ServerReport

SERVER_SECONDS = 0.018
"""Of each server, for packing and unpacking."""
NO_CACHE_SECONDS = 10.0
"""Of a server without free cache for `CACHE_TOKENS` in all of its blocks: so that others are preferred."""
CACHE_TOKENS = 128
"""Tokens that a client wants room for: its own number is the prompt's and those to be generated."""
UNKNOWN_DELAY = 0.15
"""Seconds one way where no ping is known."""
MAX_DELAY = 5.0
"""Seconds one way where a ping was not answered, and at most."""
DEFAULT_BLOCKS_PER_SECOND = 300.0
"""Speed of a server that does not announce `inference_rps`."""
MIN_BLOCKS_PER_SECOND = 1e-6
"""Slower than this is no speed, and counts as not announced."""
MAX_SEARCHED = 250_000
"""Blocks of all spans together that one search takes in: 0.3 s at worst. 300 servers of 80 blocks have 24,000."""


class Leg(NamedTuple):
    """Blocks `start <= block < end` on one server of a path."""

    server: ServerReport
    start: int
    end: int
    seconds: float
    """Expected of one token: the way to the server, and its blocks. Without waiting for cache."""


@dataclass(slots=True, eq=False)
class _Candidate:
    """A server that may be on the path, and the fastest way found so far to the end of its blocks."""

    server: ServerReport
    start: int
    end: int
    entry_seconds: float
    block_seconds: float
    seconds: float = math.inf
    """From the client through the last block."""
    entered: int = 0
    """Block at which the way enters the server."""
    delay: float = 0.0
    """From `before` to the server, in seconds."""
    before: _Candidate | None = None
    """None: the client."""


def find_path(servers: Iterable[ServerReport], start: int, end: int) -> tuple[Leg, ...] | None:
    """Return the path with the least seconds per token through blocks `start <= block < end`.

    None where some block has no server. The path is exact while the spans have `MAX_SEARCHED` blocks together. The cost
    grows with these blocks and with the number of pings, never with pairs of servers.
    """
    holding: list[list[_Candidate]] = [[] for _ in range(end)]
    ending: list[list[_Candidate]] = [[] for _ in range(end + 1)]
    for server in _candidates(servers, start, end):
        ending[server.end].append(server)
        for block in range(server.start, server.end):
            holding[block].append(server)
    for block in range(start, end):
        moves = _moves(ending[block], holding[block]) if block > start else _first_moves(holding[block])
        for before, server, delay in moves:
            seconds = delay + server.entry_seconds + (server.end - block) * server.block_seconds
            if before is not None:
                seconds += before.seconds
            if seconds < server.seconds:
                server.seconds, server.entered, server.delay, server.before = seconds, block, delay, before
    arrived = [server for server in ending[end] if server.seconds < math.inf]
    return _legs(min(arrived, key=lambda one: one.seconds + _delay(one.server.rtt))) if arrived else None


def tokens_per_second(path: Sequence[Leg]) -> float | None:
    """Return the tokens/s that one stream of single tokens may get; None where a server does not announce its speed.

    It trusts what servers announce, and knows nothing of their load.
    """
    if any(_speed(leg.server) is None for leg in path):
        return None
    return 1 / (sum(leg.seconds for leg in path) + _delay(path[-1].server.rtt))


def _candidates(servers: Iterable[ServerReport], start: int, end: int) -> list[_Candidate]:
    """Return the servers to search. Of too many, the fastest, and others where no faster one holds a block."""
    found = []
    for server in servers:
        first, last = max(server.span.start, start), min(server.span.end, end)
        if first < last:
            entry = SERVER_SECONDS if _has_cache(server) else SERVER_SECONDS + NO_CACHE_SECONDS
            found.append(_Candidate(server, first, last, entry, 1 / (_speed(server) or DEFAULT_BLOCKS_PER_SECOND)))
    room, kept, held = MAX_SEARCHED, [], bytearray(end)
    for one in sorted(found, key=attrgetter("block_seconds")):
        if room > 0 or 0 in held[one.start : one.end]:
            kept.append(one)
            room -= one.end - one.start
            held[one.start : one.end] = b"\1" * (one.end - one.start)
    return kept


def _first_moves(holding: Iterable[_Candidate]) -> Iterator[tuple[None, _Candidate, float]]:
    return ((None, one, _delay(one.server.rtt)) for one in holding)


def _moves(
    ending: Iterable[_Candidate], holding: Iterable[_Candidate]
) -> Iterator[tuple[_Candidate, _Candidate, float]]:
    """Yield which server may follow which, and the seconds between them.

    That is all pairs with a known ping and, before each server, the fastest of the others: these count the same delay.
    """
    leaving = sorted((one for one in ending if one.seconds < math.inf), key=attrgetter("seconds"))
    if not leaving:
        return
    by_id = {one.server.peer_id: one for one in holding}
    for before in leaving:
        for peer_id, ping in (before.server.next_pings or {}).items():
            if (server := by_id.get(peer_id)) is not None:
                yield before, server, _delay(ping)
    for peer_id, server in by_id.items():
        for before in leaving:
            if peer_id not in (before.server.next_pings or ()):
                yield before, server, UNKNOWN_DELAY
                break


def _legs(last: _Candidate) -> tuple[Leg, ...]:
    legs: list[Leg] = []
    one: _Candidate | None = last
    while one is not None:
        seconds = one.delay + SERVER_SECONDS + (one.end - one.entered) * one.block_seconds
        legs.append(Leg(one.server, one.entered, one.end, seconds))
        one = one.before
    return tuple(reversed(legs))


def _delay(ping: float | None) -> float:
    """Return the seconds one way; a ping that cannot be (negative, not a number) counts as unknown."""
    return min(ping / 2, MAX_DELAY) if ping is not None and ping >= 0 else UNKNOWN_DELAY


def _has_cache(server: ServerReport) -> bool:
    left = server.cache_tokens_left
    return left is None or 2 * CACHE_TOKENS * server.span.length <= left


def _speed(server: ServerReport) -> float | None:
    """Return the blocks/s that the server announces; None where it does not, or where it cannot be."""
    speed = server.inference_rps
    return speed if speed is not None and MIN_BLOCKS_PER_SECOND < speed < math.inf else None
