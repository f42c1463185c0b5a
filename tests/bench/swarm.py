"""A private swarm of any size on one machine, for `tests.bench.crawl`.

`python -m tests.bench.swarm PLAN` prints the `Ground` as a JSON line once it stands, answers each line on its
standard input with what its DHT nodes were asked since the last one, and ends with its input.

Real: the DHT nodes, their p2pd daemons, the live servers' daemons and identities, TCP. A live server takes a
process of 64 MB, so only so many are live; the others are dead (nothing listens at their address, or nobody knows
one) or frozen (their port accepts and stays silent). The records are put into the nodes' storage directly and
stay there packed: the nodes are not what is measured.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

import msgspec
import uvloop

from deploy import embedded_redis
from deploy.demo.simulated_inference import Computation, handler
from deploy.demo.simulated_server import Announcement, Model
from shared.p2p.connect import ProberNode
from shared.p2p.daemon import P2PDaemon
from shared.p2p.hivemind import (
    DHTID,
    P2P,
    DHTLocalStorage,
    DHTNode,
    DictionaryDHTValue,
    MSGPackSerializer,
    PeerID,
    TimedStorage,
)
from shared.p2p.kad_messages import PROTOCOL, bytes_fields, read_message
from shared.p2p.multiaddr import from_text
from shared.p2p.petals import MODEL_INDEX_KEY, ModelInfo, block_key
from tests.bench.delaying_proxy import DelayingProxy
from tests.support import synthetic
from tests.support.simulated_kad import answer, closer_peer

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter
    from collections.abc import Mapping

    from shared.p2p.hivemind import StreamInfo

HUBS = 5
"""DHT nodes: hivemind keeps each record on so many."""
FROZEN_SHARE, UNKNOWN_SHARE = 0.1, 0.1
"""Of all servers: frozen ones, and dead ones of which no node knows an address."""
SPAN_BLOCKS = (6, 40)
RECORDS_LAST = 3600.0
STARTED_AT_ONCE = 5
START_WITHIN = 60.0


class Plan(msgspec.Struct, frozen=True):
    """What to build. `one_way` is how many seconds a byte takes to any node of the swarm."""

    servers: int
    live: int
    models: int
    blocks: int
    one_way: float


class Ground(msgspec.Struct, frozen=True):
    """What was built: where to join, and the truth that a crawl is held against."""

    initial_peers: list[str]
    live: list[str]
    others: list[str]


class _CountedStorage(DHTLocalStorage):  # type: ignore[misc]
    """A DHT node's records; counts the keys that it was asked for."""

    asked = 0

    def get(self, key: DHTID) -> Any:
        self.asked += 1
        return super().get(key)


class _PackedDictionaries:
    """hivemind's serializer for nodes that only answer: each dictionary is packed once, not for each answer."""

    def __init__(self) -> None:
        self._packed: dict[int, bytes] = {}

    def pack(self, value: DictionaryDHTValue) -> None:
        self._packed[id(value)] = MSGPackSerializer.dumps(value)

    def dumps(self, value: DictionaryDHTValue) -> bytes:
        return self._packed[id(value)]

    loads = staticmethod(MSGPackSerializer.loads)


class Hub:
    """A DHT node for both protocols: hivemind's records, and where peers are (FIND_NODE, out of a directory)."""

    def __init__(
        self, p2p: P2P, node: DHTNode, address: str, directory: Mapping[bytes, bytes], packed: _PackedDictionaries
    ) -> None:
        self.p2p, self.address = p2p, address
        self.storage = _CountedStorage()
        self.find_node_requests = 0
        self._protocol = node.protocol
        self._protocol.storage = self.storage
        self._protocol.serializer = packed
        self._directory = directory

    @classmethod
    async def start(cls, proxy: DelayingProxy, directory: Mapping[bytes, bytes], packed: _PackedDictionaries) -> Self:
        p2p, address = await _listen(proxy)
        hub = cls(p2p, await DHTNode.create(p2p=p2p), address, directory, packed)
        await p2p.add_binary_stream_handler(PROTOCOL, hub._serve_find_node)
        return hub

    @property
    def peer_id(self) -> str:
        return str(self.p2p.peer_id)

    async def meet(self, other: Hub) -> None:
        await ProberNode(self.p2p).connect(other.peer_id, [from_text(other.address)])
        await self._protocol.call_ping(other.p2p.peer_id)

    async def _serve_find_node(self, _: StreamInfo, reader: StreamReader, writer: StreamWriter) -> None:
        with suppress(EOFError, OSError, ValueError):
            while True:
                key = dict(bytes_fields(await read_message(reader))).get(2, b"")
                self.find_node_requests += 1
                writer.write(answer(self._directory.get(key, b"") + self._directory[b""]))
                await writer.drain()
        writer.close()


async def _listen(proxy: DelayingProxy) -> tuple[P2P, str]:
    """Start a daemon that knows no DHT, and return it with its address behind the proxy."""
    p2p = await P2PDaemon.create(
        dht_mode="none", host_maddrs=[_address(0)], auto_nat=False, nat_port_map=False, use_relay=False,
        startup_timeout=START_WITHIN,
    )  # fmt: skip
    (own,) = await p2p.get_visible_maddrs()
    return p2p, _address(await proxy.in_front_of(int(own["tcp"])))


