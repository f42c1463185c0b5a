"""What the worker's scripts decide: which jobs are taken, what an answer leaves behind, whose keys are kept alive."""

import time

import pytest

from reachability_worker.scripts import Finished, Scripts
from shared.reachability import RENEWAL
from shared.store import keys
from tests.fakes import peer_id

PEER, OTHER = peer_id(1), peer_id(2)
JOB = f"{PEER}-nonce"
INFLIGHT, VERDICT = keys.inflight("here", PEER), keys.verdict("here", PEER)


class _Registration:
    """The names that a registered worker has."""

    name, vantage, key = "worker", "here", "rq:worker:worker"
    queue_key, wip_key = "rq:queue:here", "rq:wip:here"


NAMES = _Registration()


@pytest.fixture
def scripts(redis):
    return Scripts(redis, NAMES)


def now_ms():
    return int(time.time() * 1000)


async def enqueue(redis, job_id=JOB, *, left_ms=5_000, **fields):
    """As the api does, with the in-flight key."""
    told = {"data": "call", "deadline_ms": now_ms() + left_ms, "asked_ms": now_ms(), "status": "queued", **fields}
    await redis.hset(f"rq:job:{job_id}", mapping=told)
    await redis.rpush(NAMES.queue_key, job_id)
    await redis.set(keys.inflight("here", job_id.rpartition("-")[0]), job_id, px=500)


async def test_a_job_that_is_taken_is_started_for_rq_too(redis, scripts):
    """Its hash, its execution and the registry of started jobs tell; its in-flight key lives on."""
    await enqueue(redis, request_id="asked-by", traceparent="the trace")
    before = time.time()
    ((job_id, packed, left_ms, request_id, traceparent),) = await scripts.take(9)
    assert (job_id, packed, request_id, traceparent) == (JOB.encode(), b"call", b"asked-by", b"the trace")
    assert 4_000 < left_ms <= 5_000
    assert RENEWAL * 1000 - 1000 < await redis.pttl(INFLIGHT) <= RENEWAL * 1000
    assert await redis.llen(NAMES.queue_key) == 0

    job = await redis.hgetall(f"rq:job:{JOB}")
    assert (job[b"status"], job[b"worker_name"]) == (b"started", b"worker")
    assert job[b"started_at"] == job[b"last_heartbeat"] != b""
    ((started, until),) = await redis.zrange(NAMES.wip_key, 0, -1, withscores=True)
    name, _, execution_id = started.decode().rpartition(":")
    assert name == JOB
    assert int(before) + RENEWAL <= until <= time.time() + RENEWAL
    execution = await redis.hgetall(f"rq:execution:{started.decode()}")
    assert execution.keys() == {b"id", b"created_at", b"last_heartbeat", b"worker_name"}
    assert (execution[b"id"], execution[b"worker_name"]) == (execution_id.encode(), b"worker")
    assert int(before) <= int(execution[b"created_at"]) == int(execution[b"last_heartbeat"]) <= time.time()
    assert await redis.zrange(f"rq:executions:{JOB}", 0, -1, withscores=True) == [(execution_id.encode(), until + 60)]
    for key in (f"rq:execution:{started.decode()}", f"rq:executions:{JOB}"):
        assert 9_000 < await redis.pttl(key) <= 10_000


async def test_so_many_are_taken_as_there_is_room_for_and_the_first_ones_first(redis, scripts):
    for number in range(3):
        await enqueue(redis, f"{peer_id(number)}-x")
    assert [job[0].decode() for job in await scripts.take(2)] == [f"{peer_id(number)}-x" for number in range(2)]
    ((_, _, _, request_id, traceparent),) = await scripts.take(2)
    assert (request_id, traceparent) == (b"", b"")
    assert await scripts.take(2) == []


@pytest.mark.parametrize("deadline", [{"left_ms": -1}, {"left_ms": 61_000}, {"deadline_ms": "junk"}])
async def test_a_check_whose_deadline_is_over_or_none_is_deleted_and_not_run(redis, scripts, deadline):
    """Nobody waits for it; one too far ahead was written by somebody else. It costs no other check its turn."""
    await enqueue(redis, **deadline)
    await enqueue(redis, f"{OTHER}-x", left_ms=59_000)
    assert [job[0].decode() for job in await scripts.take(2)] == [f"{OTHER}-x"]
    assert not await redis.exists(f"rq:job:{JOB}")


