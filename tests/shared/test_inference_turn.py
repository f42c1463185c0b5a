"""One inference check of a server at a time, whichever process makes it."""

import pytest

from shared.store import keys
from shared.store.connection import connect
from shared.store.inference_turn import inference_turn
from tests.fakes import peer_id

PEER = peer_id(1)


async def test_the_turn_of_a_server_is_one_checks(redis):
    """Another one waits for no end, and does not end the first one's turn; other servers are free."""
    async with inference_turn(redis, PEER) as first:
        async with inference_turn(redis, PEER) as second, inference_turn(redis, peer_id(2)) as other:
            assert (first, second, other) == (True, False, True)
        async with inference_turn(redis, PEER) as third:
            assert not third
        assert 0 < await redis.pttl(keys.inference_turn(PEER)) <= 120_000
    async with inference_turn(redis, PEER) as again:
        assert again


async def test_what_is_no_turn_holds_nobody_up(redis):
    """A key of another type or without an end is not of ours."""
    await redis.lpush(keys.inference_turn(PEER), "x")
    async with inference_turn(redis, PEER) as mine:
        assert mine


@pytest.mark.real_parts
async def test_checks_go_on_without_redis():
    """Each process then keeps its own checks of a server apart."""
    nobody = connect("redis://127.0.0.1:1/0", "test")
    async with inference_turn(nobody, PEER) as mine:
        assert mine
    await nobody.aclose()