def _address(port: int) -> str:
    return f"/ip4/127.0.0.1/tcp/{port}"


class Swarm:
    """All of it. `start` once, `close` at the end."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._proxy = DelayingProxy(plan.one_way)
        self._directory: dict[bytes, bytes] = {b"": b""}
        self._packed = _PackedDictionaries()
        self._hubs: list[Hub] = []
        self._live: dict[str, P2P] = {}
        self._slots = asyncio.Semaphore(STARTED_AT_ONCE)

    async def start(self) -> Ground:
        for _ in range(HUBS):
            hub = await Hub.start(self._proxy, self._directory, self._packed)
            await asyncio.gather(*map(hub.meet, self._hubs))
            self._hubs.append(hub)
        self._directory[b""] = b"".join(closer_peer(hub.peer_id, [hub.address]) for hub in self._hubs)
        await asyncio.gather(*(self._start_live() for _ in range(self._plan.live)))
        others = [synthetic.peer_id(number) for number in range(self._plan.servers - len(self._live))]
        await self._place(others)
        self._announce([*self._live, *others])
        return Ground([f"{hub.address}/p2p/{hub.peer_id}" for hub in self._hubs], list(self._live), others)

    async def _start_live(self) -> None:
        async with self._slots:
            p2p, address = await _listen(self._proxy)
            await handler("bench-0-hf", 0, self._plan.blocks, Computation()).add_p2p_handlers(p2p)
        self._enter(str(p2p.peer_id), address)
        self._live[str(p2p.peer_id)] = p2p

    async def _place(self, others: list[str]) -> None:
        """Give the servers that do not live their addresses: one that is silent, one that refuses, or none."""
        silent = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, backlog=4096)
        frozen = round(self._plan.servers * FROZEN_SHARE)
        known = len(others) - round(self._plan.servers * UNKNOWN_SHARE)
        for peer_id in others[:frozen]:
            self._enter(peer_id, _address(silent.sockets[0].getsockname()[1]))
        refusing = embedded_redis.free_port()
        for peer_id in others[frozen:known]:
            self._enter(peer_id, _address(refusing))

    def _enter(self, peer_id: str, address: str) -> None:
        self._directory[PeerID.from_base58(peer_id).to_bytes()] = closer_peer(peer_id, [address])

    def _announce(self, peer_ids: list[str]) -> None:
        rng = random.Random(7)
        rng.shuffle(peer_ids)
        expires = time.time() + RECORDS_LAST
        dictionaries: dict[str, DictionaryDHTValue] = {}

        def put(key: str, subkey: str, value: bytes) -> None:
            dictionaries.setdefault(key, DictionaryDHTValue()).store(subkey, value, expires)

        models = [Model(f"bench-{number}-hf", self._plan.blocks) for number in range(self._plan.models)]
        for model in models:
            index = ModelInfo(num_blocks=model.num_blocks, repository="https://huggingface.co/bench/model")
            put(MODEL_INDEX_KEY, model.dht_prefix, MSGPackSerializer.dumps(index.to_dict()))
        for number, peer_id in enumerate(peer_ids):
            length = min(rng.randint(*SPAN_BLOCKS), self._plan.blocks)
            start = rng.randint(0, self._plan.blocks - length)
            pings = {other: rng.uniform(0.005, 0.2) for other in rng.sample(peer_ids, min(5, len(peer_ids)))}
            model = models[number % len(models)]
            announcement = Announcement(
                model, start, start + length, throughput=rng.uniform(50, 4000), info={"next_pings": pings}
            )
            value = MSGPackSerializer.dumps(announcement.to_tuple())
            for block in range(start, start + length):
                put(block_key(model.dht_prefix, block), peer_id, value)
        for key, dictionary in dictionaries.items():
            self._packed.pack(dictionary)
            for hub in self._hubs:
                TimedStorage.store(hub.storage, DHTID.generate(key), dictionary, expires)

    def asked(self) -> dict[str, int]:
        """Return and forget what the DHT nodes were asked: keys, and where peers are."""
        counts = Counter[str]()
        for hub in self._hubs:
            counts["keys"] += hub.storage.asked
            counts["find_node"] += hub.find_node_requests
            hub.storage.asked = hub.find_node_requests = 0
        return dict(counts)

    async def close(self) -> None:
        self._proxy.close()
        daemons = [*self._live.values(), *(hub.p2p for hub in self._hubs)]
        await asyncio.gather(*(daemon.shutdown() for daemon in daemons), return_exceptions=True)


async def main() -> None:
    swarm = Swarm(msgspec.json.decode(sys.argv[1], type=Plan))
    try:
        ground = await swarm.start()
        print(msgspec.json.encode(ground).decode(), flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            print(msgspec.json.encode(swarm.asked()).decode(), flush=True)
    finally:
        await swarm.close()


if __name__ == "__main__":
    uvloop.run(main())
