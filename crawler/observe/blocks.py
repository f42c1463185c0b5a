"""Look up blocks in batches, as many at once as the swarm takes, and none after the crawl's time for it is over."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from crawler.models import MAX_BLOCKS
from crawler.observe.records import RefusedError, read_server
from shared.p2p.petals import block_key
from shared.tasks import awaited, end

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from crawler.models import Model
    from shared.p2p.dht_node import DHTClientNode
    from shared.p2p.raw_values import SubkeyValues

KEYS_A_BATCH = 16
BATCHES_AT_FIRST, MAX_BATCHES = 4, 16
QUICK, QUICK_SECONDS = 2.0, 0.2
"""A batch is quick if it takes no more than so many times as long as the quickest one, and so many seconds."""
VALUES_PROBED = 8
"""Values under one block that are tried for a sound one."""


class Place(NamedTuple):
    """A block of a model."""

    dht_prefix: str
    block: int


def spread(models: Sequence[Model]) -> list[Place]:
    """Return all blocks of the models in an order of which every beginning samples each model evenly.

    A server stands under each of its blocks: the first few of this order name most servers.
    """
    places = [
        (_reversed_bits(block), number, Place(model.dht_prefix, block))
        for number, model in enumerate(models)
        for block in range(model.num_blocks)
    ]
    return [place for _, _, place in sorted(places)]


def _reversed_bits(number: int) -> int:
    """Return the van der Corput order: 0, 512, 256, 768, 128, … come first among the blocks of a model."""
    return int(f"{number:0{MAX_BLOCKS.bit_length()}b}"[::-1], 2)


class Answer(NamedTuple):
    """What stands under the blocks of one batch that answered, and how many did not: nobody could look there."""

    found: dict[Place, SubkeyValues]
    missing: int


class BlockReader:
    """Reads for one crawl, until `until` (monotonic seconds), in the order asked.

    How many batches are under way at once follows from how they fare, for nobody knows how much the nodes that
    hold the keys can take: one more after each quick one, half as many after one that did not answer in full.
    What such a batch lacks is asked once more.
    """

    def __init__(self, dht_node: DHTClientNode, timeout: float, until: float) -> None:
        self._dht_node = dht_node
        self._timeout = timeout
        self._until = until
        self._waiting: deque[_Batch] = deque()
        self._under_way: set[asyncio.Task[None]] = set()
        self._room = BATCHES_AT_FIRST
        self._quickest = math.inf

    async def read(
        self, places: Sequence[Place], on_values: Callable[[Place, SubkeyValues], None] | None = None
    ) -> AsyncIterator[Answer]:
        """Yield each batch's answer as it comes. `on_values` is told what each node holds as soon as it answers."""
        starts = range(0, len(places), KEYS_A_BATCH)
        batches = [_Batch(places[start : start + KEYS_A_BATCH], on_values) for start in starts]
        self._waiting += batches
        self._start_some()
        try:
            for answer in asyncio.as_completed([batch.answer for batch in batches]):
                yield await answer
        finally:
            for batch in batches:
                batch.answer.cancel()

    async def close(self) -> None:
        """Give up what is being looked up."""
        self._waiting.clear()
        await end(*self._under_way)

    async def served(self, places: Sequence[Place]) -> list[Place]:
        """Return those blocks for which one of the first few values is a sound record."""
        return [
            place
            async for answer in self.read(places)
            for place, values in answer.found.items()
            if any(map(_is_sound, islice(values.values(), VALUES_PROBED)))
        ]

    def _start_some(self) -> None:
        while self._waiting and len(self._under_way) < self._room:
            batch = self._waiting.popleft()
            if not batch.answer.done():
                task = awaited(self._look_up(batch))
                self._under_way.add(task)
                task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._start_some()

    async def _look_up(self, batch: _Batch) -> None:
        keys = {block_key(*place): place for place in batch.places}
        began = time.monotonic()
        left = self._until - began
        try:
            found = await self._dht_node.look_up(keys, min(left, self._timeout), batch.tell(keys)) if left > 0 else {}
        except Exception as error:  # noqa: BLE001 - whoever reads is told
            if not batch.answer.done():
                batch.answer.set_exception(error)
            return
        self._adapt(time.monotonic() - began, complete=len(found) == len(keys))
        batch.found |= {keys[key]: values or {} for key, values in found.items()}
        batch.places = [place for place in batch.places if place not in batch.found]
        if batch.places and not batch.asked_again and left > 0:
            batch.asked_again = True
            self._waiting.append(batch)
        elif not batch.answer.done():
            batch.answer.set_result(Answer(batch.found, len(batch.places)))

    def _adapt(self, took: float, *, complete: bool) -> None:
        self._quickest = min(self._quickest, took)
        if not complete:
            self._room = max(1, self._room // 2)
        elif took < self._quickest * QUICK + QUICK_SECONDS:
            self._room = min(MAX_BATCHES, self._room + 1)


class _Batch:
    """Blocks to look up together: those that have no answer yet, and what the others hold."""

    def __init__(self, places: Sequence[Place], on_values: Callable[[Place, SubkeyValues], None] | None = None) -> None:
        self.places = places
        self._on_values = on_values
        self.found: dict[Place, SubkeyValues] = {}
        self.asked_again = False
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def tell(self, places: Mapping[str, Place]) -> Callable[[str, SubkeyValues], None] | None:
        """Return what takes values by key, where somebody wants them early."""
        if (on_values := self._on_values) is None:
            return None
        return lambda key, values: on_values(places[key], values)


def _is_sound(packed: bytes) -> bool:
    try:
        read_server(packed)
    except RefusedError:
        return False
    return True
