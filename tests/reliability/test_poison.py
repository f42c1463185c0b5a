"""Whatever somebody writes into Redis costs one entry: the checks, pages and crawls beside it go on."""

import asyncio
import json
import time
import zlib
from itertools import count

import httpx
import pytest
import redis as sync_redis

from api.http.request_rate import RequestRate
from crawler.history.writer import HistoryWriter
from crawler.leader import Leadership
from crawler.loop import CrawlLoop
from crawler.metrics import CrawlerMetrics
from crawler.observe.observation import Observation
from crawler.publish import Publisher
from shared import tasks
from shared.reachability import CHECK_FUNCTION, WORKER_LEASE, Answer, DialOutcome, Stage, encode_answer, queue_name
from shared.snapshot import CrawlStatus, Refusals, Verdict
from shared.store import keys, stored
from shared.store.clock import RedisClock
from shared.store.history import HistoryReader
from shared.store.rings import Resolution
from shared.store.snapshots import SnapshotReader, SnapshotWriter
from tests.api.serving import serve
from tests.crawler.recording import lead
from tests.fakes import REFUSED, FakeProber, model, peer_id, server, snapshot
from tests.reachability_worker.simulated_worker import worker_on

QUEUE = queue_name("here")
NESTED = b"[" * 5_000 + b"]" * 5_000
OTHERS = encode_answer(Answer(peer_id(99), "here", 1.0, DialOutcome(Verdict.UNREACHABLE, Stage.DIAL)))
JUNK = (b"", b"\xff\xfe", NESTED, b"{}", b"null", OTHERS)


def put_wrong(redis, key, kind):
    """Make a key one of another type than its owner's."""
    redis.delete(key)
    redis.execute_command("RPUSH" if kind == "string" else "SET", key, "poison")


def total(metric):
    samples = [sample for family in metric.collect() for sample in family.samples]
    return sum(sample.value for sample in samples if sample.name.endswith("_total"))


@pytest.fixture
def rq_redis(redis_url):
    client = sync_redis.Redis.from_url(redis_url)
    yield client
    client.close()


@pytest.fixture
async def site(redis_url):
    """An api, a worker, and `ask(number)`: the status and document of a check of one peer."""
    async with (
        worker_on(redis_url, FakeProber(REFUSED), vantage="here", verdict_reuse=0) as worker,
        serve(redis_url) as url,
        httpx.AsyncClient(base_url=url, timeout=12) as http,
    ):
        http.worker, http.tasks = worker, serve.services.tasks
        yield http


async def ask(http, number):
    return await http.get(f"/api/v1/is_reachable/{peer_id(number)}")


async def answered(http, numbers, seconds=9):
    """Ask about ever new peers until one gets a verdict; some may be lost with the poison, and are 503."""
    async with asyncio.timeout(seconds):
        while True:
            answer = await ask(http, next(numbers))
            assert answer.status_code in (200, 503), answer.text
            if answer.status_code == 200:
                assert answer.json()["success"] is False
                return
            await asyncio.sleep(0.05)


def nothing_failed(http):
    assert http.worker.tasks.failing == ()
    assert http.tasks.failing == ()


def job_of(redis, job_id, peer, **fields):
    """An RQ job of a check, with any id and fields."""
    data = zlib.compress(json.dumps([CHECK_FUNCTION, None, [peer], {}]).encode())
    now = int(time.time() * 1000)
    values = {"data": data, "deadline_ms": now + 5000, "asked_ms": now, "status": "queued", **fields}
    redis.hset(b"rq:job:" + job_id, mapping=values)
    redis.rpush(f"rq:queue:{QUEUE}", job_id)


