"""What the private swarm itself says, read without the monitor's judgement: the ground truth of these tests."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from shared.p2p.dht_node import DHTClientNode
from shared.p2p.hivemind import MSGPackSerializer, PeerID, runtime_pb2
from shared.p2p.petals import (
    MODEL_INDEX_KEY,
    ModelInfo,
    ServerInfo,
    ServerState,
    TransformerConnectionHandler,
    block_key,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def member(bootstrap: str) -> AsyncIterator[DHTClientNode]:
    """Join the swarm at one address as a client, and leave it."""
    address, _, peer_id = bootstrap.rpartition("/p2p/")
    async with await DHTClientNode.open() as node:
        errors = await node.join({peer_id: [address]}, timeout=10)
        assert errors == {peer_id: None}
        yield node


async def server_infos(node: DHTClientNode, dht_prefix: str, blocks: range, peer_id: str) -> list[Any]:
    """Return what the peer announces for each block: a petals `ServerInfo`, None where there is no record."""
    keys = [block_key(dht_prefix, block) for block in blocks]
    found = (await node.look_up(keys, timeout=10)).whole
    records = [(found.get(key) or {}).get(peer_id) for key in keys]
    return [None if record is None else ServerInfo.from_tuple(MSGPackSerializer.loads(record)) for record in records]


async def wait_for_state(
    node: DHTClientNode, dht_prefix: str, blocks: range, peer_id: str, state: ServerState, *, within: float = 30
) -> list[Any]:
    """Return the records once all blocks are announced in this state. Raise `TimeoutError`."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        infos = await server_infos(node, dht_prefix, blocks, peer_id)
        if all(info is not None and info.state is state for info in infos):
            return infos
        await asyncio.sleep(0.2)
    raise TimeoutError(f"{peer_id} is not {state} within {within:g} s: {infos}")


async def model_info(node: DHTClientNode, dht_prefix: str) -> Any:
    """Return the petals `ModelInfo` that is announced under the prefix, None where there is none."""
    found = (await node.look_up([MODEL_INDEX_KEY], timeout=10)).whole.get(MODEL_INDEX_KEY) or {}
    return ModelInfo.from_dict(MSGPackSerializer.loads(found[dht_prefix])) if dht_prefix in found else None


async def rpc_info(node: DHTClientNode, peer_id: str, *, within: float = 5) -> dict[str, Any]:
    """Return the peer's own answer to `rpc_info`. Raise `TimeoutError` or hivemind's errors."""
    async with asyncio.timeout(within):
        stub = TransformerConnectionHandler.get_stub(node.p2p, PeerID.from_base58(peer_id))
        response = await stub.rpc_info(runtime_pb2.ExpertUID())
    info: dict[str, Any] = MSGPackSerializer.loads(response.serialized_info)
    return info