async def test_what_is_no_job_is_passed_over(redis, scripts):
    """An id whose hash is gone or holds no call, or under which something else stands, which is deleted."""
    await redis.rpush(NAMES.queue_key, "gone-1", "bare-1", "list-1")
    await redis.hset("rq:job:bare-1", "deadline_ms", now_ms() + 5_000)
    await redis.rpush("rq:job:list-1", "a list")
    await enqueue(redis, "no dash")
    assert [job[0] for job in await scripts.take(4)] == [b"no dash"]
    assert not await redis.exists("rq:job:list-1")
    assert await redis.zcard(NAMES.wip_key) == 1


@pytest.mark.parametrize("act", ["take", "finish", "renew"])
async def test_the_in_flight_key_of_a_newer_check_is_left_alone(redis, scripts, act):
    """The peer is checked again under another id by now; and what is no text is nobody's."""
    await enqueue(redis)
    if act != "take":
        await scripts.take(1)
    for newer in (f"{PEER}-newer", ["a list"]):
        await redis.delete(INFLIGHT)
        await (redis.set(INFLIGHT, newer) if isinstance(newer, str) else redis.rpush(INFLIGHT, *newer))
        await redis.pexpire(INFLIGHT, 500)
        if act == "take":
            await redis.rpush(NAMES.queue_key, JOB)
            await scripts.take(9)
        elif act == "finish":
            await scripts.finish([Finished(JOB, b"answer", 0)])
        else:
            await scripts.renew(1.0, {JOB: ""})
        assert 0 < await redis.pttl(INFLIGHT) <= 500


async def test_an_answer_is_told_and_kept_for_a_while_and_its_job_is_gone(redis, scripts):
    """A verdict that must not be used again is told alone. RQ counts both."""
    await enqueue(redis)
    await enqueue(redis, f"{OTHER}-x")
    await scripts.take(2)
    await scripts.finish([Finished(JOB, b"one", 5_000), Finished(f"{OTHER}-x", b"two", 0)])
    assert [fields for _, fields in await redis.xrange(keys.REPLIES)] == [{b"answer": b"one"}, {b"answer": b"two"}]
    assert 86_000 < await redis.ttl(keys.REPLIES) <= 86_400
    assert await redis.get(VERDICT) == b"one"
    assert 4_000 < await redis.pttl(VERDICT) <= 5_000
    assert await redis.hget(NAMES.key, "successful_job_count") == b"2"
    left = {keys.REPLIES.encode(), VERDICT.encode(), NAMES.key.encode()}
    assert set(await redis.keys()) == left


async def test_what_is_no_check_is_dropped_whole(redis, scripts):
    await enqueue(redis)
    await enqueue(redis, f"{OTHER}-x")
    await scripts.take(2)
    await scripts.drop([JOB.encode()])
    assert not await redis.exists(f"rq:job:{JOB}", f"rq:executions:{JOB}")
    ((started),) = await redis.zrange(NAMES.wip_key, 0, -1)
    assert started.startswith(OTHER.encode())
    assert await redis.keys("rq:execution:*") == [b"rq:execution:" + started]


async def test_a_check_that_is_handed_back_is_the_next_one(redis, scripts):
    """It waits as if it had never been taken; one that is over by now, or no job any more, is not queued again."""
    for job_id in (JOB, f"{OTHER}-x", f"{peer_id(3)}-x"):
        await enqueue(redis, job_id)
    await scripts.take(3)
    await redis.delete(f"rq:job:{OTHER}-x")
    await redis.rpush(f"rq:job:{OTHER}-x", "a list")
    await scripts.hand_back([f"{peer_id(3)}-x"])
    await scripts.hand_back([JOB, f"{OTHER}-x", "gone-1"])
    assert await redis.lrange(NAMES.queue_key, 0, -1) == [JOB.encode(), f"{peer_id(3)}-x".encode()]
    assert await redis.hmget(f"rq:job:{JOB}", "status", "worker_name") == [b"queued", b""]
    assert not await redis.exists(NAMES.wip_key, f"rq:executions:{JOB}")
    assert await redis.keys("rq:execution:*") == []