async def test_jobs_with_any_id_and_any_fields_cost_themselves(site, rq_redis):
    """Without a dash, not UTF-8, of another type, due never, full of junk: the next check is answered at once."""
    good = f"{peer_id(1)}-ab".encode()
    job_of(rq_redis, b"nodash", peer_id(1))
    job_of(rq_redis, b"\xff\xfe-ab", peer_id(1))
    job_of(rq_redis, b"", peer_id(1))
    job_of(rq_redis, b"-", peer_id(1))
    for field in ("deadline_ms", "asked_ms"):
        for value in ("inf", "nan", "-1", "x", "1e300", "0x7fffffffffffffff", b"\xff"):
            job_of(rq_redis, good + value.encode() if isinstance(value, str) else good, peer_id(1), **{field: value})
    job_of(rq_redis, good + b"1", peer_id(1), request_id=b"\xff" * 5000, traceparent=NESTED)
    job_of(rq_redis, good + b"2", peer_id(1), data=zlib.compress(NESTED))
    rq_redis.set(b"rq:job:" + good + b"3", "text")
    rq_redis.rpush(f"rq:queue:{QUEUE}", good + b"3")
    before = tasks.records["taker"].failures
    answer = await ask(site, 2)
    assert answer.json()["success"] is False
    assert tasks.records["taker"].failures == before
    nothing_failed(site)
    assert not rq_redis.exists("rq:job:nodash", b"rq:job:\xff\xfe-ab")
    site.worker.stop()
    async with asyncio.timeout(30):
        while rq_redis.zcard(keys.workers("here")):
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("asked_ms", ["soon", "nan", "-inf", b"\xff", None])
async def test_a_first_job_that_cannot_be_aged_takes_no_lease_away(redis_url, rq_redis, asked_ms):
    """The age of the queue is read with each renewal: whatever its first job says, the worker stays.

    None is a job of another type.
    """
    async with worker_on(redis_url, FakeProber(delay=30), vantage="here", checks_at_once=1):
        job_of(rq_redis, f"{peer_id(1)}-ab".encode(), peer_id(1))
        async with asyncio.timeout(8):
            while rq_redis.llen(f"rq:queue:{QUEUE}"):  # it holds as many as it may
                await asyncio.sleep(0.05)
        if asked_ms is None:
            rq_redis.set("rq:job:x-1", "text")
            rq_redis.rpush(f"rq:queue:{QUEUE}", "x-1")
        else:
            job_of(rq_redis, b"x-1", peer_id(1), asked_ms=asked_ms)
        until_ms = (time.time() + 2 * WORKER_LEASE) * 1000  # as only a renewal of later on makes it
        async with asyncio.timeout(20):
            while not rq_redis.zcount(keys.workers("here"), until_ms, "+inf"):
                await asyncio.sleep(0.1)


async def test_an_in_flight_mark_of_another_type_does_not_hold_the_answer_back(redis_url, rq_redis):
    """It is replaced while the check runs: the answer, and those written with it, arrive."""
    async with worker_on(redis_url, FakeProber(REFUSED, delay=0.5), vantage="here"):
        for number in (1, 2):
            job_of(rq_redis, f"{peer_id(number)}-ab".encode(), peer_id(number))
        rq_redis.lpush(keys.inflight("here", peer_id(1)), "x")
        async with asyncio.timeout(8):
            while rq_redis.xlen(keys.REPLIES) < 2:
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("key", list(keys.of_the_workers("here", QUEUE)))
async def test_a_key_of_another_type_is_put_right_by_its_owner(site, rq_redis, key):
    """Whichever key of the workers' it is: checks are answered again before a caller's patience ends."""
    numbers = count(100)
    await answered(site, numbers)
    put_wrong(rq_redis, key, keys.of_the_workers("here", QUEUE)[key])
    await answered(site, numbers)
    nothing_failed(site)


async def test_a_replies_stream_at_its_end_is_begun_anew(site, rq_redis):
    """Somebody wrote the last possible id: nothing could be added any more."""
    numbers = count(100)
    rq_redis.delete(keys.REPLIES)
    rq_redis.xadd(keys.REPLIES, {"answer": "x"}, id="18446744073709551615-18446744073709551615")
    await answered(site, numbers)
    nothing_failed(site)


