"""Crawls recorded as by the crawl loop, for the tests of the history."""

from crawler.history.writer import HistoryWriter
from crawler.leader import Leadership
from shared.store import keys
from shared.store.rings import HOUR

START = 1_763_900_000 // HOUR * HOUR
"""The beginning of an hour."""


async def lead(redis, name="one"):
    leadership = Leadership(redis, name)
    assert await leadership.hold()
    return leadership


async def record(redis, *snapshots):
    await redis.delete(keys.CRAWLER_LEASE)  # a crawler before this one may have left
    writer, leader = HistoryWriter(redis), await lead(redis)
    for each in snapshots:
        assert await leader.hold()
        assert await writer.append(each, leader.lease)
    return writer, leader
