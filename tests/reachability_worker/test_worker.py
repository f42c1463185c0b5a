"""The RQ worker on a real Redis, with a simulated prober: what RQ sees, and that nothing is lost."""

import asyncio
import time
from functools import partial

import pytest
import redis as sync_redis
from rq import Queue, Worker
from rq.job import Job
from rq.serializers import JSONSerializer

from reachability_worker.metrics import WorkerMetrics
from reachability_worker.worker import ConcurrentWorker
from shared.reachability import CHECK_FUNCTION, decode_answer, queue_name
from shared.snapshot import Verdict
from shared.store import keys
from shared.store.connection import connect
from tests.fakes import REACHED, REFUSED, FakeProber, peer_id
from tests.reachability_worker import simulated_worker

QUEUE = queue_name("here")
worker_on = partial(simulated_worker.worker_on, vantage="here", verdict_reuse=5.0, shutdown_grace=2.0)


def enqueue(connection, peer, seconds=9.0, job_id=None, inference=()):
    """Put a check into the queue as the api does."""
    job = Job.create(
        CHECK_FUNCTION, args=[peer, *inference], id=job_id or f"{peer}-{time.monotonic_ns()}", connection=connection,
        serializer=JSONSerializer, origin=QUEUE, status="queued", timeout=10, result_ttl=0,
    )  # fmt: skip
    connection.hset(job.key, mapping={**job.to_dict(), "deadline_ms": int((time.time() + seconds) * 1000)})
    connection.pexpire(job.key, int(seconds * 1000) + 2000)
    connection.sadd("rq:queues", f"rq:queue:{QUEUE}")
    connection.rpush(f"rq:queue:{QUEUE}", job.id)
    return job


@pytest.fixture
def rq_redis(redis_url):
    connection = sync_redis.Redis.from_url(redis_url)
    yield connection
    connection.close()


async def until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.02)
    return result


def replies(connection):
    return [decode_answer(fields[b"answer"]) for _, fields in connection.xrange(keys.REPLIES)]


async def test_a_check_is_answered_and_leaves_nothing_behind(redis_url, rq_redis):
    """The answer is in the reply stream and, for a while, under the verdict's key; the job is gone."""
    async with worker_on(redis_url, FakeProber()):
        job = enqueue(rq_redis, peer_id(1))
        (answer,) = await until(lambda: replies(rq_redis))
    assert (answer.peer_id, answer.vantage, answer.outcome) == (peer_id(1), "here", REACHED)
    assert decode_answer(rq_redis.get(keys.verdict("here", peer_id(1)))) == answer
    assert 0 < rq_redis.pttl(keys.verdict("here", peer_id(1))) <= 5000
    assert not rq_redis.exists(job.key)
    assert not rq_redis.keys("rq:execution*")
    assert rq_redis.zcard(f"rq:wip:{QUEUE}") == 0


async def test_an_answer_that_an_outage_held_back_is_none_any_more(redis_url, rq_redis, monkeypatch):
    """Who asks after the outage gets what is found then: a server may have been started meanwhile."""
    async with worker_on(redis_url, FakeProber(REFUSED), verdict_reuse=0.5) as worker:
        away, finish = asyncio.Event(), worker._scripts.finish

        async def fail(checks):
            away.set()
            raise sync_redis.ConnectionError

        monkeypatch.setattr(worker._scripts, "finish", fail)
        job = enqueue(rq_redis, peer_id(1), seconds=2.0)  # within these it is taken, also on a slow machine
        await away.wait()
        await asyncio.sleep(2.0)
        monkeypatch.setattr(worker._scripts, "finish", finish)
        await until(lambda: not worker.in_flight)
        assert replies(rq_redis) == []
        assert not rq_redis.exists(keys.verdict("here", peer_id(1)), job.key)
        assert rq_redis.zcard(f"rq:wip:{QUEUE}") == 0