@pytest.mark.parametrize("junk", JUNK)
async def test_replies_that_are_none_do_not_end_the_reading(site, rq_redis, junk):
    """Not UTF-8, nested, of another peer, without the field: the true reply behind them arrives."""
    before = total(stored.REFUSED)
    rq_redis.xadd(keys.REPLIES, {"answer": junk})
    rq_redis.xadd(keys.REPLIES, {b"\xff": junk})
    answer = await ask(site, 1)
    assert answer.json()["peer_id"] == peer_id(1)
    assert answer.json()["success"] is False
    assert total(stored.REFUSED) > before
    nothing_failed(site)


@pytest.mark.parametrize("junk", [*JUNK, None])
async def test_a_verdict_that_is_none_is_asked_anew(site, rq_redis, junk):
    """Junk, or another peer's verdict, under the name of a fresh verdict; None is a key of another type."""
    key = keys.verdict("here", peer_id(1))
    rq_redis.lpush(key, "x") if junk is None else rq_redis.set(key, junk)
    answer = await ask(site, 1)
    assert answer.status_code == 200
    assert answer.json()["peer_id"] == peer_id(1)
    nothing_failed(site)


@pytest.mark.parametrize("junk", [b"", b"\xff\xfe", b"x", f"{peer_id(2)}-ab".encode(), b"x" * 10_000, None])
async def test_an_in_flight_mark_that_is_none_is_not_waited_for(site, rq_redis, junk):
    """It names no check of this peer: a check is begun."""
    key = keys.inflight("here", peer_id(1))
    rq_redis.lpush(key, "x") if junk is None else rq_redis.set(key, junk)
    answer = await ask(site, 1)
    assert answer.status_code == 200
    nothing_failed(site)


async def test_vantage_points_that_are_none_are_not_asked(site, rq_redis):
    """Names that nobody's worker could have."""
    ends = int((time.time() + 60) * 1000)
    rq_redis.zadd(keys.VANTAGES, {b"\xff": ends, "": ends, "UP": ends, "a b": ends, "x" * 5000: ends})
    await asyncio.sleep(1.1)  # the list that was read before has run out
    answer = await ask(site, 1)
    assert [each["vantage"] for each in answer.json()["vantages"]] == ["here"]
    nothing_failed(site)


async def test_lists_of_started_checks_and_workers_with_junk_in_them_do_not_stop_the_beat(site, rq_redis):
    """What a lost worker left is still dropped, and RQ still sees this one."""
    past = time.time() - 10
    rq_redis.zadd(f"rq:wip:{QUEUE}", {b"\xff": past, "": past, "nocolon": past, f"{peer_id(1)}-ab:gone": past})
    rq_redis.sadd("rq:workers", b"\xff", "rq:worker:gone")
    rq_redis.sadd(f"rq:workers:{QUEUE}", b"\xff", "rq:worker:gone")
    async with asyncio.timeout(8):
        while rq_redis.zcard(f"rq:wip:{QUEUE}"):
            await asyncio.sleep(0.05)
    assert (await ask(site, 1)).status_code == 200
    nothing_failed(site)


async def test_a_rate_that_is_no_number_is_counted_anew(redis, rq_redis):
    """The client is neither refused for ever nor without a limit."""
    rate = RequestRate(redis)
    for command in ("SET", "RPUSH"):
        rq_redis.delete(keys.rate("192.0.2.1"))
        rq_redis.execute_command(command, keys.rate("192.0.2.1"), "many")
        assert [(await rate.count("192.0.2.1")).used for _ in range(3)] == [1, 2, 3]
        assert 50_000 < rq_redis.pttl(keys.rate("192.0.2.1")) <= 60_000


@pytest.mark.parametrize("junk", JUNK)
async def test_a_snapshot_that_is_none_leaves_the_one_before(redis, rq_redis, junk):
    """Pages go on with what they have; the next snapshot and the statuses arrive."""
    writer, leader = SnapshotWriter(redis), await lead(redis)
    await writer.publish(snapshot(taken_at=1.0), leader.lease)
    news = SnapshotReader(redis).follow()
    assert (await anext(news)).snapshot.taken_at == 1.0
    rq_redis.xadd(keys.SNAPSHOTS, {"taken_at": "soon", "snapshot": junk})
    rq_redis.xadd(keys.CRAWLS, {"status": junk})
    assert await writer.latest() is None
    await writer.publish(snapshot(taken_at=2.0), leader.lease)
    await writer.report(CrawlStatus(3.0, ok=True), leader.lease)
    seen = []
    async with asyncio.timeout(8):
        while len(seen) < 2:
            item = await anext(news)
            seen += [each for each in (item.snapshot, item.status) if each is not None]
    assert {getattr(each, "taken_at", None) for each in seen} == {2.0, None}
    await news.aclose()


