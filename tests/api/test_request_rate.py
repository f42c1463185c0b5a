"""A client's requests are counted for a minute from its first one, for all replicas together."""

import pytest

from api.request_rate import WINDOW_MS, RequestRate
from shared import keys


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
    await redis.pexpire(keys.rate("192.0.2.1"), 10_000)
    for _ in range(3):
        assert 9 < (await rate.count("192.0.2.1")).resets_in <= 10
    await redis.delete(keys.rate("192.0.2.1"))  # the minute is over
    assert (await rate.count("192.0.2.1")).used == 1


async def test_a_counter_without_an_end_promises_no_negative_time(redis, rate):
    """Redis says -1 for it."""
    await redis.set(keys.rate("192.0.2.1"), 5)
    assert await rate.count("192.0.2.1") == (6, 0)
