"""This module looks up DHT keys of blocks in batches, with as many batches at once as the swarm answers in time."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from crawler.models import MAX_BLOCKS
from crawler.observe.records import RefusedError, read_server
from shared.p2p.dht_reader import LookupResult
from shared.p2p.petals import block_key
from shared.tasks import awaited, end

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from crawler.models import Model
    from shared.p2p.dht_node import DHTClientNode
    from shared.p2p.raw_values import SubkeyValues

KEYS_PER_BATCH = 16
FIRST_BATCHES, MAX_BATCHES = 4, 16
QUICK, QUICK_SECONDS = 2.0, 0.2
"""A batch is quick if it takes at most `QUICK` times the fastest batch's time, plus `QUICK_SECONDS`."""
BYTES_AT_ONCE = 2 * 1024**2
"""Bytes of all batches' values above which no batch more is looked up at once. Each of up to twenty nodes answers as
much: of a swarm of 10,000 servers the answers under way to 16 batches took 120 MB here, and as much in the daemon."""
VALUES_CHECKED = 8
"""Values of one block that are checked for a valid record."""


class BlockKey(NamedTuple):
    """A block of a model."""

    dht_prefix: str
    block: int


def spread(models: Sequence[Model]) -> list[BlockKey]:
    """Return all blocks of the models, ordered so that any first part of the list samples each model evenly.

    A server is announced under each of its blocks, so the first few lookups name most servers.
    """
    blocks = [
        (_reversed_bits(block), number, BlockKey(model.dht_prefix, block))
        for number, model in enumerate(models)
        for block in range(model.num_blocks)
    ]
    return [block for _, _, block in sorted(blocks)]


def _reversed_bits(number: int) -> int:
    """Return a sort key in van der Corput order: blocks 0, 512, 256, 768, 128, … come first."""
    return int(f"{number:0{MAX_BLOCKS.bit_length()}b}"[::-1], 2)


class Answer(NamedTuple):
    """What was found of one batch."""

    found: dict[BlockKey, SubkeyValues]
    """Values by block, also of blocks whose lookup did not end."""
    answered: int
    """Number of blocks whose lookup ended."""
    unanswered: int
    """Number of the others, which may have more values than were found."""


class BlockReader:
    """Looks up blocks for one crawl, in the order requested, until `until` (monotonic seconds).

    The number of batches at once adapts to the nodes that hold the keys: one more after each quick batch, unless these
    hold many servers; half as many after a batch that was not answered in full, whose missing blocks are looked up once
    more.
    """

    def __init__(self, dht_node: DHTClientNode, timeout: float, until: float) -> None:
        self._dht_node = dht_node
        self._timeout = timeout
        self._until = until
        self._waiting: deque[_Batch] = deque()
        self._under_way: set[asyncio.Task[None]] = set()
        self._max_batches = FIRST_BATCHES
        self._fastest = math.inf

    async def read(
        self, blocks: Sequence[BlockKey], on_values: Callable[[BlockKey, SubkeyValues], None] | None = None
    ) -> AsyncIterator[Answer]:
        """Yield the answer of each batch as it arrives. `on_values` gets each node's values as soon as it answers."""
        answers: set[asyncio.Future[Answer]] = set()
        ready: asyncio.Queue[asyncio.Future[Answer]] = asyncio.Queue()
        starts = range(0, len(blocks), KEYS_PER_BATCH)
        for start in starts:
            batch = _Batch(blocks[start : start + KEYS_PER_BATCH], on_values)
            answers.add(batch.answer)
            # `asyncio.as_completed` would keep every answer to the end: 100 MB of a swarm of 10,000 servers.
            batch.answer.add_done_callback(answers.discard)
            batch.answer.add_done_callback(ready.put_nowait)
            self._waiting.append(batch)
        self._start_batches()
        try:
            for _ in starts:
                yield (await ready.get()).result()
        finally:
            for answer in answers:
                answer.cancel()

    async def close(self) -> None:
        """Cancel the lookups under way."""
        self._waiting.clear()
        await end(*self._under_way)

    async def served(self, blocks: Sequence[BlockKey]) -> list[BlockKey]:
        """Return those blocks of which one of the first few values is a valid record."""
        return [
            block
            async for answer in self.read(blocks)
            for block, values in answer.found.items()
            if any(map(_is_valid, islice(values.values(), VALUES_CHECKED)))
        ]

    def _start_batches(self) -> None:
        while self._waiting and len(self._under_way) < self._max_batches:
            batch = self._waiting.popleft()
            if not batch.answer.done():
                task = awaited(self._look_up(batch))
                self._under_way.add(task)
                task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._start_batches()

    async def _look_up(self, batch: _Batch) -> None:
        keys = {block_key(*block): block for block in batch.blocks}
        began = time.monotonic()
        left = self._until - began
        try:
            timeout = min(left, self._timeout)
            found = (
                await self._dht_node.look_up(keys, timeout, batch.by_key(keys)) if left > 0 else LookupResult({}, {})
            )
        except Exception as error:  # noqa: BLE001 - raised where the answer is read
            if not batch.answer.done():
                batch.answer.set_exception(error)
            return
        size = sum(len(packed) for values in found.whole.values() if values for packed in values.values())
        self._adapt(time.monotonic() - began, size, complete=len(found.whole) == len(keys))
        batch.found |= {keys[key]: values or {} for key, values in found.whole.items()}
        batch.found_in_part |= {keys[key]: values for key, values in found.in_part.items()}
        batch.blocks = [block for block in batch.blocks if block not in batch.found]
        if batch.blocks and not batch.retried and left > 0:
            batch.retried = True
            self._waiting.append(batch)
        elif not batch.answer.done():
            batch.answer.set_result(Answer(batch.found_in_part | batch.found, len(batch.found), len(batch.blocks)))

    def _adapt(self, took: float, size: int, *, complete: bool) -> None:
        """Take the duration (seconds) of one batch, and the bytes of its values, into account."""
        self._fastest = min(self._fastest, took)
        if not complete:
            self._max_batches = max(1, self._max_batches // 2)
        elif took < self._fastest * QUICK + QUICK_SECONDS and self._max_batches * size < BYTES_AT_ONCE:
            self._max_batches = min(MAX_BATCHES, self._max_batches + 1)


class _Batch:
    """Blocks to look up together: those whose lookup has not ended yet, and what was found."""

    def __init__(
        self, blocks: Sequence[BlockKey], on_values: Callable[[BlockKey, SubkeyValues], None] | None = None
    ) -> None:
        self.blocks = blocks
        self._on_values = on_values
        self.found: dict[BlockKey, SubkeyValues] = {}
        self.found_in_part: dict[BlockKey, SubkeyValues] = {}
        self.retried = False
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def by_key(self, blocks: Mapping[str, BlockKey]) -> Callable[[str, SubkeyValues], None] | None:
        """Return `on_values` as a function of the DHT key, or None."""
        if (on_values := self._on_values) is None:
            return None
        return lambda key, values: on_values(blocks[key], values)


def _is_valid(packed: bytes) -> bool:
    try:
        read_server(packed)
    except RefusedError:
        return False
    return True