@pytest.mark.parametrize("key", [keys.SNAPSHOTS, keys.CRAWLS])
async def test_one_stream_that_is_none_does_not_silence_the_other(redis, rq_redis, key):
    """And it is followed again when its owner has put it right."""
    writer, leader = SnapshotWriter(redis), await lead(redis)
    put_wrong(rq_redis, key, "stream")
    news = SnapshotReader(redis).follow()
    for attempt in ("poisoned", "mended"):
        if attempt == "mended":
            await writer.delete_unusable_keys()
        seen = None
        async with asyncio.timeout(8):
            while not seen:
                if attempt == "mended" or key == keys.CRAWLS:
                    await writer.publish(snapshot(taken_at=time.time()), leader.lease)
                if attempt == "mended" or key == keys.SNAPSHOTS:
                    await writer.report(CrawlStatus(3.0, ok=True), leader.lease)
                item = await anext(news)
                wanted = item.snapshot if (key == keys.SNAPSHOTS) == (attempt == "mended") else item.status
                seen = wanted is not None
                await leader.hold()
    await news.aclose()


class Loop(CrawlLoop):
    """The crawl loop on a swarm that always looks the same."""

    def __init__(self, redis):
        self.leadership = Leadership(redis, "loop")
        settings = type("Settings", (), {"bootstrap_peers": {}, "crawl_period": 0.2})()
        metrics = CrawlerMetrics()
        publisher = Publisher(SnapshotWriter(redis), HistoryWriter(redis), self.leadership, metrics, RedisClock(redis))
        super().__init__(settings, self, publisher, self.leadership, metrics)

    async def observe(self, last=None, **_):
        return Observation((), (), {}, {}, Refusals(), 0, "QmCrawler")

    def _judge(self, observation):
        return snapshot(taken_at=time.time())

    async def close(self):
        pass


@pytest.mark.parametrize("key", [key for key in keys.of_the_crawler() if not key.startswith("rq:")])
async def test_the_crawler_puts_its_own_keys_right(redis, rq_redis, key):
    """Whichever it is: a crawl after it is published, told and recorded."""
    put_wrong(rq_redis, key, keys.of_the_crawler()[key])
    running = tasks.awaited(Loop(redis).run())
    reader = HistoryReader(redis)
    try:
        async with asyncio.timeout(20):
            while not (
                rq_redis.type(keys.SNAPSHOTS) == rq_redis.type(keys.CRAWLS) == b"stream"
                and rq_redis.type(key).decode() in (keys.of_the_crawler()[key], "none")
                and (await reader.model("demo-model", Resolution.MINUTE, time.time())).slots
            ):
                assert not running.done(), running
                await asyncio.sleep(0.05)
    finally:
        await tasks.end(running)


@pytest.mark.parametrize("value", [b"soon", b"nan", b"-inf", b"\xff", b"1e300", b""])
async def test_a_head_of_the_history_that_is_no_time_bars_nothing(redis, rq_redis, value):
    """Crawls are recorded, and the readers go on."""
    rq_redis.set(keys.HISTORY_HEAD, value)
    leader = await lead(redis)
    assert await HistoryWriter(redis).append(snapshot(), leader.lease)
    rq_redis.set(keys.HISTORY_HEAD, value)
    assert await HistoryReader(redis).server(peer_id(1), time.time()) is not None


