"""A sequential crawl, the reference of `tests.bench.crawl`: one phase after the other.

First all blocks are looked up, then the servers are dialled, by id alone, so that libp2p finds their
addresses itself, then the addresses of the connections are listed. hivemind's and p2pd's
own settings throughout.
"""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from shared.p2p.hivemind import P2PDaemonError, P2PHandlerError, PeerID, runtime_pb2
from shared.p2p.petals import MODEL_INDEX_KEY, TransformerConnectionHandler, block_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.p2p.hivemind import DHTNode


DIALS_AT_ONCE = 128
"""With more of them, p2pd as it comes lets live servers wait behind silent ones until they look dead."""


async def crawl(node: DHTNode, dial_timeout: float) -> tuple[list[str], list[str], dict[str, float]]:
    """Return who answered, who did not, and the seconds that each phase took."""
    marks = [time.monotonic()]
    models = await _values(node, [MODEL_INDEX_KEY])
    blocks = [block_key(prefix, block) for prefix, info in models[0].items() for block in range(info["num_blocks"])]
    servers = {peer_id for announced in await _values(node, blocks) for peer_id in announced}
    marks.append(time.monotonic())
    room = asyncio.Semaphore(DIALS_AT_ONCE)
    answers = await asyncio.gather(*(_answers(node, peer_id, dial_timeout, room) for peer_id in servers))
    marks.append(time.monotonic())
    await node.p2p.list_peers()
    marks.append(time.monotonic())
    lengths = (end - start for start, end in pairwise(marks))
    found: dict[bool, list[str]] = {True: [], False: []}
    for peer_id, answered in zip(servers, answers, strict=True):
        found[answered].append(peer_id)
    return found[True], found[False], dict(zip(("lookup", "dial", "addresses"), lengths, strict=True))


async def _values(node: DHTNode, keys: Sequence[str]) -> list[dict[str, Any]]:
    found = await node.get_many(keys, sufficient_expiration_time=float("inf"))
    return [
        {subkey: item.value for subkey, item in value.value.items()} if value is not None else {}
        for value in found.values()
    ]


async def _answers(node: DHTNode, peer_id: str, dial_timeout: float, room: asyncio.Semaphore) -> bool:
    peer = PeerID.from_base58(peer_id)
    try:
        async with room, asyncio.timeout(dial_timeout):
            await node.p2p._client.connect(peer, [])
            await TransformerConnectionHandler.get_stub(node.p2p, peer).rpc_info(runtime_pb2.ExpertUID())
    except (TimeoutError, P2PDaemonError, P2PHandlerError, OSError, EOFError):
        return False
    return True