async def test_a_lease_lasts_as_long_as_is_asked_and_the_vantage_point_is_known_by_its_longest(redis, scripts):
    """Those that ended a minute ago are forgotten, of workers and of vantage points."""
    names = (keys.workers("here"), keys.VANTAGES)
    for key in names:
        await redis.zadd(key, {"long over": now_ms() - 61_000, "just over": now_ms() - 58_000})
    before = now_ms()
    await scripts.renew(10.0, {})
    await scripts.renew(3.0, {})
    (lease,) = [score for name, score in await redis.zrange(names[0], 0, -1, withscores=True) if name == b"worker"]
    assert before + 3_000 <= lease <= now_ms() + 3_000
    assert before + 10_000 <= await redis.zscore(keys.VANTAGES, "here") <= now_ms() + 10_000
    await scripts.renew(0, {})
    assert await redis.zrange(names[0], 0, -1) == [b"just over"]
    assert await redis.zrange(names[1], 0, -1) == [b"just over", b"here"]


async def test_checks_in_flight_are_renewed_and_tell_their_stage(redis, scripts):
    """For as long as a start counts; a job that is over is not started again, and a stage is no job."""
    await enqueue(redis)
    await scripts.take(1)
    ((started, _),) = await redis.zrange(NAMES.wip_key, 0, -1, withscores=True)
    await redis.zadd(NAMES.wip_key, {started: 1})
    await redis.pexpire(INFLIGHT, 500)
    await redis.rpush("rq:job:list-1", "a list")
    before = time.time()
    await scripts.renew(1.0, {JOB: "dial", "gone-1": "dial", "list-1": "dial"})
    ((renewed, until),) = await redis.zrange(NAMES.wip_key, 0, -1, withscores=True)
    assert renewed == started
    assert int(before) + RENEWAL <= until <= time.time() + RENEWAL
    assert RENEWAL * 1000 - 1000 < await redis.pttl(INFLIGHT) <= RENEWAL * 1000
    await scripts.renew(1.0, {JOB: ""})
    assert await redis.hget(f"rq:job:{JOB}", "stage") == b"dial"
    assert not await redis.exists("rq:job:gone-1")


@pytest.mark.parametrize(
    ("ago_ms", "seconds"), [(1_500, 1.5), (0, 0.0), (-5_000, 0.0), (86_500_000, 0.0), (86_000_000, 86_000.0)]
)
async def test_a_renewal_tells_how_long_the_queue_is_and_how_long_its_first_check_waits(
    redis, scripts, ago_ms, seconds
):
    """A time that no api wrote counts as none."""
    await enqueue(redis, asked_ms=now_ms() - ago_ms)
    await enqueue(redis, f"{OTHER}-x")
    waiting, waited = await scripts.renew(1.0, {})
    assert waiting == 2
    assert seconds <= waited < seconds + 1


@pytest.mark.parametrize("first", [None, "gone-1", "list-1", "junk-1"])
async def test_a_queue_without_a_readable_first_check_waits_for_no_time(redis, scripts, first):
    await redis.rpush("rq:job:list-1", "a list")
    await redis.hset("rq:job:junk-1", "asked_ms", "junk")
    if first:
        await redis.rpush(NAMES.queue_key, first)
    assert await scripts.renew(1.0, {}) == (int(first is not None), 0.0)


async def test_checks_of_a_worker_that_is_lost_are_deleted_and_counted(redis, scripts):
    """Those whose renewal is due, and no other."""
    for job_id in (JOB, f"{OTHER}-x"):
        await enqueue(redis, job_id)
    await scripts.take(2)
    lost, kept = sorted(await redis.zrange(NAMES.wip_key, 0, -1), key=lambda each: not each.startswith(JOB.encode()))
    await redis.zadd(NAMES.wip_key, {lost: time.time() - 1, "without a colon": 1})
    await redis.hset("rq:job:without a colon", "data", "call")
    assert await scripts.reconcile() == 2
    assert await redis.zrange(NAMES.wip_key, 0, -1) == [kept]
    assert sorted(await redis.keys("rq:job:*")) == [f"rq:job:{OTHER}-x".encode()]
    assert not await redis.exists(b"rq:execution:" + lost, f"rq:executions:{JOB}")
    assert await scripts.reconcile() == 0
