"""This module searches the addresses of a peer in libp2p's Kademlia, one FIND_NODE request at a time.

p2pd's own lookup dials the peer that it searches for, and waits for every slow node. When it times out, "no address is
known", which may be our failure, cannot be told from "the address does not answer", which is the peer's. This search
sends its own requests: it takes 1-4 ms, never dials the peer, and returns addresses, which the caller then dials.

Any node may lie. So all bootstrap peers, which the operator chose, get a request, and get it first; the search goes on
while the addresses that it has found are dialled; and the number of addresses taken from one node's answer is limited.

Wire format: shared/p2p/kad_messages.py.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter
from functools import lru_cache
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Self

from shared.p2p.addresses import AddressRules, Kind
from shared.p2p.hivemind import P2PDaemonError
from shared.p2p.kad_messages import PROTOCOL, closer_peers, find_node, packed_id
from shared.p2p.multiaddr import is_circuit
from shared.p2p.request_streams import RequestStreams
from shared.p2p.silent_nodes import SilentNodes
from shared.tasks import awaited, end

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from shared.p2p.daemon import Daemon

ASK_TIMEOUT = 1.0
"""Seconds for one node's answer."""
BELIEVED_SILENT_AFTER = 30.0
"""Seconds for which a start peer has to be silent until others' answers count without its own."""
ASKED_AT_ONCE = 3
MAX_ASKED = 12
"""Requests of one search, each to another node: beyond the nearest dozen no node knows more."""
NEAREST = 4
"""The search ends when so many nodes have answered that are nearer to the peer than every node without a request."""
SEARCH_WITHIN = 2.0
"""Seconds for which a search that has found addresses goes on with other nodes."""
DIALLED_AT_ONCE = 3
"""Addresses of one node's answer that are dialled at once; the rest are dialled at the search's end. p2pd dials eight
addresses of a peer at once: one answer with eight silent addresses would delay the peer's true address."""
REST_AFTER = 0.3
"""Seconds after which p2pd gets the remaining addresses: it keeps no order among addresses that wait to be dialled."""
MAX_DIALLED = 16
"""Addresses of one peer that are dialled, whoever names more."""
MAX_CIRCUITS = 8
"""The same for addresses through relays; of one answer `CIRCUITS_AT_ONCE` are dialled at once."""
CIRCUITS_AT_ONCE = 4
MAX_STEP_ADDRESSES = 4
"""Addresses of a node towards the peer that are dialled: another node, which may lie, named them."""


