"""Read dictionaries of the DHT, and tell "nobody holds this key" from "whoever may hold it did not answer".

hivemind calls both "not found". A swarm whose nodes are silent would then look empty, and anyone could make
it so: the dictionary of a key may be filled until it outgrows libp2p's message limit (4 MiB), and then the
answer never arrives. hivemind takes the node for dead, and avoids it for all other keys too.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from shared.p2p.hivemind import DHTID
from shared.p2p.raw_values import RawValues, SubkeyValues

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Collection

    from shared.p2p.hivemind import DHTNode, PeerID

PING_TIMEOUT = 1.0
"""Seconds that a node which left a question open gets to show that it is there."""


class DHTReader:
    """Reads through one DHT client, whose protocol it takes over in part."""

    def __init__(self, dht: DHTNode, refused: Counter[str]) -> None:
        self._dht = dht
        self._refused = refused
        self._find = dht.protocol.call_find
        self._heard: set[DHTID] = set()
        """Keys of which some node said whether it holds them."""
        self._lost: set[DHTID] = set()
        """Keys of which a living node could not say it."""
        dht.protocol.serializer = RawValues(refused)
        dht.protocol.call_find = self._find_each

    async def look_up(self, keys: Collection[str], timeout: float) -> dict[str, SubkeyValues | None]:  # noqa: ASYNC109 - partial answers are kept
        """Read dictionary values, latest first, undecoded: `{key: {subkey: raw bytes}}`.

        A key that the DHT does not hold maps to None. A key that did not answer in time is missing from the
        result: nobody could look. Traverses the DHT once for all keys.
        """
        ids = {DHTID.generate(key): key for key in keys}
        # return_futures, because one bad key must not cost the others, and there is no deadline inside.
        futures = await self._dht.get_many_by_id(
            list(ids), sufficient_expiration_time=float("inf"), num_workers=len(ids), return_futures=True
        )
        _, late = await asyncio.wait(futures.values(), timeout=timeout)
        for future in late:
            future.cancel()
        result: dict[str, SubkeyValues | None] = {}
        for key_id, future in futures.items():
            if future.cancelled() or not future.done() or future.exception() is not None:
                continue
            found: Any = future.result()
            if found is None:
                if key_id in self._heard and key_id not in self._lost:
                    result[ids[key_id]] = None
            elif isinstance(found.value, dict):
                result[ids[key_id]] = {subkey: item.value for subkey, item in found.value.items()}
            else:
                self._refused["not_a_dictionary"] += 1
                result[ids[key_id]] = None
        self._heard.difference_update(ids)
        self._lost.difference_update(ids)
        return result

    async def _find_each(self, peer: PeerID, keys: Collection[DHTID]) -> dict[DHTID, Any] | None:
        """Ask one node for several keys, as hivemind does; where no answer comes and it lives, for one at a time."""
        found: dict[DHTID, Any] | None = await self._find(peer, keys)
        if found is None and await self._lives(peer):
            singly = [None] if len(keys) == 1 else await asyncio.gather(*(self._find(peer, [key]) for key in keys))
            found = {}
            for key, answer in zip(keys, singly, strict=True):
                if answer is None:
                    self._lost.add(key)
                found |= answer or {key: (None, {})}
            await self._lives(peer)  # enters it into the routing table again, which it lost by not answering
        self._heard.update((found or {}).keys() - self._lost)
        return found

    async def _lives(self, peer: PeerID) -> bool:
        try:
            async with asyncio.timeout(PING_TIMEOUT):
                return await self._dht.protocol.call_ping(peer) is not None
        except TimeoutError:
            return False
