import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.history import writer as history
from crawler.history.writer import HistoryWriter
from crawler.metrics import CrawlerMetrics
from crawler.publish import Publisher
from shared.snapshot import PeerState
from shared.store import keys
from shared.store.fencing import DeposedError
from shared.store.history import HistoryReader
from shared.store.rings import MINUTE, ModelSlot, Resolution, Ring, pack_model, sample
from tests.crawler.recording import START, lead, record
from tests.fakes import model, peer_id, server, snapshot


def whole(**more):
    return model(blocks=8, servers=(server(1, 0, 8), server(2, 4, 8)), **more)


def half():
    return model(blocks=8, servers=(server(2, 4, 8),))


def test_a_sample_counts_what_the_snapshot_says():
    """Coverage, redundancy and states in the record are those of the report."""
    report = model(blocks=8, servers=(server(1, 0, 6), server(2, 4, 6, PeerState.JOINING), server(3, 5, 6)))
    record = sample(report, 7)
    assert (record.slot, record.crawls, record.healthy) == (7, 1, 0)
    assert (record.num_blocks, record.covered_blocks, record.min_redundancy) == (8, 6, 0)
    assert (record.online, record.joining, record.unreachable, record.offline) == (2, 1, 0, 0)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 8), st.floats(0, 1e9)), min_size=1, max_size=50))
def test_merging_keeps_counts_worst_and_means(crawls):
    """However many crawls fall in a slot: counts add up, coverage is the worst, the rest is the mean."""
    records = [ModelSlot(5, 1, int(up), 8, covered, covered, online=speed) for up, covered, speed in crawls]
    merged = records[0]
    for each in records[1:]:
        merged = merged.merge(each)
    assert merged.crawls == len(crawls)
    assert merged.healthy == sum(up for up, _, _ in crawls)
    assert merged.covered_blocks == min(covered for _, covered, _ in crawls)
    assert merged.online == pytest.approx(sum(speed for _, _, speed in crawls) / len(crawls), abs=1e-3)


async def test_a_crawl_stands_in_all_resolutions(redis):
    """A minute, an hour and a day each hold what their crawls saw; other slots are gaps."""
    await record(
        redis,
        snapshot(whole(), taken_at=START + 5.0),
        snapshot(half(), taken_at=START + 65.0),
        snapshot(whole(), taken_at=START + 300.0),
    )
    reader = HistoryReader(redis)
    minutes = (await reader.model("demo-model", Resolution.MINUTE, START + 301)).slots
    assert [slot.slot * MINUTE - START for slot in minutes] == [0, 60, 300]
    assert [(slot.healthy, slot.covered_blocks) for slot in minutes] == [(1, 8), (0, 4), (1, 8)]
    for resolution in (Resolution.HOUR, Resolution.DAY):
        (slot,) = (await reader.model("demo-model", resolution, START + 301)).slots
        assert (slot.crawls, slot.healthy, slot.covered_blocks, slot.min_redundancy) == (3, 2, 4, 0)
        assert slot.online == pytest.approx(5 / 3, abs=1e-3)
    assert (await reader.model("demo-model", Resolution.HOUR, START + 301)).uptimes()["24h"] == pytest.approx(
        2 / 3, abs=1e-5
    )


async def test_the_same_crawl_twice_counts_once(redis):
    """Writing is idempotent: a retry, or a second crawler with the same snapshot, changes nothing."""
    each = snapshot(whole(), taken_at=START + 5.0)
    writer, leader = await record(redis, each)
    before = {key: await redis.dump(key) for key in await redis.keys("petals:history:*")}
    assert not await writer.append(each, leader.lease)
    assert not await writer.append(snapshot(half(), taken_at=START + 4.0), leader.lease)
    assert {key: await redis.dump(key) for key in await redis.keys("petals:history:*")} == before


async def test_a_deposed_crawler_writes_no_history(redis):
    """One that was frozen while another took the lead is refused, and leaves no trace."""
    writer, old = HistoryWriter(redis), await lead(redis, "old")
    await redis.delete(keys.CRAWLER_LEASE)
    await lead(redis, "new")
    with pytest.raises(DeposedError):
        await writer.append(snapshot(taken_at=START + 1.0), old.lease)
    assert not await redis.keys("petals:history:*")


async def test_an_outdated_view_is_not_written(redis):
    """Between reading and writing another entry came: the script refuses, instead of losing a count."""
    writer, leader = await record(redis, snapshot(taken_at=START + 1.0))
    with pytest.raises(DeposedError, match="STALE"):
        await writer._write([], leader.lease, b"", START + 2.0)


async def test_what_is_a_lap_old_is_a_gap(redis):
    """After a long silence of the crawler, the ring shows no data, not the data of the lap before."""
    await record(redis, snapshot(whole(), taken_at=START + 0.0))
    reader = HistoryReader(redis)
    later = START + Resolution.MINUTE.ring.life
    assert (await reader.model("demo-model", Resolution.MINUTE, later - 60)).slots
    assert not (await reader.model("demo-model", Resolution.MINUTE, later)).slots
    await record(redis, snapshot(whole(), taken_at=float(later)))
    (slot,) = (await reader.model("demo-model", Resolution.MINUTE, later)).slots
    assert slot.crawls == 1


