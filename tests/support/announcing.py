"""Announcements written as servers write them: through the DHT, where the demo puts records into its nodes' stores."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from deploy.demo.simulated_server import RECORD_LIFETIME, model_index_entry
from shared.p2p.petals import MODEL_INDEX_KEY, block_key

if TYPE_CHECKING:
    from deploy.demo.simulated_server import Announcement, SimulatedServer


async def announce(
    via: SimulatedServer, peer_id: str, announcement: Announcement, lifetime: float = RECORD_LIFETIME
) -> None:
    """Write a server's records through any node: nothing in the DHT checks who writes."""
    expires = time.time() + lifetime
    model = announcement.model
    blocks = range(announcement.start, announcement.end)
    await via.node.store(MODEL_INDEX_KEY, model_index_entry(model), expires, subkey=model.dht_prefix)
    await via.node.store_many(
        [block_key(model.dht_prefix, block) for block in blocks],
        [announcement.to_tuple()] * len(blocks),
        expires,
        subkeys=[peer_id] * len(blocks),
    )
