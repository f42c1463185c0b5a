"""This module reads what the swarm announces in the DHT: its model index, and the servers of each model's blocks.

Each server that announces it is online is handed to the probes as soon as its first record arrives.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from itertools import islice
from typing import TYPE_CHECKING, Any

from crawler.observe.blocks import BlockReader, spread
from crawler.observe.model_index import first_that_fit, fit_early, served_before, served_first, sort_key
from crawler.observe.observation import ObservedModel
from crawler.observe.records import RefusedError, check_block, read_model
from shared.p2p.petals import MODEL_INDEX_KEY, block_key
from shared.snapshot import PeerState
from shared.tasks import awaited, end

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from crawler.models import Model
    from crawler.observe.blocks import BlockKey
    from crawler.observe.probes import ProbeQueue
    from crawler.observe.record_reader import RecordReader
    from crawler.settings import CrawlerSettings
    from shared.p2p.dht_node import DHTClientNode
    from shared.p2p.dht_reader import LookupResult
    from shared.p2p.raw_values import SubkeyValues
    from shared.snapshot import Snapshot

ENTRIES_PER_TURN = 100
"""Entries of one answer that are parsed before the event loop may run something else, such as probes in flight."""


class AnnouncementReader:
    """Reads all announcements for one crawl. Call `read` once, then `close`."""

    def __init__(
        self,
        dht_node: DHTClientNode,
        records: RecordReader,
        probes: ProbeQueue,
        settings: CrawlerSettings,
        *,
        last: Snapshot | None,
        until: float,
    ) -> None:
        """Lookups end `until` (monotonic seconds)."""
        self._dht_node = dht_node
        self._records = records
        self._probes = probes
        self._official_models = settings.official_models
        self._private_swarm = settings.private_swarm
        self._last = last
        self._timeout = settings.lookup_timeout
        self._blocks = BlockReader(dht_node, self._timeout, until)
        self._tasks: list[asyncio.Task[Any]] = []
        self._early: defaultdict[str, set[str]] = defaultdict(set)
        """Servers by DHT prefix that were named before their block was read in full."""
        self.servers: set[str] = set()
        """Peer ids of the servers that announce anything."""
        self.answered_keys = 0
        self.unanswered_keys = 0

    async def read(self) -> list[ObservedModel]:
        """Return the official models, then as many of the announced ones as fit, in the public order.

        Models that the first DHT nodes name are read while other nodes have not answered yet.
        """
        official = self._begin(self._official_models)
        first, indexing = await self._first_named()
        found = [self._begin(first)]
        announced = await self._announced_models(await indexing)
        latest = {model.dht_prefix: model for model in announced}
        first = [model for model in first if latest.get(model.dht_prefix, model) == model]
        before = {model.dht_prefix for model in served_before(self._last)}
        left = [model for model in announced if model not in first]
        known = first_that_fit([model for model in left if model.dht_prefix in before], beside=first)
        found.append(self._begin(known))
        chosen = [*first, *known]
        others = [model for model in left if model.dht_prefix not in before]
        if len(more := first_that_fit(others, beside=chosen)) < len(others):
            more = first_that_fit(await served_first(others, self._blocks.served), beside=chosen)
        found.append(self._begin(more))
        chosen += more
        seen = {model.dht_prefix for model in chosen}
        for model in announced:
            if model.dht_prefix not in seen:
                self._records.refuse("too_many_models", model.dht_prefix)
        # Not those of which another node had a later entry than the one that answered first.
        observed = [each for task in found for each in await task if each.model in chosen]
        return [*await official, *sorted(observed, key=lambda each: sort_key(each.model))]

    async def close(self) -> None:
        """Cancel lookups that have not ended."""
        await end(*self._tasks)
        await self._blocks.close()

    async def _first_named(self) -> tuple[list[Model], asyncio.Task[LookupResult]]:
        """Return the models that the first DHT node names, and the lookup of the whole index, which goes on.

        Returns no model where the node names too many: they wait for the whole index, so that a flood cannot displace
        the others.
        """
        early: dict[str, Model] = {}
        named = asyncio.Event()

        def take(_: str, values: SubkeyValues) -> None:
            early.update((model.dht_prefix, model) for model in self._announced(values, early=True))
            named.set()

        indexing = awaited(self._dht_node.look_up([MODEL_INDEX_KEY], self._timeout, take))
        waiting = awaited(named.wait())
        self._tasks += (indexing, waiting)
        await asyncio.wait({indexing, waiting}, return_when=asyncio.FIRST_COMPLETED)
        models = sorted(early.values(), key=sort_key)
        return (models if fit_early(models) else []), indexing

    async def _announced_models(self, found: LookupResult) -> list[Model]:
        """Return the models of the index that are not official; where it was read in part, also those served before."""
        index = found.whole.get(MODEL_INDEX_KEY)
        # Silent nodes may hold an index that the others do not: "nobody holds it" proves no empty swarm then.
        whole = index is not None or (MODEL_INDEX_KEY in found.whole and not self._dht_node.silent_nodes)
        self.answered_keys += whole
        self.unanswered_keys += not whole
        announced: list[Model] = []
        entries = iter(found.values(MODEL_INDEX_KEY).items())
        while some := dict(islice(entries, ENTRIES_PER_TURN)):
            announced += self._announced(some)
            await asyncio.sleep(0)
        if not whole:
            before = served_before(self._last)
            known = {model.dht_prefix for model in before}
            # An entry that was found may be an old one.
            announced = [*before, *(model for model in announced if model.dht_prefix not in known)]
        return sorted(announced, key=sort_key)

    def _announced(self, values: SubkeyValues, *, early: bool = False) -> Iterator[Model]:
        """Yield the valid entries of a model index. The others count as refused, once: not when read `early`."""
        official = {model.dht_prefix for model in self._official_models}
        for prefix, packed in islice(values.items(), ENTRIES_PER_TURN if early else None):
            if prefix in official:
                continue
            try:
                yield read_model(prefix, packed, private_swarm=self._private_swarm)
            except RefusedError as error:
                if not early:
                    self._records.refuse(str(error), f"{MODEL_INDEX_KEY}/{prefix}")

    def _begin(self, models: Sequence[Model]) -> asyncio.Task[list[ObservedModel]]:
        task = awaited(self._read_blocks(models))
        self._tasks.append(task)
        return task

    async def _read_blocks(self, models: Sequence[Model]) -> list[ObservedModel]:
        """Read all blocks of these models, in an order that names most servers early."""
        observed = {model.dht_prefix: ObservedModel(model, {}) for model in models}
        async for found, answered, unanswered in self._blocks.read(spread(models), self._take_early):
            self.answered_keys += answered
            self.unanswered_keys += unanswered
            for key, values in found.items():
                for number, (subkey, packed) in enumerate(values.items()):
                    if number % ENTRIES_PER_TURN == 0:
                        await asyncio.sleep(0)
                    self._take(observed[key.dht_prefix], key.block, subkey, packed)
        return list(observed.values())

    def _take(self, observed: ObservedModel, block: int, subkey: str, packed: bytes) -> None:
        """Add one record to the model; queue its server's probe where it announces that it is online."""
        dht_prefix, announcements = observed.model.dht_prefix, observed.announcements
        try:
            peer_id, record = self._records.read(dht_prefix, subkey, packed)
            check_block(record, block)
        except RefusedError as error:
            self._records.refuse(str(error), f"{block_key(dht_prefix, block)}/{subkey}")
            return
        announcements.setdefault(peer_id, {})[block] = record
        self.servers.add(peer_id)
        if record.state is PeerState.ONLINE:
            self._probes.add(peer_id, known=peer_id in self._records.known, rank=len(announcements))

    def _take_early(self, key: BlockKey, values: SubkeyValues) -> None:
        """Queue probes of the servers that the first DHT node names under a block, before other nodes answered."""
        for subkey, packed in islice(values.items(), ENTRIES_PER_TURN):
            try:
                peer_id, record = self._records.read(key.dht_prefix, subkey, packed)
                check_block(record, key.block)
            except RefusedError:
                continue  # counted when the block is read
            if record.state is PeerState.ONLINE:
                named = self._early[key.dht_prefix]
                named.add(peer_id)
                self._probes.add(peer_id, known=peer_id in self._records.known, rank=len(named))
