"""In which order blocks are looked up, and how many at once."""

import asyncio
import time
import weakref
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.models import MAX_BLOCKS, Model
from crawler.observe.blocks import BYTES_AT_ONCE, FIRST_BATCHES, KEYS_PER_BATCH, MAX_BATCHES, BlockReader, spread
from shared.p2p.dht_reader import LookupResult
from shared.p2p.petals import block_key


@given(st.lists(st.integers(1, MAX_BLOCKS), min_size=1, max_size=5))
def test_each_block_is_looked_up_once(sizes):
    places = spread([Model(f"m{number}", blocks) for number, blocks in enumerate(sizes)])
    assert sorted(places) == [(f"m{number}", block) for number, blocks in enumerate(sizes) for block in range(blocks)]


@given(st.integers(8, MAX_BLOCKS), st.integers(2, 5))
def test_every_beginning_samples_the_whole_model(blocks, models):
    """After a quarter of the lookups no span of more than eight blocks is unseen, in any of the models."""
    places = spread([Model(f"m{number}", blocks) for number in range(models)])
    for number in range(models):
        seen = sorted(block for prefix, block in places[: len(places) // 4 + models] if prefix == f"m{number}")
        gaps = [after - before for before, after in zip([-1, *seen], [*seen, blocks], strict=True)]
        assert max(gaps) <= 9


class FakeDHTNode:
    """Answers all lookups on request, except keys that it is to lose so many times; notes what is asked."""

    def __init__(self):
        self.asked = []
        self.answer = asyncio.Event()
        self.answer.set()
        self.lose = Counter()
        self.in_part = {}
        """What some node holds under keys that are lost."""
        self.under_way = self.most = 0

    async def look_up(self, keys, timeout, on_values=None):
        self.asked.append(list(keys))
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(0)
        await self.answer.wait()
        self.under_way -= 1
        lost = {key for key in keys if self.lose[key] > 0}
        self.lose.subtract(lost)
        whole = {key: None for key in keys if key not in lost}
        return LookupResult(whole, {key: self.in_part[key] for key in lost if key in self.in_part})


def reader(dht_node):
    return BlockReader(dht_node, 5.0, time.monotonic() + 60)


async def read(blocks, places):
    return [answer async for answer in blocks.read(places)]


async def test_batches_go_out_in_order():
    dht_node, places = FakeDHTNode(), spread([Model("m", 1000)])
    answers = await read(reader(dht_node), places)
    assert [key for batch in dht_node.asked for key in batch] == [block_key(*place) for place in places]
    assert sum(len(answer.found) for answer in answers) == 1000
    assert max(map(len, dht_node.asked)) == KEYS_PER_BATCH


async def test_what_was_found_of_a_block_that_never_answered_in_full_is_kept():
    """Whoever keeps a search from ending hides no server. What a second lookup finds of it in full counts alone."""
    dht_node, places = FakeDHTNode(), spread([Model("m", 3)])
    part = {"peer": b"record"}
    dht_node.in_part = {block_key("m", 0): part, block_key("m", 1): part}
    dht_node.lose.update({block_key("m", 0): 2, block_key("m", 1): 1})
    (answer,) = await read(reader(dht_node), places)
    assert answer.found == {("m", 0): part, ("m", 1): {}, ("m", 2): {}}
    assert (answer.answered, answer.unanswered) == (2, 1)


class Values(dict):
    """What one DHT node holds under a block; a plain dict allows no weak reference."""

    __hash__ = object.__hash__


async def test_answers_are_not_kept_once_they_were_read():
    """In a large swarm they take more memory than all else that a crawl holds."""
    kept = weakref.WeakSet()

    class Full(FakeDHTNode):
        async def look_up(self, keys, timeout, on_values=None):
            found = await super().look_up(keys, timeout)
            return LookupResult({key: Values(peer=b"record") for key in found.whole}, {})

    most = 0
    async for answer in reader(Full()).read(spread([Model("m", 1000)])):
        for values in answer.found.values():
            kept.add(values)
        most = max(most, len(kept))
        del answer, values
    assert 0 < most <= 2 * KEYS_PER_BATCH


async def test_as_many_go_out_at_once_as_fare_well():
    """Few at first; more while they are answered in full, never more than the bound."""
    dht_node = FakeDHTNode()
    dht_node.answer.clear()
    reading = asyncio.create_task(read(reader(dht_node), spread([Model("m", 1000)])))
    await asyncio.sleep(0.02)
    assert dht_node.under_way == FIRST_BATCHES
    dht_node.answer.set()
    await reading
    assert FIRST_BATCHES < dht_node.most <= MAX_BATCHES


async def test_no_more_go_out_where_answers_are_large():
    """Answers of all nodes to all batches wait in memory: a swarm of many servers is looked up in fewer at once."""

    class Large(FakeDHTNode):
        async def look_up(self, keys, timeout, on_values=None):
            values = {"peer": bytes(BYTES_AT_ONCE // FIRST_BATCHES // KEYS_PER_BATCH)}
            found = await super().look_up(keys, timeout)
            return LookupResult(dict.fromkeys(found.whole, values), {})

    dht_node = Large()
    await read(reader(dht_node), spread([Model("m", KEYS_PER_BATCH * 20)]))
    assert dht_node.most == FIRST_BATCHES


async def test_fewer_go_out_after_one_that_did_not_answer_in_full():
    dht_node = FakeDHTNode()
    places = spread([Model("m", 1000)])
    dht_node.lose.update({block_key(*place): 2 for place in places})
    blocks = reader(dht_node)
    await read(blocks, places)
    dht_node.most = 0
    dht_node.answer.clear()
    reading = asyncio.create_task(read(blocks, places))
    await asyncio.sleep(0.02)
    assert dht_node.under_way == 1
    dht_node.answer.set()
    await reading


async def test_what_a_batch_lacks_is_asked_once_more():
    dht_node, places = FakeDHTNode(), spread([Model("m", 64)])
    once, always = block_key(*places[3]), block_key(*places[40])
    dht_node.lose.update({once: 1, always: 9})
    answers = await read(reader(dht_node), places)
    assert sum(len(answer.found) for answer in answers) == 63
    assert sum(answer.unanswered for answer in answers) == 1
    assert Counter(key for batch in dht_node.asked for key in batch) == {block_key(*place): 1 for place in places} | {
        once: 2,
        always: 2,
    }


async def test_nothing_is_asked_after_the_time_is_over():
    dht_node = FakeDHTNode()
    answers = await read(BlockReader(dht_node, 5.0, time.monotonic() - 1), spread([Model("m", 64)]))
    assert (dht_node.asked, sum(answer.unanswered for answer in answers)) == ([], 64)


async def test_an_error_reaches_who_reads():
    dht_node = FakeDHTNode()

    async def broken(keys, timeout, on_values=None):
        raise RuntimeError("ours")

    dht_node.look_up = broken
    with pytest.raises(RuntimeError, match="ours"):
        await read(reader(dht_node), spread([Model("m", 64)]))
