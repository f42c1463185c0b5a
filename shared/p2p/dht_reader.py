"""This module reads dictionaries of the DHT, and tells "nobody holds this key" from "whoever may hold it is silent".

hivemind calls both "not found". A swarm whose nodes do not answer would then seem empty, and anyone could cause that:
who fills the dictionary of a key beyond libp2p's message limit (4 MiB) keeps every answer with it from arriving.
hivemind then takes the node for dead, and leaves it out for all other keys too.

A silent node costs one timeout: nodes are pinged as soon as another node names them, all that wait for a node stop when
its ping fails, and it is left out until it answers a ping again.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from shared.p2p.hivemind import DHTID
from shared.p2p.raw_values import LeavesPacked, MergedDictionary, PackedDictionary, SubkeyValues
from shared.p2p.silent_nodes import SilentNodes
from shared.tasks import awaited, end

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from shared.p2p.hivemind import DHTNode, PeerID
    from shared.p2p.lateness import Lateness

PINGED_AFTER = 0.3
"""Seconds after which a node that has not answered a request is pinged: it may be silent, or its answer too large."""
SEARCHERS = 8
"""Requests of one lookup that are in flight at once, at least: a silent node delays one of them, not the lookup."""
SILENT_AFTER = 1.0
"""Seconds. A ping that fails sooner did not time out, and is tried once more."""
MAX_PINGED = 64
"""Nodes named by others that are pinged at once."""

MAX_MET = 10_000

_Found: TypeAlias = "dict[DHTID, tuple[Any, dict[DHTID, PeerID]]]"
"""A node's answer: what it holds under each key (hivemind's `ValueWithExpiration` or None), and nodes nearer to it."""


class LookupResult(NamedTuple):
    """What one lookup read: dictionaries by key, whose values are raw bytes by subkey."""

    whole: dict[str, SubkeyValues | None]
    """Of keys whose search ended; None where nobody holds a dictionary."""
    in_part: dict[str, SubkeyValues]
    """What some nodes hold under keys whose search did not end in time: perhaps not all, nor the latest."""

    def values(self, key: str) -> SubkeyValues:
        """Return what was found under a key, also where its search did not end."""
        return self.whole.get(key) or self.in_part.get(key) or {}


class DHTReader:
    """Reads through one DHT client, in whose protocol it replaces the serializer and `call_find`.

    hivemind chooses the nodes to request a key from; what they answer never reaches it, but is merged here.
    """

    def __init__(self, dht: DHTNode, refused: Counter[str], lateness: Lateness) -> None:
        self._dht = dht
        self._lateness = lateness
        self._refused = refused
        self._find = dht.protocol.call_find
        self._keys: dict[DHTID, _Key] = {}
        """Those whose lookup is under way."""
        self.silent = SilentNodes()
        self._met: set[PeerID] = set()
        """Nodes that have answered."""
        self._pings: dict[PeerID, asyncio.Task[bool]] = {}
        self.asked: Counter[str] = Counter()
        """Requests by peer id, and how many of them were answered; the caller may clear both."""
        self.answered: Counter[str] = Counter()
        dht.protocol.serializer = LeavesPacked
        dht.protocol.call_find = self._find_each

    async def look_up(
        self,
        keys: Collection[str],
        timeout: float,  # noqa: ASYNC109 - partial answers are kept
        on_values: Callable[[str, SubkeyValues], None] | None = None,
    ) -> LookupResult:
        """Read dictionary values, latest first, undecoded.

        Nothing is known of a key that the result does not name. Traverses the DHT once for all keys. `on_values` gets
        what is new in each node's answer as soon as it comes: a part of the result, perhaps not the latest, but before
        silent nodes end.
        """
        names = {DHTID.generate(key): key for key in keys}
        asked = {
            key_id: _Key(self._refused, None if on_values is None else partial(on_values, name))
            for key_id, name in names.items()
        }
        self._keys |= asked
        # return_futures, because there is no deadline inside.
        futures = await self._dht.get_many_by_id(
            list(names), num_workers=max(SEARCHERS, len(names)), return_futures=True
        )
        try:
            async with self._lateness:
                await asyncio.wait(futures.values(), timeout=timeout)
        finally:
            for key_id, future in futures.items():
                future.cancel()
                self._keys.pop(key_id, None)
        found = LookupResult({}, {})
        for key_id, future in futures.items():
            values = asked[key_id].values
            if not future.cancelled() and asked[key_id].is_known:
                found.whole[names[key_id]] = values
            elif values is not None:
                # Whoever names silent nodes without end keeps the search going, but hides nothing.
                found.in_part[names[key_id]] = values
        return found

    async def close(self) -> None:
        """End the pings under way."""
        await end(*self._pings.values())

    async def _find_each(self, peer: PeerID, keys: Collection[DHTID]) -> _Found | None:
        """Request several keys of one node, as hivemind does; where it does not answer but lives, one key at a time."""
        if peer in self.silent:
            self._ping(peer)  # for the next crawl: it may be back
            return None
        self.asked[str(peer)] += 1
        began = time.monotonic()
        found = await self._find_or_give_up(peer, keys)
        if found is None and peer not in self.silent and await self._lives(peer):
            found = await self._find_singly(peer, keys)
            await self._lives(peer)  # enters it into the routing table again, which it lost by not answering
        if found is None:
            if self._lateness.since(began):
                self._lose(keys)
            return None
        self._lose(set(keys) - found.keys())
        self.answered[str(peer)] += bool(found)
        for key, (value, nearest) in found.items():
            self._meet(nearest.values())
            if key in self._keys:
                self._keys[key].add(None if value is None else value.value)
        return {key: (None, found[key][1] if key in found else {}) for key in keys}

    async def _find_singly(self, peer: PeerID, keys: Collection[DHTID]) -> _Found:
        answers = [None] if len(keys) == 1 else await asyncio.gather(*(self._find(peer, [key]) for key in keys))
        return {key: one for answer in answers for key, one in (answer or {}).items()}

    def _lose(self, keys: Iterable[DHTID]) -> None:
        for key in self._keys.keys() & set(keys):
            self._keys[key].lost = True

    async def _find_or_give_up(self, peer: PeerID, keys: Collection[DHTID]) -> _Found | None:
        """Return the node's answer; None where it gives none, as soon as its ping has failed."""
        finding: asyncio.Task[_Found | None] = awaited(self._find(peer, keys))
        try:
            await asyncio.wait({finding}, timeout=PINGED_AFTER if peer in self._met else 0)
            while not finding.done():
                ping = self._ping(peer)
                await asyncio.wait({finding, ping}, return_when=asyncio.FIRST_COMPLETED)
                if not finding.done() and not await asyncio.shield(ping):
                    return None
                if not finding.done():
                    await asyncio.wait({finding})
            return finding.result()
        finally:
            finding.cancel()

    async def _lives(self, peer: PeerID) -> bool:
        return await asyncio.shield(self._ping(peer))

    def _meet(self, peers: Iterable[PeerID]) -> None:
        """Ping those that have never answered, so that their timeouts run at the same time."""
        for peer in peers:
            if peer not in self._met and peer not in self.silent and len(self._pings) < MAX_PINGED:
                self._ping(peer)

    def _ping(self, peer: PeerID) -> asyncio.Task[bool]:
        """Return the ping of this node that is under way, a new one where none is."""
        ping = self._pings.get(peer)
        if ping is None:
            ping = self._pings[peer] = awaited(self._answers_ping(peer))
            ping.add_done_callback(lambda _: self._pings.pop(peer, None))
        return ping

    async def _answers_ping(self, peer: PeerID) -> bool:
        began = time.monotonic()
        answered = await self._dht.protocol.call_ping(peer) is not None
        if not answered and time.monotonic() - began < SILENT_AFTER:
            # An answer too large for libp2p resets the connection, with all that waits on it.
            answered = await self._dht.protocol.call_ping(peer) is not None
        if answered:
            if len(self._met) >= MAX_MET:
                self._met.clear()
            self._met.add(peer)
            self.silent.discard(peer)
        elif not self._lateness.since(began):
            self._met.discard(peer)
            self.silent.add(peer)
        return answered


class _Key:
    """What the nodes answered about one key so far."""

    def __init__(self, refused: Counter[str], on_values: Callable[[SubkeyValues], None] | None) -> None:
        self._refused = refused
        self._on_values = on_values
        self._merged = MergedDictionary(refused)
        self._held = self._heard = False
        self.lost = False
        """Whether a node that answers pings did not answer this key, or may have answered it unheard."""

    def add(self, value: object) -> None:
        """Add what a node holds under this key: None for nothing, bytes where it is no dictionary."""
        self._heard = True
        if isinstance(value, PackedDictionary):
            new = self._merged.add(value)
            self._held |= new is not None
            if new and self._on_values is not None:
                self._on_values(new)
        elif value is not None:
            self._refused["not_a_dictionary"] += 1

    @property
    def is_known(self) -> bool:
        """Whether some node holds it, or all that may hold it have answered that they do not."""
        return self._held or (self._heard and not self.lost)

    @property
    def values(self) -> SubkeyValues | None:
        """All that the nodes hold; None where they hold no dictionary."""
        return self._merged.values() if self._held else None
