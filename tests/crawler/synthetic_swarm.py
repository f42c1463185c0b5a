"""A swarm of any size without a network: what the DHT would answer, and whom a dial would reach."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from types import SimpleNamespace

from crawler.observe import observer
from crawler.observe.observer import Crawl
from shared.p2p.dht_reader import LookupResult
from shared.p2p.hivemind import MSGPackSerializer
from shared.p2p.lateness import Lateness
from shared.p2p.petals import MODEL_INDEX_KEY, block_key
from shared.reachability import Cause, DialOutcome, Stage
from shared.snapshot import Verdict
from tests.fakes import REACHED, peer_id

SILENT = DialOutcome(Verdict.UNREACHABLE, Stage.DIAL, Cause.TIMEOUT)


def packed(value) -> bytes:
    return MSGPackSerializer.dumps(value)


class SyntheticSwarm:
    """Stands for the dht_node and the prober_node. `dials` is whom the crawl dialled, in order."""

    def __init__(self):
        self.values = {MODEL_INDEX_KEY: {}}
        self.reached = set()
        self.unanswered = set()
        self.in_part = {}
        """What some node holds under keys that are unanswered."""
        self.first_answers = {}
        """By key, what the first node to answer holds there, where that is not the latest."""
        self.dials = []
        self.looked_up = Counter()
        self.dial_seconds = 0.0
        self.look_up_seconds = 0.0
        self.refused_subkeys = Counter()
        self.kademlia = SimpleNamespace(refused_addresses=Counter())
        self.has_joined = asyncio.Event()
        self.silent_nodes = 0
        self.lateness = Lateness(self.identify)
        self.versions = {}
        self.peer_id = peer_id(10**6)

    def announce_model(self, prefix, num_blocks, repository="https://huggingface.co/a/b"):
        value = packed({"num_blocks": num_blocks, "repository": repository})
        self.values[MODEL_INDEX_KEY][prefix] = value

    def announce_server(self, prefix, peer, start, end, *, reached=True, **info):
        value = packed((2, 1.0, {"start_block": start, "end_block": end, "version": "2.2.0", **info}))
        for block in range(start, end):
            self.values.setdefault(block_key(prefix, block), {})[peer] = value
        if reached:
            self.reached.add(peer)

    def goes_last(self, prefix, peer):
        """Put a server behind all others under its blocks."""
        for values in (values for key, values in self.values.items() if key.rpartition(".")[0] == prefix):
            if peer in values:
                values[peer] = values.pop(peer)

    async def join(self, bootstrap_peers, timeout):
        self.has_joined.set()
        return dict.fromkeys(bootstrap_peers)

    async def look_up(self, keys, timeout, on_values=None):
        self.looked_up.update(list(keys))
        for key in self.first_answers.keys() & set(keys):
            on_values(key, self.first_answers[key])
            await asyncio.sleep(0.01)
        await asyncio.sleep(min(self.look_up_seconds, timeout))
        if self.look_up_seconds >= timeout:
            return LookupResult({}, {})
        whole = {key: self.values.get(key) for key in keys if key not in self.unanswered}
        return LookupResult(whole, {key: self.in_part[key] for key in self.in_part.keys() & (set(keys) - whole.keys())})

    async def reaches_swarm(self):
        return True

    def account(self, peer):
        return "connected, answered the ping, did not answer 1 of 1 lookups"

    async def clock_ahead(self):
        return 0.0

    async def reaches(self, peer, addresses):
        return True

    async def identify(self):
        return self.peer_id

    async def connections(self):
        return {}

    def crawl(self, monkeypatch, *, official=(), private_swarm=False, lookup_timeout=10.0, **options):
        async def probe(dht_node, prober_node, peer, *, deadline, must_serve):
            self.dials.append(peer)
            if peer in self.reached:
                return REACHED
            await asyncio.sleep(self.dial_seconds)
            return SILENT

        monkeypatch.setattr(observer, "probe", probe)
        settings = SimpleNamespace(
            bootstrap_peers={peer_id(0): ["/ip4/127.0.0.1/tcp/1"]},
            official_models=official,
            private_swarm=private_swarm,
            dial_timeout=5.0,
            lookup_timeout=lookup_timeout,
        )
        return Crawl(self, self, settings, **{"last": None, "early": None, "began": time.monotonic(), **options})
