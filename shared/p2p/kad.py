"""Where is a peer? Asked of libp2p's Kademlia directly, one FIND_NODE at a time.

p2pd's own look-up dials the peer that it looks for, and waits for every slow neighbour: after it has hung,
nobody can tell "no address is known" from "the address does not answer" — the first of which may be our
failure, the second is the peer's. Asking the swarm's nodes ourselves takes 1-4 ms, never dials the peer, and
gives the addresses that are then dialled.

Any node may lie. So the bootstrap peers, which the operator chose, are all asked and asked first; the search goes
on while what was named is dialled; and no node's answer can take the room of the others'.

Wire format: shared/p2p/kad_wire.py.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from functools import lru_cache
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Self

from hivemind.p2p import PeerID
from hivemind.p2p.p2p_daemon_bindings.control import P2PDaemonError

from shared.p2p.addresses import anywhere
from shared.p2p.kad_wire import closer_peers, find_node
from shared.tasks import awaited, end

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from shared.p2p.node import SwarmNode

ASK_TIMEOUT = 1.0
"""Seconds for one node's answer."""
ASKED_AT_ONCE = 3
MAX_ASKED = 12
"""Nodes asked in one search: beyond the nearest dozen nobody knows more."""
NEAREST = 4
"""The search is over when so many nodes answered to which no known node that was not asked is nearer."""
SEARCH_WITHIN = 2.0
"""Seconds for which a search that found addresses goes on asking others."""
DIALLED_AT_ONCE = 3
"""Addresses that one node's answer brings to the dial at once, the rest at the search's end. p2pd dials eight of a
peer: an answer that could fill these with silent ones would keep a live peer's true address waiting."""
HEAD_START = 0.3
"""Seconds in which p2pd begins to dial these before the rest comes: it keeps no order among addresses that wait."""
MAX_DIALLED = 16
"""Addresses of one peer that are dialled, whoever names more."""
MAX_STEP_ADDRESSES = 4
"""Addresses at which a node on the way is dialled: a stranger named them."""


class Search:
    """A search for one peer's addresses, and what the swarm's nodes said of them so far. `run` it once."""

    def __init__(
        self, node: SwarmNode, peer_id: str, start: Iterable[str], may_dial: Callable[[str], bool] = anywhere
    ) -> None:
        self.addresses: list[str] = []
        """Those to be dialled, in the order in which they were named."""
        self.withheld: tuple[str, ...] = ()
        """Of the peer's addresses, some that `may_dial` denied."""
        self.over = False
        """Whether everybody was asked who is worth it, and somebody answered: so "no address" can be believed."""
        self._node = node
        self._peer_id = peer_id
        self._target = _place(peer_id)
        self._question = find_node(PeerID.from_base58(peer_id).to_bytes())
        self._may_dial = may_dial
        self._start = frozenset(start)
        self._known: dict[str, tuple[str, ...]] = dict.fromkeys(self._start, ())
        self._distances = {name: _place(name) ^ self._target for name in self._start}
        self._asked: set[str] = set()
        self._answered: list[int] = []
        """Distances of those who answered."""
        self._left: list[tuple[str, ...]] = []
        """Addresses beyond the first few of each answer."""

    @classmethod
    def told(cls, node: SwarmNode, peer_id: str, addresses: Iterable[str]) -> Self:
        """A search whose result is known before it is run."""
        search = cls(node, peer_id, ())
        search._left.append(tuple(addresses))
        search._answered.append(0)
        return search

    async def run(self, found: Callable[[tuple[str, ...]], None], patience: float = SEARCH_WITHIN) -> None:
        """Ask the start peers (connected ones), then towards the peer. Never raises for what nodes do.

        `found` is called with new addresses as soon as a node names any. Addresses that `may_dial` denies are
        neither given nor dialled on the way. `patience` is seconds for the others, once a node has named addresses.
        """
        asking: dict[asyncio.Task[dict[str, tuple[str, ...]] | None], str] = {}
        ends: float | None = None
        try:
            while ends is None or time.monotonic() < ends:
                for name in self._next()[: ASKED_AT_ONCE - len(asking)]:
                    self._asked.add(name)
                    asking[awaited(self._ask(name))] = name
                if not asking:
                    break
                left = None if ends is None else max(0.0, ends - time.monotonic())
                done, _ = await asyncio.wait(asking, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    name, closer = asking.pop(task), task.result()
                    if closer is not None:
                        self._answered.append(self._distances[name])
                        self._take(closer.pop(self._peer_id, ()), found)
                        self._learn(closer)
                if self.addresses and ends is None:
                    ends = time.monotonic() + patience
        finally:
            await end(*asking)
        self.over = bool(self._answered)
        if self.addresses and any(self._left):
            await asyncio.sleep(HEAD_START)
        # In turns, one of each answer after another: what is cut off is not one node's part.
        turns = chain.from_iterable(zip_longest(*self._left))
        self._give((address for address in turns if address is not None), found)

    def _next(self) -> list[str]:
        """Whom to ask, in this order: the start peers, then the nearest, until enough of these answered."""
        enough = sorted(self._answered)[NEAREST - 1] if len(self._answered) >= NEAREST else None
        waiting = [
            (name not in self._start, distance, name)
            for name, distance in self._distances.items()
            if name not in self._asked and (name in self._start or enough is None or distance < enough)
        ]
        return [name for _, _, name in sorted(waiting)][: max(0, MAX_ASKED - len(self._asked))]

    def _learn(self, closer: Mapping[str, tuple[str, ...]]) -> None:
        for name, addresses in closer.items():
            if name not in self._known:
                self._known[name] = addresses
                self._distances[name] = _place(name) ^ self._target

    def _take(self, named: tuple[str, ...], found: Callable[[tuple[str, ...]], None]) -> None:
        allowed = tuple(filter(self._may_dial, named))
        if named and not allowed:
            self.withheld = named
        if allowed:
            self._give(allowed[:DIALLED_AT_ONCE], found)
            self._left.append(allowed[DIALLED_AT_ONCE:])

    def _give(self, named: Iterable[str], found: Callable[[tuple[str, ...]], None]) -> None:
        room = MAX_DIALLED - len(self.addresses)
        new = tuple(address for address in dict.fromkeys(named) if address not in self.addresses)[:room]
        if new:
            self.addresses += new
            found(new)

    async def _ask(self, name: str) -> dict[str, tuple[str, ...]] | None:
        """Ask one node for the peers nearest to the target; None where it does not answer."""
        addresses = self._known[name]
        if addresses and not (addresses := tuple(filter(self._may_dial, addresses))[:MAX_STEP_ADDRESSES]):
            return None
        try:
            async with asyncio.timeout(ASK_TIMEOUT):
                if addresses:
                    await self._node.connect(name, addresses)
                return closer_peers(await self._node.kad_streams.ask(name, self._question, keep=name in self._start))
        except (TimeoutError, P2PDaemonError, OSError, EOFError, ValueError, IndexError):
            return None


@lru_cache(maxsize=4096)
def _place(peer_id: str) -> int:
    """Where a peer stands in Kademlia's space; the distance of two is their XOR."""
    return int.from_bytes(hashlib.sha256(PeerID.from_base58(peer_id).to_bytes()).digest(), "big")
