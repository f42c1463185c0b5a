"""This module estimates which servers a Petals client would use for a model, and how fast that chain is.

Its cost grows with blocks × distinct span ends, which `MAX_STEPS` limits. `shared.routing` instead chooses the path of
an inference check, with the pings that this monitor measured and the servers' free caches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from operator import itemgetter
from statistics import median
from typing import TYPE_CHECKING

from shared.judgement.coverage import online

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from shared.judgement.coverage import Coverage
    from shared.snapshot import ModelReport, ServerReport

HOP_OVERHEAD = 0.018
"""Seconds of overhead per server: the constant that Petals clients use."""
UNKNOWN_DELAY = 0.05
"""Seconds one way, assumed where no ping of the model is known: half of a 100 ms round trip."""
MAX_DELAY = 5.0
"""Seconds one way: what Petals clients assume of a server that did not answer a ping."""
RIVALS = 4
"""Number of servers compared among those whose spans end at one block, fastest first. More seldom change the result."""
MAX_STEPS = 50_000
"""Above this many blocks x span ends no estimate is made: 0.3 s of search are the worst case."""
MAX_PINGS = 5_000
"""Pings used for the median: enough for it to be steady."""


@dataclass(frozen=True, slots=True)
class Hop:
    """One server of a chain and the blocks `start <= block < end` that it computes in it."""

    server: ServerReport
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Path:
    """A chain of online, reachable servers from the first block to the last."""

    hops: tuple[Hop, ...]
    tokens_per_second: float | None
    """An estimate for one stream of single-token inference; None where servers do not tell their speed."""


def find_path(model: ModelReport, held: Coverage) -> Path | None:
    """Find the chain that a Petals client would likely take, or None where none exists. `held` is the model's coverage.

    As in Petals, a client stays with a server to the end of its span. The time of one token through a chain is

        sum over its servers of (blocks / inference_rps + one-way delay + HOP_OVERHEAD) + delay back to the client

    because `inference_rps` is tokens/s through ONE block. A one-way delay is half of the ping that the server
    before announces (`next_pings`); where it is not known (always for the client's own first and last hop) it is
    half of the median ping known in the model, or `UNKNOWN_DELAY`. `tokens_per_second` is 1 / that time, for the
    fastest chain. It trusts what servers claim and knows nothing of their load: an estimate. It is None when only
    servers that do not tell `inference_rps` close the chain; then the chain is one with the fewest servers.
    """
    if not held.has_path:
        return None
    servers = list(online(model))
    delay = typical_delay(servers)
    rated = [server for server in servers if _speed(server) is not None]
    ends = len({server.span.end for server in rated})
    hops = _fastest_chain(rated, model.num_blocks, delay) if ends * model.num_blocks <= MAX_STEPS else None
    if hops is None:
        return Path(_furthest_reaching(servers, model.num_blocks), None)
    return Path(hops, 1 / chain_seconds(hops, delay))


def typical_delay(servers: Iterable[ServerReport]) -> float:
    """Half of the median ping between servers of one model, seconds one way; `UNKNOWN_DELAY` without any."""
    pings: list[float] = []
    for server in servers:
        pings += [ping for ping in (server.next_pings or {}).values() if math.isfinite(ping) and ping >= 0]
        if len(pings) >= MAX_PINGS:
            break
    return min(median(pings) / 2, MAX_DELAY) if pings else UNKNOWN_DELAY


def chain_seconds(hops: Sequence[Hop], delay: float) -> float:
    """Seconds that one token takes through a chain of servers that tell their speed; see `find_path`."""
    total = delay
    before: dict[str, float] = {}
    for hop in hops:
        total += one_way(before.get(hop.server.peer_id), delay) + HOP_OVERHEAD
        total += (hop.end - hop.start) / (_speed(hop.server) or math.inf)
        before = hop.server.next_pings or {}
    return total


def one_way(ping: float | None, otherwise: float) -> float:
    """Seconds from one server to another: half of the ping, `otherwise` where it is not known or nonsense."""
    return min(ping / 2, MAX_DELAY) if ping is not None and ping >= 0 else otherwise


def _speed(server: ServerReport) -> float | None:
    speed = server.inference_rps
    return speed if speed is not None and math.isfinite(speed) and speed > 0 else None


@dataclass(frozen=True, slots=True)
class _Arrival:
    """The quickest known chain that ends with `hop`; `seconds` without the way back to the client."""

    seconds: float
    hop: Hop | None
    before: _Arrival | None
    pings: dict[str, float]


def _fastest_chain(servers: Iterable[ServerReport], blocks: int, delay: float) -> tuple[Hop, ...] | None:
    """Find the shortest chain from block to block. Exact while at most `RIVALS` servers end at one block."""
    starting: list[list[ServerReport]] = [[] for _ in range(blocks)]
    for server in servers:
        starting[server.span.start].append(server)
    arrivals: list[list[_Arrival]] = [[] for _ in range(blocks + 1)]
    arrivals[0] = [_Arrival(0.0, None, None, {})]
    rivals: dict[int, list[tuple[float, ServerReport]]] = {}  # seconds a block and server, by the span's end
    for block in range(blocks):
        rivals.pop(block, None)
        for server in starting[block]:
            known = rivals.setdefault(server.span.end, [])
            known.append((1 / (_speed(server) or math.inf), server))
            known.sort(key=itemgetter(0))
            del known[RIVALS:]
        here = arrivals[block]
        if not here:
            continue
        for end, known in rivals.items():
            for price, server in known:
                # min() over a generator would double the time of the whole search.
                best, seconds = here[0], math.inf
                for arrival in here:
                    ping = arrival.pings.get(server.peer_id)
                    total = arrival.seconds + (delay if ping is None else one_way(ping, delay))
                    if total < seconds:
                        best, seconds = arrival, total
                seconds += HOP_OVERHEAD + (end - block) * price
                _keep_best(arrivals[end], _Arrival(seconds, Hop(server, block, end), best, server.next_pings or {}))
    return _walk_back(min(arrivals[blocks], key=lambda arrival: arrival.seconds, default=None))


def _keep_best(arrivals: list[_Arrival], new: _Arrival) -> None:
    """Keep one arrival, the quickest, for each of the `RIVALS` quickest servers."""
    for place, known in enumerate(arrivals):
        if known.hop is not None and new.hop is not None and known.hop.server is new.hop.server:
            if new.seconds < known.seconds:
                arrivals[place] = new
            return
    if len(arrivals) < RIVALS:
        arrivals.append(new)
        return
    slowest = max(range(RIVALS), key=lambda place: arrivals[place].seconds)
    if new.seconds < arrivals[slowest].seconds:
        arrivals[slowest] = new


def _walk_back(arrival: _Arrival | None) -> tuple[Hop, ...] | None:
    hops: list[Hop] = []
    while arrival is not None and arrival.hop is not None:
        hops.append(arrival.hop)
        arrival = arrival.before
    return tuple(reversed(hops)) or None


def _furthest_reaching(servers: Iterable[ServerReport], blocks: int) -> tuple[Hop, ...]:
    """The fewest servers that tile the model; the caller knows that each block has one."""
    reach: list[ServerReport | None] = [None] * blocks
    for server in servers:
        known = reach[server.span.start]
        if known is None or server.span.end > known.span.end:
            reach[server.span.start] = server
    hops: list[Hop] = []
    position, best = 0, None
    for block in range(blocks):
        candidate = reach[block]
        if candidate is not None and (best is None or candidate.span.end > best.span.end):
            best = candidate
        if block == position and best is not None:
            hops.append(Hop(best, position, best.span.end))
            position = best.span.end
    return tuple(hops)