@pytest.mark.real_parts
async def test_a_worker_starts_and_stops_while_redis_is_away():
    """It waits for Redis, and is told to stop meanwhile."""
    url = "redis://127.0.0.1:1/0"
    redis = connect(url, "worker")
    worker = ConcurrentWorker(
        "here", *[FakeProber()] * 4, connection=sync_redis.Redis.from_url(url), redis=redis,
        metrics=WorkerMetrics(), checks_at_once=1, verdict_reuse=1.0, shutdown_grace=0.0,
    )  # fmt: skip
    running = asyncio.create_task(worker.run())
    await asyncio.sleep(0.1)
    assert not running.done()
    worker.stop()
    async with asyncio.timeout(5):
        await running
    await redis.aclose()


async def test_redis_tells_when_a_peer_computed(redis_url, rq_redis, monkeypatch):
    """As it tells of each age that a page shows: the worker's own clock may be wrong."""
    async with worker_on(redis_url, FakeProber()) as worker:
        monkeypatch.setattr(worker._clock, "now", lambda: 5.0)
        blocks = {"dht_prefix": "m", "start": 0, "end": 4}
        enqueue(rq_redis, peer_id(1), job_id=f"{peer_id(1)}-inference-1", inference=[blocks])
        (answer,) = await until(lambda: replies(rq_redis))
    assert answer.inference.checked_at == 5.0


async def test_a_thousand_checks_run_at_once(redis_url, rq_redis):
    """Slow peers do not make others wait."""
    prober = FakeProber()
    prober.free.clear()
    async with worker_on(redis_url, prober):
        for number in range(1000):
            enqueue(rq_redis, peer_id(number), seconds=59)
        await until(lambda: prober.looking == 1000, 50)
        prober.free.set()
        await until(lambda: rq_redis.xlen(keys.REPLIES) == 1000, 50)


async def test_rq_sees_the_worker_and_its_jobs(redis_url, rq_redis):
    """Registered, beating, its started jobs in StartedJobRegistry, its counters right: `rq info` tells the truth."""
    prober = FakeProber()
    prober.free.clear()
    async with worker_on(redis_url, prober):
        jobs = [enqueue(rq_redis, peer_id(number)) for number in range(3)]
        queue = Queue(QUEUE, connection=rq_redis, serializer=JSONSerializer)
        await until(lambda: len(queue.started_job_registry) == 3)
        assert set(queue.started_job_registry.get_job_ids()) == {job.id for job in jobs}
        started = Job.fetch(jobs[0].id, connection=rq_redis, serializer=JSONSerializer)
        assert started.get_status() == "started"
        assert len(started.get_executions()) == 1
        (worker,) = Worker.all(connection=rq_redis)
        assert worker.queue_names() == [QUEUE]
        prober.free.set()
        await until(lambda: len(queue.started_job_registry) == 0)
        worker.refresh()
        assert worker.successful_job_count == 3
    assert Worker.all(connection=rq_redis) == []


async def test_stopping_hands_back_what_cannot_be_finished(redis_url, rq_redis):
    """SIGTERM loses no check: short ones end, long ones wait for the next worker, whole and in front."""
    prober = FakeProber()
    prober.outcomes[peer_id(1)] = (REACHED, 0.3)
    prober.outcomes[peer_id(2)] = (REACHED, 30.0)
    async with worker_on(redis_url, prober, shutdown_grace=0.8):
        enqueue(rq_redis, peer_id(1))
        long = enqueue(rq_redis, peer_id(2), seconds=20)
        await until(lambda: prober.looking == 2)
    assert [answer.peer_id for answer in replies(rq_redis)] == [peer_id(1)]
    assert rq_redis.lrange(f"rq:queue:{QUEUE}", 0, -1) == [long.id.encode()]
    assert rq_redis.hget(long.key, "status") == b"queued"
    assert rq_redis.zcard(f"rq:wip:{QUEUE}") == 0
    async with worker_on(redis_url, FakeProber()):
        await until(lambda: len(replies(rq_redis)) == 2)