async def test_a_ring_of_one_year_goes_on_as_one_of_five(redis):
    """What an older version recorded is read on, and the day of the upgrade is the sum of both versions' crawls."""
    ring, key = Resolution.DAY.ring, keys.history_of_model(Resolution.DAY, "demo-model")
    old = Ring(ring.step, 366, ring.width)
    at = START + 400.0 * ring.step  # a day that has another place in the longer ring
    today = ring.slot(at)
    assert ring.offset(today) >= old.size
    for day in (today - 300, today - 1, today):
        await redis.setrange(key, old.offset(day), pack_model(sample(whole(), day)))
    await redis.setrange(key, old.size - 1, b"\0")
    await record(redis, snapshot(half(), taken_at=at + 5), snapshot(half(), taken_at=at + 65))
    slots = (await HistoryReader(redis).model("demo-model", Resolution.DAY, at + 70)).slots
    assert [(slot.slot - today, slot.crawls, slot.healthy) for slot in slots] == [(-300, 1, 1), (-1, 1, 1), (0, 3, 1)]
    assert await redis.strlen(key) == ring.size


async def test_keys_that_did_not_answer_make_a_gap_not_an_outage(redis):
    """Where unanswered DHT keys may explain the missing blocks, nobody knows: the slot stays empty."""
    await record(redis, snapshot(half(), taken_at=START + 0.0, unanswered_keys=4))
    reader = HistoryReader(redis)
    assert not (await reader.model("demo-model", Resolution.HOUR, START + 1)).slots
    await record(redis, snapshot(half(), taken_at=START + 60.0, unanswered_keys=3))
    (slot,) = (await reader.model("demo-model", Resolution.HOUR, START + 61)).slots
    assert (slot.crawls, slot.healthy) == (1, 0)


async def test_a_model_that_vanished_counts_as_broken_not_as_unknown(redis):
    """Its servers left without a word: the uptime of a model that was healthy goes down all the same."""
    other = model("other", servers=(server(9, 0, 8),))
    await record(redis, snapshot(whole(), other, taken_at=START + 0.0), snapshot(other, taken_at=START + 60.0))
    history = await HistoryReader(redis).model("demo-model", Resolution.HOUR, START + 61)
    assert history.uptimes()["24h"] == 0.5


async def test_a_hostile_swarm_cannot_fill_the_history(redis, monkeypatch):
    """Invented peers and models come and go by the thousand; keys stay under the caps, and real ones stay."""
    monkeypatch.setattr(history, "MAX_MODELS", 10)
    monkeypatch.setattr(history, "MAX_SERVERS", 200)
    official, real = whole(official=True), model("real", servers=(server(3, 0, 8), server(4, 0, 8)))
    writer, leader = await record(redis, snapshot(official, real, taken_at=START + 0.0))
    for crawl in range(1, 8):
        invented = [
            model(
                f"evil-{crawl}-{number}",
                servers=tuple(
                    server(1_000_000 * crawl + 1_000 * number + i, 0, 2, PeerState.UNREACHABLE) for i in range(40)
                ),
            )
            for number in range(25)
        ]
        assert await leader.hold()
        await writer.append(snapshot(official, *invented, real, taken_at=START + 60.0 * crawl), leader.lease)
        assert await redis.zcard(keys.HISTORY_MODELS) <= 10
        assert await redis.zcard(keys.HISTORY_SERVERS) <= 200
        assert len(await redis.keys(keys.history_of_server("*"))) <= 200
        assert len(await redis.keys("petals:history:model:*")) <= 30
        assert await redis.hlen(keys.INCIDENT_WATCH) <= 10
    reader = HistoryReader(redis)
    for prefix in ("demo-model", "real"):
        (slot,) = (await reader.model(prefix, Resolution.HOUR, START + 480)).slots
        assert (slot.crawls, slot.healthy) == (8, 8)
    for number in (1, 2, 3, 4):
        found = await reader.server(peer_id(number), START + 480)
        assert (found.record.first_seen, found.uptimes()["24h"]) == (START, 1.0)
    volatile = [await redis.ttl(key) for key in await redis.keys("petals:history:[mls][oe][dr]*:*")]
    assert volatile
    assert all(0 < ttl <= Resolution.DAY.ring.life for ttl in volatile)


async def test_a_thousand_servers_take_little(redis):
    """30 days of hours of 1,000 servers, and five years of three models, stay under 1.5 MB."""
    models = [
        model(f"model-{n}", blocks=80, servers=tuple(server(i, 0, 80) for i in range(n, 1000, 3))) for n in range(3)
    ]
    await record(redis, snapshot(*models, taken_at=START + 0.0), snapshot(*models, taken_at=START + 60.0))
    taken = 0
    for key in await redis.keys("petals:*"):
        taken += await redis.memory_usage(key, samples=0)
    assert taken < 1_500_000
    assert await redis.memory_usage(keys.history_of_server(peer_id(5))) < 1_000


async def test_an_entry_is_quick_for_redis(redis):
    """What blocks Redis for everyone stays in milliseconds with 1,000 servers."""
    each = model(blocks=80, servers=tuple(server(i, 0, 80) for i in range(1000)))
    writer, leader = await record(redis, snapshot(each, taken_at=START + 0.0))
    await redis.config_resetstat()
    await writer.append(snapshot(each, taken_at=START + 60.0), leader.lease)
    assert (await redis.info("commandstats"))["cmdstat_evalsha"]["usec"] < 100_000


@pytest.mark.parametrize(
    "failure", [DeposedError("DEPOSED"), ConnectionError("away"), ZeroDivisionError("a mistake of ours")]
)
async def test_a_crawler_goes_on_without_its_history(failure):
    """Whatever goes wrong with the past costs one entry of it, never the crawl loop."""

    class Failing:
        asked = 0

        async def append(self, snapshot, lease):
            self.asked += 1
            raise failure

    class Accepting:
        async def publish(self, snapshot, lease):
            return 1

        async def report(self, status, lease):
            pass

    class Clock:
        now = staticmethod(time.time)

        async def ask(self):
            pass

    class Leader:
        lease = "1:one"

    failing = Failing()
    await Publisher(Accepting(), failing, Leader(), CrawlerMetrics(), Clock()).publish(snapshot(), attempted_at=1.0)
    assert failing.asked == 1
