"""Clocks that are wrong or step: nothing freezes, nothing is lost, no age is negative."""

import time

import pytest

from crawler.history.writer import HistoryWriter
from crawler.incidents import step
from crawler.metrics import CrawlerMetrics
from crawler.publish import Publisher
from shared.snapshot import ModelState
from shared.store.clock import RedisClock
from shared.store.connection import connect
from shared.store.history import HistoryReader
from shared.store.rings import HOUR, Resolution
from shared.store.snapshots import SnapshotWriter
from tests.crawler.recording import lead, record
from tests.fakes import model, peer_id, server, snapshot

DAY = 86400.0


def whole():
    return model(servers=(server(1, 0, 8),))


@pytest.mark.parametrize("ahead", [HOUR, DAY, 20 * DAY])
async def test_a_history_that_was_written_ahead_of_time_goes_on_at_once(redis, ahead):
    """Redis's clock was ahead, and was set right: crawls are recorded again, and what was before it is still there."""
    start = time.time() // HOUR * HOUR - HOUR
    right = [snapshot(whole(), taken_at=start + 60 * minute) for minute in range(10)]
    await record(redis, *right[:8], snapshot(whole(), taken_at=start + 2 * HOUR + ahead))
    writer, leader = HistoryWriter(redis), await lead_again(redis)
    for each in right[8:]:
        assert await writer.append(each, leader.lease)
    reader = HistoryReader(redis)
    found = await reader.model("demo-model", Resolution.MINUTE, start + 600)
    assert [slot.slot - start // 60 for slot in found.slots] == list(range(10))
    of_server = await reader.server(peer_id(1), start + 600)
    assert [(hour.hour, hour.crawled, hour.online) for hour in of_server.hours] == [(start // HOUR, 10, 10)]
    header = of_server.record
    assert start == header.first_seen <= header.online_since <= header.last_online == start + 540
    assert of_server.uptimes()["24h"] == 1.0


async def test_hours_that_a_clock_ahead_has_counted_are_counted_anew(redis):
    """Else a server that is always online seems absent for half of them: their minutes with a crawl count twice."""
    start = time.time() // HOUR * HOUR
    ahead = [start + 2 * HOUR + 300 * number for number in range(12)]
    right = [start + 600 * number for number in range(15)]  # to the middle of the hour that is counted already
    writer, leader = await record(redis, *(snapshot(whole(), taken_at=at) for at in ahead))
    for at in right:
        assert await leader.hold()
        assert await writer.append(snapshot(whole(), taken_at=at), leader.lease)
    of_server = await HistoryReader(redis).server(peer_id(1), right[-1])
    assert [(hour.hour - start // HOUR, hour.crawled, hour.online) for hour in of_server.hours] == [
        (0, 6, 6), (1, 6, 6), (2, 3, 3),
    ]  # fmt: skip


async def lead_again(redis):
    await redis.delete("petals:crawler:lease")
    return await lead(redis)


def test_an_incident_that_began_in_the_future_has_no_negative_length():
    """It began by a clock that was ahead, and ends by the right one."""
    watch, closed = None, None
    for at, state in ((100.0, True), (5000.0, False), (5060.0, False), (160.0, True), (220.0, True)):
        report = whole() if state else model()
        watch, closed = step(watch, report, ModelState.HEALTHY if state else ModelState.BROKEN, at)
    assert closed is not None
    assert closed.start <= closed.end == 160.0
    assert watch.last_healthy == 220.0


@pytest.mark.parametrize("ahead", [-DAY, DAY, 3600.0])
async def test_a_wrong_clock_is_put_right_by_rediss(redis, monkeypatch, ahead):
    """What a process dates is neither from the future, which would look fresh for ever, nor too old to be believed."""
    clock, right = RedisClock(redis), time.time
    monkeypatch.setattr("shared.store.clock.time.time", lambda: right() + ahead)
    assert abs(await clock.ask() - right()) < 5
    assert abs(clock.now() - right()) < 5
    monkeypatch.setattr("shared.store.clock.time.time", right)
    assert abs(clock.now() - right()) < 5


async def test_while_redis_is_away_the_last_known_time_goes_on(redis_server, monkeypatch):
    """A clock that steps meanwhile changes nothing; one that was never compared is all that there is."""
    redis, right = connect(redis_server.url, "tests"), time.time
    clock = RedisClock(redis)
    await clock.ask()
    redis_server.kill()
    monkeypatch.setattr("shared.store.clock.time.time", lambda: right() + DAY)
    assert abs(await clock.ask() - right()) < 5
    assert abs(await RedisClock(redis).ask() - right() - DAY) < 5
    await redis.aclose()


async def test_a_snapshot_is_dated_by_redis_clock(redis, monkeypatch):
    """A machine whose own clock is a day ahead publishes snapshots that are not from the future."""
    right, leader = time.time, await lead(redis)
    publisher = Publisher(SnapshotWriter(redis), HistoryWriter(redis), leader, CrawlerMetrics(), RedisClock(redis))
    monkeypatch.setattr(time, "time", lambda: right() + DAY)
    await publisher.publish(snapshot(taken_at=time.time()), attempted_at=right())
    published = await SnapshotWriter(redis).latest()
    assert abs(published.taken_at - right()) < 5
