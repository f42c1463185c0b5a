"""Look up blocks in batches, so many at once, and none after the crawl's time for it is over."""

from __future__ import annotations

import asyncio
import time
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from crawler.models import MAX_BLOCKS
from crawler.records import RefusedError, read_server
from shared.p2p.petals_wire import block_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from crawler.models import Model
    from shared.p2p.node import SwarmNode
    from shared.p2p.raw_values import SubkeyValues

KEYS_A_BATCH = 16
BATCHES_AT_ONCE = 8
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
    """Reads for one crawl, until `until` (monotonic seconds). Batches wait for each other in the order asked."""

    def __init__(self, guide: SwarmNode, timeout: float, until: float) -> None:
        self._guide = guide
        self._timeout = timeout
        self._until = until
        self._slots = asyncio.Semaphore(BATCHES_AT_ONCE)

    async def read(self, places: Sequence[Place]) -> AsyncIterator[Answer]:
        """Yield each batch's answer as it comes."""
        batches = [places[start : start + KEYS_A_BATCH] for start in range(0, len(places), KEYS_A_BATCH)]
        # Tasks, because as_completed would begin bare coroutines in any order.
        tasks = [asyncio.create_task(self._look_up(batch)) for batch in batches]
        try:
            for answer in asyncio.as_completed(tasks):
                yield await answer
        finally:
            for task in tasks:
                task.cancel()

    async def served(self, places: Sequence[Place]) -> list[Place]:
        """Return those blocks for which one of the first few values is a sound record."""
        return [
            place
            async for answer in self.read(places)
            for place, values in answer.found.items()
            if any(map(_is_sound, islice(values.values(), VALUES_PROBED)))
        ]

    async def _look_up(self, places: Sequence[Place]) -> Answer:
        keys = {block_key(*place): place for place in places}
        async with self._slots:
            left = self._until - time.monotonic()
            found = await self._guide.look_up(keys, min(left, self._timeout)) if left > 0 else {}
        return Answer({keys[key]: values or {} for key, values in found.items()}, len(keys) - len(found))


def _is_sound(packed: bytes) -> bool:
    try:
        read_server(packed)
    except RefusedError:
        return False
    return True