async def test_an_unknown_outcome_is_told_but_not_reused(redis_url, rq_redis):
    """That nobody could look now says nothing about the next second."""
    from shared.reachability import Cause, DialOutcome

    async with worker_on(redis_url, FakeProber(DialOutcome.unknown(Cause.NODE_UNFIT))):
        enqueue(rq_redis, peer_id(1))
        (answer,) = await until(lambda: replies(rq_redis))
    assert answer.outcome.verdict is Verdict.UNKNOWN
    assert not rq_redis.exists(keys.verdict("here", peer_id(1)))


async def test_a_worker_that_turns_out_unfit_hands_its_check_to_another(redis_url, rq_redis):
    """One worker that is cut off from the swarm costs no caller an answer that another one can give."""
    from shared.reachability import Cause, DialOutcome

    class CutOff(FakeProber):
        async def probe(self, peer, deadline, on_stage):
            self.fit = False
            return await super().probe(peer, deadline, on_stage)

    cut_off = CutOff(DialOutcome.unknown(Cause.NODE_UNFIT))
    async with worker_on(redis_url, cut_off):
        job = enqueue(rq_redis, peer_id(1))
        await until(lambda: cut_off.looks and rq_redis.lrange(f"rq:queue:{QUEUE}", 0, -1) == [job.id.encode()])
        async with worker_on(redis_url, FakeProber()):
            (answer,) = await until(lambda: replies(rq_redis))
    assert answer.outcome.verdict is Verdict.REACHABLE
    assert cut_off.looks == [peer_id(1)]


async def test_an_unfit_worker_gives_up_its_lease_and_takes_nothing(redis_url, rq_redis):
    """So that callers hear at once that nobody can look, and another worker gets the work."""
    prober = FakeProber()
    async with worker_on(redis_url, prober):
        await until(lambda: rq_redis.zcard(keys.workers("here")) == 1)
        prober.fit = False
        await until(lambda: rq_redis.zcard(keys.workers("here")) == 0)
        enqueue(rq_redis, peer_id(1))
        await asyncio.sleep(1.3)
        assert prober.looks == []
        prober.fit = True
        await until(lambda: prober.looks == [peer_id(1)])


async def test_a_lost_workers_started_checks_are_dropped(redis_url, rq_redis):
    """Whoever waits for them asks again; no job stays STARTED."""
    job = enqueue(rq_redis, peer_id(1))
    rq_redis.lpop(f"rq:queue:{QUEUE}")
    rq_redis.hset(job.key, "status", "started")
    rq_redis.zadd(f"rq:wip:{QUEUE}", {f"{job.id}:gone": time.time() - 1})
    async with worker_on(redis_url, FakeProber()):
        await until(lambda: rq_redis.zcard(f"rq:wip:{QUEUE}") == 0)
        assert not rq_redis.exists(job.key)


async def test_bad_jobs_do_not_stop_the_worker(redis_url, rq_redis):
    """They are dropped and counted; the next check is answered."""
    async with worker_on(redis_url, FakeProber(REFUSED)):
        rq_redis.rpush(f"rq:queue:{QUEUE}", "no-such-job", "", "x" * 5000)
        bad = enqueue(rq_redis, peer_id(1))
        rq_redis.hset(bad.key, "data", b"\x80\x04pickle")
        enqueue(rq_redis, peer_id(2))
        await until(lambda: peer_id(2) in {answer.peer_id for answer in replies(rq_redis)})


async def test_it_goes_on_over_a_redis_that_comes_back_empty(redis_server):
    """Registered again, leased again, working again, by itself."""
    connection = sync_redis.Redis.from_url(redis_server.url)
    async with worker_on(redis_server.url, FakeProber()):
        enqueue(connection, peer_id(1))
        await until(lambda: replies(connection))
        redis_server.kill()
        await asyncio.sleep(1.5)
        redis_server.start()
        await until(lambda: connection.zcard(keys.workers("here")) == 1, 10)
        enqueue(connection, peer_id(2))
        await until(lambda: [answer.peer_id for answer in replies(connection)] == [peer_id(2)], 10)
        await until(lambda: len(Worker.all(connection=connection)) == 1, 15)
    connection.close()
