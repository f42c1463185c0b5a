"""A client's requests are counted for a minute from its first one, for all replicas together."""

import pytest

from api.http.request_rate import WINDOW_MS, RequestRate
from shared.store import keys


@pytest.fixture
def rate(redis):
    return RequestRate(redis)


async def test_each_request_counts_and_each_client_for_itself(redis, rate):
    """Two replicas count together."""
    other_replica = RequestRate(redis)
    assert [(await each.count("192.0.2.1")).used for each in (rate, other_replica, rate)] == [1, 2, 3]
    assert (await rate.count("192.0.2.2")).used == 1


async def test_the_minute_begins_with_the_first_request_and_is_not_prolonged(redis, rate):
    """Whoever goes on asking is let through again all the same, when the minute is over."""
    assert WINDOW_MS / 1000 - 1 < (await rate.count("192.0.2.1")).resets_in <= WINDOW_MS / 1000
    before = await redis.pttl(keys.rate("192.0.2.1"))
    resets_in = (await rate.count("192.0.2.1")).resets_in
    assert await redis.pttl(keys.rate("192.0.2.1")) <= resets_in * 1000 <= before
    await redis.pexpire(keys.rate("192.0.2.1"), 10_000)
    for _ in range(3):
        assert 9 < (await rate.count("192.0.2.1")).resets_in <= 10
    await redis.delete(keys.rate("192.0.2.1"))  # the minute is over
    assert (await rate.count("192.0.2.1")).used == 1


async def test_a_counter_without_an_end_gets_one(redis, rate):
    """Else the client would be refused for ever."""
    await redis.set(keys.rate("192.0.2.1"), 5)
    used, resets_in = await rate.count("192.0.2.1")
    assert used == 6
    assert WINDOW_MS / 1000 - 1 < resets_in <= WINDOW_MS / 1000


async def test_what_is_no_counter_is_begun_anew(redis, rate):
    """Whatever stands there: a text, a list."""
    await redis.set(keys.rate("192.0.2.1"), "text")
    await redis.rpush(keys.rate("192.0.2.2"), "list")
    for address in ("192.0.2.1", "192.0.2.2"):
        assert [(await rate.count(address)).used for _ in range(2)] == [1, 2]
        assert 0 < await redis.pttl(keys.rate(address)) <= WINDOW_MS
