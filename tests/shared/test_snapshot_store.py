import asyncio
import threading
import time

import pytest
from redis.exceptions import ResponseError

from crawler.leader import Leadership
from shared.snapshot import CrawlStatus, decode, encode
from shared.store import keys, snapshots
from shared.store.connection import connect
from shared.store.fencing import DeposedError
from shared.store.snapshots import SnapshotReader, SnapshotWriter
from shared.store.streams import StreamTail
from tests.fakes import model, refused, snapshot


async def lead(redis, name="one"):
    leadership = Leadership(redis, name)
    assert await leadership.hold()
    return leadership


async def next_snapshot(news):
    async with asyncio.timeout(8):
        while True:
            item = await anext(news)
            if item.snapshot is not None:
                return item


async def test_a_reader_gets_what_is_there_and_then_each_change(redis):
    """A replica that starts late shows the newest snapshot at once, and follows from there."""
    writer, leader = SnapshotWriter(redis), await lead(redis)
    await writer.publish(snapshot(taken_at=1.0), leader.lease)
    await writer.publish(snapshot(taken_at=2.0), leader.lease)
    news = SnapshotReader(redis).follow()
    assert (await next_snapshot(news)).snapshot.taken_at == 2.0
    await writer.publish(snapshot(taken_at=3.0), leader.lease)
    assert (await next_snapshot(news)).snapshot.taken_at == 3.0
    await news.aclose()


async def test_a_snapshot_is_decoded_in_a_thread(redis, monkeypatch):
    """Requests are answered meanwhile: one of 10,000 servers takes 40 ms."""
    threads = []

    def watched(document):
        threads.append(threading.current_thread())
        return decode(document)

    monkeypatch.setattr(snapshots, "decode", watched)
    await SnapshotWriter(redis).publish(snapshot(), (await lead(redis)).lease)
    news = SnapshotReader(redis).follow()
    await next_snapshot(news)
    await news.aclose()
    assert threads
    assert threading.current_thread() not in threads


async def test_only_the_newest_snapshot_is_kept(redis):
    """Redis does not fill up with old snapshots."""
    writer, leader = SnapshotWriter(redis), await lead(redis)
    for taken_at in range(5):
        await writer.publish(snapshot(taken_at=float(taken_at)), leader.lease)
    assert await redis.xlen(keys.SNAPSHOTS) == 1


async def test_a_deposed_crawler_cannot_overwrite(redis):
    """One that was frozen and wakes after another took the lead is refused by Redis itself."""
    writer, old = SnapshotWriter(redis), await lead(redis, "old")
    await redis.delete(keys.CRAWLER_LEASE)  # its lease ran out
    new = await lead(redis, "new")
    await writer.publish(snapshot(taken_at=2.0), new.lease)
    with pytest.raises(DeposedError):
        await writer.publish(snapshot(taken_at=3.0), old.lease)
    assert not await old.hold()


async def test_a_deposed_crawler_cannot_overwrite_the_status(redis):
    """What is said of the latest crawl is the leader's word; neither where nobody leads."""
    writer, old = SnapshotWriter(redis), await lead(redis, "old")
    await redis.delete(keys.CRAWLER_LEASE)
    with pytest.raises(DeposedError):
        await writer.report(CrawlStatus(1.0, ok=False), old.lease)
    assert not await redis.exists(keys.CRAWLS)
    new = await lead(redis, "new")
    await writer.report(CrawlStatus(2.0, ok=True), new.lease)
    for lease in (old.lease, ""):
        with pytest.raises(DeposedError):
            await writer.report(CrawlStatus(3.0, ok=False, error="its own failure"), lease)
    ((_, fields),) = await redis.xrange(keys.CRAWLS)
    assert b"its own failure" not in fields[b"status"]


async def test_a_status_arrives_beside_the_snapshot(redis):
    """A failed crawl is told, and leaves the snapshot alone."""
    writer, leader = SnapshotWriter(redis), await lead(redis)
    await writer.publish(snapshot(taken_at=1.0), leader.lease)
    news = SnapshotReader(redis).follow()
    await next_snapshot(news)
    await writer.report(CrawlStatus(2.0, ok=False, error="no bootstrap peer answered"), leader.lease)
    async with asyncio.timeout(5):
        item = await anext(news)
    assert item.status.error == "no bootstrap peer answered"
    assert item.snapshot is None
    await news.aclose()


async def test_an_unreadable_document_is_passed_over(redis):
    """During an upgrade a reader keeps what it has, and takes the next that it can read."""
    await redis.xadd(keys.SNAPSHOTS, {"snapshot": b"from the future"}, id="1-1")
    news = SnapshotReader(redis).follow()
    before = refused("snapshot"), refused("status")
    await redis.xadd(keys.CRAWLS, {"status": b"from the future"})
    waiting = asyncio.create_task(next_snapshot(news))
    async with asyncio.timeout(20):
        while (refused("snapshot"), refused("status")) != (before[0] + 1, before[1] + 1):
            await asyncio.sleep(0.01)
    assert not waiting.done()
    writer, leader = SnapshotWriter(redis), await lead(redis)
    await writer.publish(snapshot(model("later"), taken_at=time.time()), leader.lease)
    assert (await waiting).snapshot.models[0].dht_prefix == "later"
    await news.aclose()


