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
from typing import TYPE_CHECKING, Any

from shared.p2p.hivemind import DHTID, DictionaryDHTValue
from shared.p2p.raw_values import RawValues, SubkeyValues
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


class DHTReader:
    """Reads through one DHT client, in whose protocol it replaces the serializer and `call_find`."""

    def __init__(self, dht: DHTNode, refused: Counter[str], lateness: Lateness) -> None:
        self._dht = dht
        self._lateness = lateness
        self._refused = refused
        self._find = dht.protocol.call_find
        self._heard: set[DHTID] = set()
        """Keys of which some node answered whether it holds them."""
        self._lost: set[DHTID] = set()
        """Keys of which a node that answers pings did not answer it, or may have answered unheard."""
        self._on_values: dict[DHTID, Callable[[SubkeyValues], None]] = {}
        self.silent = SilentNodes()
        self._met: set[PeerID] = set()
        """Nodes that have answered."""
        self._pings: dict[PeerID, asyncio.Task[bool]] = {}
        self.asked: Counter[str] = Counter()
        """Requests by peer id, and how many of them were answered; the caller may clear both."""
        self.answered: Counter[str] = Counter()
        dht.protocol.serializer = RawValues(refused)
        dht.protocol.call_find = self._find_each

    async def look_up(
        self,
        keys: Collection[str],
        timeout: float,  # noqa: ASYNC109 - partial answers are kept
        on_values: Callable[[str, SubkeyValues], None] | None = None,
    ) -> dict[str, SubkeyValues | None]:
        """Read dictionary values, latest first, undecoded: `{key: {subkey: raw bytes}}`.

        A key that the DHT does not hold maps to None. A key that did not answer in time is missing from the
        result: nothing is known of it. Traverses the DHT once for all keys. `on_values` gets what each node holds as
        soon as it answers: a part of the result, perhaps not the latest, and earlier where other nodes are silent.
        """
        ids = {DHTID.generate(key): key for key in keys}
        if on_values is not None:
            tell = on_values
            self._on_values |= {key_id: lambda values, key=key: tell(key, values) for key_id, key in ids.items()}
        # return_futures, because one bad key must not cost the others, and there is no deadline inside.
        futures = await self._dht.get_many_by_id(
            list(ids),
            sufficient_expiration_time=float("inf"),
            num_workers=max(SEARCHERS, len(ids)),
            return_futures=True,
        )
        try:
            async with self._lateness:
                await asyncio.wait(futures.values(), timeout=timeout)
        finally:
            for key_id, future in futures.items():
                future.cancel()
                self._on_values.pop(key_id, None)
        result: dict[str, SubkeyValues | None] = {}
        for key_id, future in futures.items():
            if future.cancelled() or future.exception() is not None:
                continue
            found: Any = future.result()
            if found is None:
                if key_id in self._heard and key_id not in self._lost:
                    result[ids[key_id]] = None
            elif isinstance(found.value, dict):
                result[ids[key_id]] = _values(found.value)
            else:
                self._refused["not_a_dictionary"] += 1
                result[ids[key_id]] = None
        self._heard.difference_update(ids)
        self._lost.difference_update(ids)
        return result

    async def close(self) -> None:
        """End the pings under way."""
        await end(*self._pings.values())

    async def _find_each(self, peer: PeerID, keys: Collection[DHTID]) -> dict[DHTID, Any] | None:
        """Request several keys of one node, as hivemind does; where it does not answer but lives, one key at a time."""
        if peer in self.silent:
            self._ping(peer)  # for the next crawl: it may be back
            return None
        self.asked[str(peer)] += 1
        began = time.monotonic()
        found = await self._find_or_give_up(peer, keys)
        if found is None and peer not in self.silent and await self._lives(peer):
            singly = [None] if len(keys) == 1 else await asyncio.gather(*(self._find(peer, [key]) for key in keys))
            found = {}
            for key, answer in zip(keys, singly, strict=True):
                if answer is None:
                    self._lost.add(key)
                found |= answer or {key: (None, {})}
            await self._lives(peer)  # enters it into the routing table again, which it lost by not answering
        if found is None:
            if self._lateness.since(began):
                self._lost.update(keys)
            return None
        self.answered[str(peer)] += bool(found.keys() - self._lost)
        self._heard.update(found.keys() - self._lost)
        for key, (value, nearest) in found.items():
            self._meet(nearest.values())
            on_values = self._on_values.get(key)
            if on_values is not None and value is not None and isinstance(value.value, DictionaryDHTValue):
                on_values(_values(value.value.data))
        return found

    async def _find_or_give_up(self, peer: PeerID, keys: Collection[DHTID]) -> dict[DHTID, Any] | None:
        """Return the node's answer; None where it gives none, as soon as its ping has failed."""
        finding: asyncio.Task[dict[DHTID, Any] | None] = awaited(self._find(peer, keys))
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


def _values(dictionary: dict[str, Any]) -> SubkeyValues:
    return {subkey: item.value for subkey, item in dictionary.items()}
