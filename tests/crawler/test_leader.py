"""Who leads: one crawler at a time, by a lease whose number never comes twice."""

import asyncio
import time
from types import SimpleNamespace

import pytest

from crawler.history.writer import HistoryWriter
from crawler.leader import LEASE_SECONDS, Leadership
from crawler.loop import CrawlLoop
from crawler.metrics import CrawlerMetrics
from crawler.publish import Publisher
from shared.snapshot import encode
from shared.store import keys
from shared.store.clock import RedisClock
from shared.store.snapshots import SnapshotWriter
from shared.tasks import awaited, end
from tests.fakes import peer_id, snapshot

LEASE_MS = LEASE_SECONDS * 1000


@pytest.fixture
def one(redis):
    return Leadership(redis, "one")


@pytest.fixture
def two(redis):
    return Leadership(redis, "two")


async def test_who_comes_first_leads_for_the_length_of_a_lease(redis, one):
    """The lease names its holder and how often the lead was taken."""
    assert one.lease is None
    assert await one.hold() is True
    assert one.lease == "1:one"
    assert await redis.get(keys.CRAWLER_LEASE) == b"1:one"
    assert LEASE_MS - 1000 < await redis.pttl(keys.CRAWLER_LEASE) <= LEASE_MS


async def test_the_holder_keeps_the_same_lease_and_renews_its_time(redis, one):
    await one.hold()
    await redis.pexpire(keys.CRAWLER_LEASE, 500)
    assert await one.hold() is True
    assert one.lease == "1:one"
    assert await redis.pttl(keys.CRAWLER_LEASE) > LEASE_MS - 1000
    assert await redis.get(keys.CRAWLER_FENCING) == b"1"


async def test_nobody_else_leads_meanwhile_or_changes_anything(redis, one, two):
    await one.hold()
    await redis.pexpire(keys.CRAWLER_LEASE, 2000)
    assert await two.hold() is False
    assert two.lease is None
    assert await redis.get(keys.CRAWLER_LEASE) == b"1:one"
    assert await redis.pttl(keys.CRAWLER_LEASE) <= 2000
    assert await redis.get(keys.CRAWLER_FENCING) == b"1"


async def test_the_next_leader_has_a_higher_number_and_the_old_one_is_deposed(redis, one, two):
    """Also where the old one asks first thing after it was frozen."""
    await one.hold()
    await redis.delete(keys.CRAWLER_LEASE)  # it ran out
    assert await two.hold() is True
    assert two.lease == "2:two"
    assert await one.hold() is False
    assert one.lease is None
    assert await redis.get(keys.CRAWLER_LEASE) == b"2:two"


async def test_a_lease_that_ran_out_is_not_taken_up_again(redis, one):
    """Somebody else may have led in between: the same crawler gets a new number."""
    await one.hold()
    await redis.delete(keys.CRAWLER_LEASE)
    assert await one.hold() is True
    assert one.lease == "2:one"


async def test_who_stops_lets_another_lead_at_once(redis, one, two):
    await one.hold()
    await one.release()
    assert one.lease is None
    assert not await redis.exists(keys.CRAWLER_LEASE)
    assert await two.hold() is True


async def test_a_deposed_crawler_that_stops_takes_nobodys_lease_away(redis, one, two):
    await one.hold()
    await redis.delete(keys.CRAWLER_LEASE)
    await two.hold()
    await one.release()
    assert await redis.get(keys.CRAWLER_LEASE) == b"2:two"


async def test_a_crawler_that_waits_gives_up_nothing(redis, one, two):
    """It never led, so it has nothing to give up: Redis is not even asked."""
    await one.hold()
    await two.hold()
    await two.release()
    assert await redis.get(keys.CRAWLER_LEASE) == b"1:one"


@pytest.mark.parametrize(("lease", "life"), [("7:somebody", None), ("7:somebody", 60_500), ("", None)])
async def test_a_lease_that_no_crawler_can_have_taken_is_nobodys(redis, one, lease, life):
    """One without an end, or with one far away, would bar all crawlers; with an empty one, all would lead."""
    await redis.set(keys.CRAWLER_LEASE, lease, px=life)
    assert await one.hold() is True
    assert one.lease == "1:one"
    assert LEASE_MS - 1000 < await redis.pttl(keys.CRAWLER_LEASE) <= LEASE_MS


async def test_a_lease_of_less_than_a_minute_is_respected(redis, one):
    """Another version may take longer ones."""
    await redis.set(keys.CRAWLER_LEASE, "7:somebody", px=59_000)
    assert await one.hold() is False


@pytest.mark.parametrize("wrong", ["text", ["a", "list"]])
async def test_a_counter_that_is_no_number_begins_above_all_that_were(redis, one, two, wrong):
    """By Redis's clock: no number of before can come again, and the next one is higher."""
    if isinstance(wrong, str):
        await redis.set(keys.CRAWLER_FENCING, wrong)
    else:
        await redis.rpush(keys.CRAWLER_FENCING, *wrong)
    before, _ = await redis.time()
    assert await one.hold() is True
    number = int(one.lease.partition(":")[0])
    assert before <= number <= before + 60
    await redis.delete(keys.CRAWLER_LEASE)
    assert await two.hold() is True
    assert two.lease == f"{number + 1}:two"


async def test_each_new_lease_goes_on_from_what_was_published(redis, one, monkeypatch):
    """Also where this crawler had the one before: another one may have led while this one stood still."""
    monkeypatch.setattr("crawler.loop.RENEW_EVERY", 0.01)
    metrics = CrawlerMetrics()
    publisher = Publisher(SnapshotWriter(redis), HistoryWriter(redis), one, metrics, RedisClock(redis))
    settings = SimpleNamespace(bootstrap_peers={peer_id(0): []})
    keeping = awaited(CrawlLoop(settings, None, publisher, one, metrics)._keep_lease())
    others = snapshot(taken_at=time.time())
    try:
        async with asyncio.timeout(5):
            while one.lease is None:
                await asyncio.sleep(0.01)
            publisher.last = snapshot(taken_at=others.taken_at - 3600)
            async with redis.pipeline(transaction=True) as another:
                another.xadd(keys.SNAPSHOTS, {"taken_at": repr(others.taken_at), "snapshot": encode(others)}, maxlen=1)
                another.delete(keys.CRAWLER_LEASE)
                await another.execute()
            while publisher.last.taken_at != others.taken_at:
                await asyncio.sleep(0.01)
    finally:
        await end(keeping)


async def test_a_crawler_that_is_told_to_stop_is_told_once(redis, one):
    """Whatever it does in that moment: redis-py returns from a request that was cancelled while its answer came."""
    metrics = CrawlerMetrics()
    publisher = Publisher(SnapshotWriter(redis), HistoryWriter(redis), one, metrics, RedisClock(redis))
    loop = CrawlLoop(SimpleNamespace(bootstrap_peers={}), None, publisher, one, metrics)
    for turns in range(30):
        keeping = awaited(loop._keep_lease())
        for _ in range(turns):
            await asyncio.sleep(0)
        time.sleep(0.002)  # so that answers come meanwhile
        keeping.cancel()
        _, going_on = await asyncio.wait({keeping}, timeout=5)
        await end(keeping)
        assert not going_on