async def test_a_reader_follows_over_a_redis_that_comes_back_empty(redis_server):
    """Stream ids begin anew there, before the reader's cursor; it must notice."""
    redis = connect(redis_server.url, "tests")
    writer, leader = SnapshotWriter(redis), await lead(redis)
    # An id far in the future, as if the clock had been wrong: the new ids will lie before it.
    await redis.xadd(keys.SNAPSHOTS, {"snapshot": b"-"}, id="9999999999999-0")
    await writer.publish(snapshot(taken_at=1.0), leader.lease)
    reader = SnapshotReader(redis)
    news = reader.follow()
    assert (await next_snapshot(news)).snapshot.taken_at == 1.0
    redis_server.kill()
    waiting = asyncio.create_task(next_snapshot(news))
    async with asyncio.timeout(20):
        while reader.connected:
            await asyncio.sleep(0.01)
    redis_server.start()
    leader = await lead(redis)
    await writer.publish(snapshot(taken_at=2.0), leader.lease)
    assert (await waiting).snapshot.taken_at == 2.0
    await news.aclose()
    await redis.aclose()


async def test_a_crawler_that_starts_finds_what_was_published(redis):
    """The newest snapshot, and nothing where none is there or none that this version reads."""
    writer, leader = SnapshotWriter(redis), await lead(redis)
    assert (await writer.latest(), await writer.published()) == (None, False)
    newest = snapshot(taken_at=2.0)
    await writer.publish(snapshot(taken_at=1.0), leader.lease)
    size = await writer.publish(newest, leader.lease)
    assert size == len(encode(newest))
    assert (await writer.latest(), await writer.published()) == (newest, True)


@pytest.mark.parametrize("entry", [{"snapshot": b"junk"}, {"snapshot": encode(snapshot(schema=99))}, {"other": b""}])
async def test_what_cannot_be_read_is_nothing_to_go_on_from(redis, entry):
    """It is counted as refused."""
    await redis.xadd(keys.SNAPSHOTS, entry)
    writer, before = SnapshotWriter(redis), refused("snapshot")
    assert (await writer.latest(), await writer.published()) == (None, True)
    assert refused("snapshot") == before + 1


async def test_a_crawler_deletes_what_stands_where_its_own_keys_belong(redis):
    """And leaves what is right, and what is not its own."""
    await redis.mset({keys.SNAPSHOTS: "no stream", "somebody": "else's"})
    await redis.xadd(keys.CRAWLS, {"status": b""})
    await SnapshotWriter(redis).delete_unusable_keys()
    assert sorted(await redis.keys()) == sorted([keys.CRAWLS.encode(), b"somebody"])


async def test_an_error_that_is_no_refusal_is_not_called_one(redis):
    """Something that is no stream stands under the key."""
    writer, leader = SnapshotWriter(redis), await lead(redis)
    await redis.set(keys.SNAPSHOTS, "no stream")
    with pytest.raises(ResponseError):
        await writer.publish(snapshot(), leader.lease)


async def test_only_the_latest_status_is_kept(redis):
    writer, leader = SnapshotWriter(redis), await lead(redis)
    for moment in (1.0, 2.0):
        await writer.report(CrawlStatus(moment, ok=True), leader.lease)
    assert await redis.xlen(keys.CRAWLS) == 1


async def test_a_reader_names_each_snapshot_and_says_whether_redis_answers(redis):
    """By the entry's id: what readers compare."""
    writer, leader = SnapshotWriter(redis), await lead(redis)
    await writer.publish(snapshot(taken_at=1.0), leader.lease)
    ((entry_id, _),) = await redis.xrange(keys.SNAPSHOTS)
    reader = SnapshotReader(redis)
    news = reader.follow()
    assert (await next_snapshot(news)).snapshot_id == entry_id.decode()
    assert reader.connected
    await news.aclose()


async def test_a_reader_says_that_there_is_nothing_new(redis):
    """So that whoever follows knows that Redis was asked."""
    news = SnapshotReader(redis).follow()
    async with asyncio.timeout(8):
        assert await anext(news) == (None, None, None)
    await news.aclose()


async def test_a_snapshot_of_now_bars_older_ones_and_one_of_a_wrong_clock_does_not(redis):
    """By Redis's clock: what was taken in an hour from now was not, and would bar right ones for an hour."""
    writer, leader, now = SnapshotWriter(redis), await lead(redis), time.time()
    await writer.publish(snapshot(taken_at=now + 3600), leader.lease)
    await writer.publish(snapshot(taken_at=now), leader.lease)
    with pytest.raises(DeposedError, match="OLDER"):
        await writer.publish(snapshot(taken_at=now - 1), leader.lease)
    await writer.publish(snapshot(taken_at=now + 30), leader.lease)
    with pytest.raises(DeposedError, match="OLDER"):
        await writer.publish(snapshot(taken_at=now + 1), leader.lease)


async def test_a_user_who_may_not_ask_for_the_streams_end_is_told_so(redis_server):
    """Its snapshot is not read anew with each quiet read: whether it was lost is not known."""
    async with connect(redis_server.url, "admin") as admin:
        await admin.execute_command("ACL", "SETUSER", "reader", "on", ">x", "~*", "+@all", "-xinfo")
        await SnapshotWriter(admin).publish(snapshot(taken_at=1.0), (await lead(admin)).lease)
        async with connect(redis_server.url.replace("//", "//reader:x@"), "reader") as client:
            tail = StreamTail(client, [keys.SNAPSHOTS], about="snapshots")
            news = tail.follow()
            assert len(await anext(news)) == 1
            again = asyncio.create_task(anext(news))
            while tail.last_error is None:
                await asyncio.sleep(0.01)
            assert "no permissions to run the 'xinfo" in tail.last_error
            assert not again.done()
            again.cancel()
