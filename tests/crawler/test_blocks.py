"""In which order blocks are looked up."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from crawler.blocks import BATCHES_AT_ONCE, KEYS_A_BATCH, BlockReader, spread
from crawler.models import MAX_BLOCKS, Model
from shared.p2p.petals_wire import block_key


@given(st.lists(st.integers(1, MAX_BLOCKS), min_size=1, max_size=5))
def test_each_block_is_looked_up_once(sizes):
    places = spread([Model(f"m{number}", blocks) for number, blocks in enumerate(sizes)])
    assert sorted(places) == [(f"m{number}", block) for number, blocks in enumerate(sizes) for block in range(blocks)]


@given(st.integers(8, MAX_BLOCKS), st.integers(2, 5))
def test_every_beginning_samples_the_whole_model(blocks, models):
    """After a quarter of the look-ups no span of more than eight blocks is unseen, in any of the models."""
    places = spread([Model(f"m{number}", blocks) for number in range(models)])
    for number in range(models):
        seen = sorted(block for prefix, block in places[: len(places) // 4 + models] if prefix == f"m{number}")
        gaps = [after - before for before, after in zip([-1, *seen], [*seen, blocks], strict=True)]
        assert max(gaps) <= 9


class Guide:
    """Answers all look-ups when told to; notes their order."""

    def __init__(self):
        self.asked = []
        self.answer = asyncio.Event()

    async def look_up(self, keys, timeout):
        self.asked.append(list(keys))
        await self.answer.wait()
        return dict.fromkeys(keys)


async def test_batches_go_out_in_order_and_so_many_at_once():
    guide = Guide()
    places = spread([Model("m", 1000)])
    reader = BlockReader(guide, 5.0, asyncio.get_running_loop().time() + 1e6)

    async def read():
        return [answer async for answer in reader.read(places)]

    reading = asyncio.create_task(read())
    await asyncio.sleep(0.05)
    assert len(guide.asked) == BATCHES_AT_ONCE
    guide.answer.set()
    answers = await reading
    assert [key for batch in guide.asked for key in batch] == [block_key(*place) for place in places]
    assert sum(len(answer.found) for answer in answers) == 1000
    assert max(map(len, guide.asked)) == KEYS_A_BATCH