async def test_one_history_of_another_type_costs_itself(redis, rq_redis):
    """The models and servers beside it are recorded by the same crawl, and this one from the same crawl on."""
    rq_redis.rpush(keys.history_of_model(Resolution.MINUTE, "demo-model"), "x")
    rq_redis.rpush(keys.history_of_server(peer_id(1)), "x")
    reader, leader = HistoryReader(redis), await lead(redis)
    assert (await reader.model("demo-model", Resolution.MINUTE, time.time())).slots == ()
    assert await reader.server(peer_id(1), time.time()) is None
    made = snapshot(model(servers=(server(1, 0, 8), server(2, 0, 8))))
    assert await HistoryWriter(redis).append(made, leader.lease)
    for resolution in Resolution:
        assert len((await reader.model("demo-model", resolution, time.time())).slots) == 1
    assert [await reader.server(peer_id(n), time.time()) is not None for n in (1, 2)] == [True, True]


async def test_incidents_and_watches_that_are_none_are_dropped(redis, rq_redis, redis_url):
    """They are not shown, they do not end the recording, and they are gone after the next crawl."""
    for number, junk in enumerate(JUNK):
        for key in (keys.OPEN_INCIDENTS, keys.INCIDENT_WATCH):
            rq_redis.hset(key, f"model-{number}", junk)
            rq_redis.hset(key, b"\xff%d" % number, junk)
        rq_redis.xadd(keys.closed_incidents(official=True), {"incident": junk})
        rq_redis.xadd(keys.closed_incidents(official=False), {b"\xff": junk})
    async with serve(redis_url) as url, httpx.AsyncClient(base_url=url) as http:
        for path in ("/api/v1/incidents", "/incidents", "/incidents.atom"):
            assert (await http.get(path)).status_code == 200, path
        assert (await http.get("/api/v1/incidents")).json()["incidents"] == []
    leader = await lead(redis)
    assert await HistoryWriter(redis).append(snapshot(), leader.lease)
    assert rq_redis.hkeys(keys.OPEN_INCIDENTS) == []
    assert rq_redis.hkeys(keys.INCIDENT_WATCH) == [b"demo-model"]


@pytest.mark.parametrize("answer", [{}, {"used_memory": "much"}, {"used_memory": float("nan")}, {"maxmemory": 1}])
async def test_an_info_without_what_is_wanted_is_no_figure(answer):
    """The loop goes on, and the gauge is absent instead of standing still."""

    class Redis:
        asked = 0

        async def info(self, section):
            self.asked += 1
            return {"used_memory": 5, "maxmemory": 0} if self.asked == 1 else answer

    metrics, redis = CrawlerMetrics(), Redis()
    watching = tasks.awaited(metrics.watch_redis(redis))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert metrics.registry.get_sample_value("petals_redis_memory_used_bytes") == 5
    await tasks.end(watching)
    watching = tasks.awaited(metrics.watch_redis(redis))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not watching.done()
    assert metrics.registry.get_sample_value("petals_redis_memory_used_bytes") is None
    assert metrics.registry.get_sample_value("petals_redis_up") == 1
    await tasks.end(watching)


async def test_a_fencing_number_that_is_none_bars_nobody_from_the_lead(redis, rq_redis):
    """And the lease that is made of another is as unique."""
    rq_redis.set(keys.CRAWLER_FENCING, "many")
    first = Leadership(redis, "one")
    assert await first.hold()
    lease = first.lease
    await first.release()
    assert await first.hold()
    assert first.lease != lease


async def test_a_lease_that_does_not_run_out_bars_nobody_from_the_lead(redis, rq_redis):
    """Somebody wrote it: no crawler would ever renew it, or let it go."""
    rq_redis.set(keys.CRAWLER_LEASE, "poison")
    first, second = Leadership(redis, "one"), Leadership(redis, "two")
    assert await first.hold()
    assert not await second.hold()
    assert rq_redis.pttl(keys.CRAWLER_LEASE) > 0


async def test_a_verdict_that_does_not_run_out_is_not_told_for_ever(site, rq_redis):
    """It is about the right peer, and nobody's."""
    forged = Answer(peer_id(1), "here", 1.0, DialOutcome(Verdict.REACHABLE, Stage.ANSWERED))
    rq_redis.set(keys.verdict("here", peer_id(1)), encode_answer(forged))
    answer = await ask(site, 1)
    assert answer.json()["success"] is False