class Kademlia:
    """What all searches of one daemon share: its streams to the swarm's nodes, and which of these are silent."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.streams = RequestStreams(daemon, PROTOCOL)
        self.silent = SilentNodes()
        """Nodes that did not answer a search in time."""
        self.silent_since: dict[str, float] = {}
        """Start peers that have not answered any search since then (monotonic seconds)."""
        self.refused_addresses: Counter[str] = Counter()
        """Addresses of peers that are not dialled, by `Kind` or "too_many"; the caller may clear it."""


class Search:
    """A search for one peer's addresses, and those that nodes of the swarm have named so far. `run` it once."""

    def __init__(self, kademlia: Kademlia, peer_id: str, start: Iterable[str], rules: AddressRules) -> None:
        self.addresses: list[bytes] = []
        """Those to be dialled, in the order in which they were named."""
        self.withheld: dict[bytes, Kind] = {}
        """Of the peer's addresses, some that are not dialled, and why."""
        self.over = False
        """Whether the search has ended, a node has answered, and no start peer was silent that may know the address.

        Then "no address" is a fact. A peer behind a relay is known only to the nodes that it is connected to.
        """
        self.missed = False
        """Whether a node may have answered unheard, for our own side was late."""
        self._kademlia = kademlia
        self.peer_id = peer_id
        self._target = _place(peer_id)
        self._request = find_node(packed_id(peer_id))
        self.rules = rules
        self._start = frozenset(start)
        self._known: dict[str, tuple[bytes, ...]] = dict.fromkeys(self._start, ())
        self._distances = {name: _place(name) ^ self._target for name in self._start}
        self._asked: set[str] = set()
        self._unheard = False
        """Whether a start peer did not answer, which has done so lately."""
        self._answered: list[int] = []
        """Distances of the nodes that answered."""
        self._room, self._room_for_circuits = iter(range(MAX_DIALLED)), iter(range(MAX_CIRCUITS))
        self._left: list[tuple[bytes, ...]] = []
        """Addresses beyond the first few of each answer."""

    @classmethod
    def of_known(
        cls,
        kademlia: Kademlia,
        peer_id: str,
        addresses: Iterable[bytes],
        rules: AddressRules = AddressRules(dial_private=True),  # noqa: B008 - frozen
    ) -> Self:
        """A search whose result is known before it is run. By default it is from settings, and all of it is dialled."""
        search = cls(kademlia, peer_id, (), rules)
        search._left.append(tuple(addresses))
        search._answered.append(0)
        return search

    async def run(self, found: Callable[[tuple[bytes, ...]], None], rest_timeout: float = SEARCH_WITHIN) -> None:
        """Send requests to the start peers (connected ones), then to nearer nodes. Never raises for what nodes do.

        `found` is called with new addresses as soon as a node names any. Addresses that the rules deny are
        neither given to it nor dialled here. `rest_timeout` is seconds for other nodes after one has named addresses.
        """
        asking: dict[asyncio.Task[dict[str, tuple[bytes, ...]] | None], str] = {}
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
                        self._take(closer.pop(self.peer_id, ()), found)
                        self._learn(closer)
                if self.addresses and ends is None:
                    ends = time.monotonic() + rest_timeout
        finally:
            await end(*asking)
        for name in asking.values():
            self._note_silence(name)
        self.over = bool(self._answered) and not self._unheard
        if self.addresses and any(map(len, self._left)):
            await asyncio.sleep(REST_AFTER)
        # In turns, one of each answer after another: what is cut off is not one node's part.
        turns = chain.from_iterable(zip_longest(*self._left))
        self._give((address for address in turns if address is not None), found)

    def _next(self) -> list[str]:
        """Return the nodes to send requests to: the start peers, then the nearest, until enough of these answered."""
        enough = sorted(self._answered)[NEAREST - 1] if len(self._answered) >= NEAREST else None
        waiting = [
            (name not in self._start, distance, name)
            for name, distance in self._distances.items()
            if name not in self._asked
            and (name in self._start or ((enough is None or distance < enough) and name not in self._kademlia.silent))
        ]
        return [name for _, _, name in sorted(waiting)][: max(0, MAX_ASKED - len(self._asked))]

    def _learn(self, closer: Mapping[str, tuple[bytes, ...]]) -> None:
        for name, addresses in closer.items():
            if name not in self._known:
                self._known[name] = addresses
                self._distances[name] = _place(name) ^ self._target

    def _take(self, named: tuple[bytes, ...], found: Callable[[tuple[bytes, ...]], None]) -> None:
        """Pass the first few addresses of each kind to `found` at once, and keep the others for the search's end."""
        kinds = {address: self.rules.kind(self.peer_id, address) for address in named}
        for address, kind in kinds.items():
            if not kind.is_dialled and address not in self.withheld and len(self.withheld) < MAX_DIALLED:
                self.withheld[address] = kind
                self._kademlia.refused_addresses[kind] += 1
        circuits = [address for address, kind in kinds.items() if kind is Kind.CIRCUIT]
        others = [address for address, kind in kinds.items() if kind.is_dialled and kind is not Kind.CIRCUIT]
        self._give((*others[:DIALLED_AT_ONCE], *circuits[:CIRCUITS_AT_ONCE]), found)
        self._left.append((*others[DIALLED_AT_ONCE:], *circuits[CIRCUITS_AT_ONCE:]))

    def _give(self, named: Iterable[bytes], found: Callable[[tuple[bytes, ...]], None]) -> None:
        new = []
        for address in dict.fromkeys(named):
            room = self._room_for_circuits if is_circuit(address) else self._room
            if address in self.addresses:
                continue
            if next(room, None) is None:
                self._kademlia.refused_addresses["too_many"] += 1
                continue
            self.addresses.append(address)
            new.append(address)
        if new:
            found(tuple(new))

    async def _ask(self, name: str) -> dict[str, tuple[bytes, ...]] | None:
        """Return the peers nearest to the target that one node knows, with addresses; None where it does not answer."""
        addresses, began = self._known[name], time.monotonic()
        if addresses:
            direct = [address for address in addresses if self.rules.kind(name, address) is Kind.DIRECT]
            addresses = tuple(direct[:MAX_STEP_ADDRESSES])
            if not addresses:
                return None
        try:
            async with asyncio.timeout(ASK_TIMEOUT):
                if addresses:
                    await self._kademlia.daemon.connect(name, addresses)
                answer = await self._kademlia.streams.ask(name, self._request, keep=name in self._start)
        except TimeoutError:
            if self._kademlia.daemon.lateness.since(began):
                self.missed = True
            else:
                self._kademlia.silent.add(name)
                self._note_silence(name)
            return None
        except (P2PDaemonError, OSError, EOFError, ValueError):
            self._note_silence(name)  # as one that restarts, or that p2pd refuses to dial again for some seconds
            return None
        self._kademlia.silent.discard(name)
        self._kademlia.silent_since.pop(name, None)
        try:
            return closer_peers(answer)
        except ValueError:
            return None

    def _note_silence(self, name: str) -> None:
        """Note that a node has not answered: its answer may be missing, if it is a start peer."""
        if name in self._start:
            now = time.monotonic()
            silent_for = now - self._kademlia.silent_since.setdefault(name, now)
            self._unheard = self._unheard or silent_for < BELIEVED_SILENT_AFTER


@lru_cache(maxsize=4096)
def _place(peer_id: str) -> int:
    """Return a peer's position in Kademlia's space; the distance of two peers is the XOR of their positions."""
    return int.from_bytes(hashlib.sha256(packed_id(peer_id)).digest(), "big")
