"""What becomes of a check: answered, joined, begun or refused, decided by one script for all processes."""

import asyncio
import json
import time
import zlib
from contextlib import contextmanager

import pytest
from redis.exceptions import RedisError

from api.checks import admission
from api.checks.admission import Admissions, Check, NoVerdictError
from shared import tracing
from shared.inference import InferenceOutcome, InferenceRequest, ServerInference
from shared.reachability import CHECK_FUNCTION, RENEWAL, Answer, address_subject, encode_answer, queue_name
from shared.store import keys
from shared.tasks import end
from tests.fakes import REACHED, REFUSED, peer_id, refused

PEER = peer_id(1)
QUEUE = f"rq:queue:{queue_name('here')}"
INFLIGHT = keys.inflight("here", PEER)
MOST = 3
"""Checks that may wait."""


def check(peer=PEER, *, seconds=9.0, **more):
    options = {"vantage": "here", "fresh": False, "request_id": "asked-by", **more}
    return Check(peer_id=peer, deadline=time.monotonic() + seconds, **options)


@pytest.fixture
async def admissions(redis):
    made = Admissions(redis, max_queued=MOST)
    running = asyncio.create_task(made.run())
    yield made
    await end(running)


@pytest.fixture
async def worker(redis):
    """One that lives for a minute yet."""
    await redis.zadd(keys.workers("here"), {"worker": int(time.time() * 1000) + 60_000})


@pytest.fixture
async def verdict(redis):
    answer = Answer(PEER, "here", 1.0, REACHED)
    await redis.set(keys.verdict("here", PEER), encode_answer(answer), px=60_000)
    return answer


async def test_without_a_worker_nobody_could_probe(redis, admissions):
    """Neither where there never was one, nor where its lease is over."""
    await redis.zadd(keys.workers("elsewhere"), {"worker": int(time.time() * 1000) + 60_000})
    with pytest.raises(NoVerdictError, match="no worker"):
        await admissions.admit(check())
    await redis.zadd(keys.workers("here"), {"worker": int(time.time() * 1000) - 1})
    with pytest.raises(NoVerdictError, match="no worker"):
        await admissions.admit(check())
    assert not await redis.exists(QUEUE, INFLIGHT)


async def test_one_worker_among_dead_ones_is_enough(redis, admissions, worker):
    await redis.zadd(keys.workers("here"), {"dead": 1})
    assert (await admissions.admit(check())).began


@pytest.mark.usefixtures("worker")
async def test_a_first_question_begins_a_check_that_rq_can_run(redis, admissions):
    """A job that RQ knows, with its deadline by Redis's clock, which ends by itself when nobody can wait for it."""
    before = time.time()
    admitted = await admissions.admit(check(seconds=5.0, request_id="caller-1"))
    assert (admitted.answer, admitted.began) == (None, True)
    assert admitted.job_id.startswith(f"{PEER}-")
    assert await redis.lrange(QUEUE, 0, -1) == [admitted.job_id.encode()]
    assert await redis.smembers("rq:queues") == {QUEUE.encode()}
    assert await redis.get(INFLIGHT) == admitted.job_id.encode()
    assert RENEWAL * 1000 - 1000 < await redis.pttl(INFLIGHT) <= RENEWAL * 1000

    job = {name.decode(): value for name, value in (await redis.hgetall(f"rq:job:{admitted.job_id}")).items()}
    assert (job["status"], job["origin"]) == (b"queued", queue_name("here").encode())
    assert (job["request_id"], job["description"]) == (b"caller-1", f"check {PEER}".encode())
    assert (job["timeout"], job["result_ttl"], job["failure_ttl"]) == (b"5", b"0", b"60")
    assert int(before * 1000) <= int(job["asked_ms"]) <= time.time() * 1000
    assert 4_000 < int(job["deadline_ms"]) - int(job["asked_ms"]) <= 5_000
    assert 6_000 < await redis.pttl(f"rq:job:{admitted.job_id}") <= 7_000


@pytest.mark.usefixtures("worker")
async def test_a_question_without_time_left_has_a_millisecond(redis, admissions):
    """Redis takes no end in the past."""
    admitted = await admissions.admit(check(seconds=-5.0))
    job = await redis.hmget(f"rq:job:{admitted.job_id}", "asked_ms", "deadline_ms", "timeout")
    assert int(job[1]) - int(job[0]) == 1
    assert job[2] == b"1"


async def test_a_recent_verdict_answers(redis, admissions, verdict):
    """Even where no worker lives: somebody probed."""
    assert await admissions.admit(check()) == (verdict, "", False)
    assert not await redis.exists(QUEUE, INFLIGHT)


@pytest.mark.usefixtures("worker", "verdict")
async def test_a_verdict_without_an_end_is_nobodys(redis, admissions):
    """No worker wrote it, and it would be told for ever."""
    await redis.persist(keys.verdict("here", PEER))
    assert (await admissions.admit(check())).began


@pytest.mark.usefixtures("worker", "verdict")
async def test_whoever_wants_a_fresh_check_gets_no_old_verdict(admissions):
    admitted = await admissions.admit(check(fresh=True))
    assert (admitted.answer, admitted.began) == (None, True)


@pytest.mark.usefixtures("worker")
async def test_a_check_that_waits_is_joined_and_kept(redis, admissions):
    """And one job serves both: the in-flight key lives on, for as long as somebody asks."""
    first = await admissions.admit(check())
    await redis.pexpire(INFLIGHT, 500)
    second = await admissions.admit(check())
    assert (second.job_id, second.began, second.answer) == (first.job_id, False, None)
    assert await redis.pttl(INFLIGHT) > RENEWAL * 1000 - 1000
    assert await redis.get(INFLIGHT) == first.job_id.encode()
    assert await redis.llen(QUEUE) == 1


@pytest.mark.usefixtures("worker")
async def test_other_peers_and_vantages_have_checks_of_their_own(redis, admissions):
    await redis.zadd(keys.workers("there"), {"worker": int(time.time() * 1000) + 60_000})
    ids = {(await admissions.admit(each)).job_id for each in (check(), check(peer_id(2)), check(vantage="there"))}
    assert len(ids) == 3
    assert await redis.llen(f"rq:queue:{queue_name('there')}") == 1


@pytest.mark.usefixtures("worker")
async def test_a_started_check_is_joined_while_its_worker_renews_it(redis, admissions):
    """The worker keeps the in-flight key alive, not those who join."""
    first = await admissions.admit(check())
    await redis.hset(f"rq:job:{first.job_id}", "status", "started")
    await redis.lpop(QUEUE)
    await redis.pexpire(INFLIGHT, 900)
    joined = await admissions.admit(check())
    assert (joined.job_id, joined.began) == (first.job_id, False)
    assert await redis.pttl(INFLIGHT) <= 900


@pytest.mark.usefixtures("worker")
async def test_a_started_check_that_nobody_renews_lost_its_worker(redis, admissions):
    """Whoever waits for it asks again with its id, and gets a new check."""
    first = await admissions.admit(check())
    await redis.hset(f"rq:job:{first.job_id}", "status", "started")
    await redis.delete(INFLIGHT)
    again = await admissions.admit(check(job_id=first.job_id))
    assert again.began
    assert again.job_id != first.job_id
    assert await redis.get(INFLIGHT) == again.job_id.encode()


@pytest.mark.usefixtures("worker")
async def test_a_check_that_still_waits_is_found_by_who_began_it(redis, admissions):
    """Its in-flight key may be over while the queue is long: it is not begun twice."""
    first = await admissions.admit(check())
    await redis.delete(INFLIGHT)
    again = await admissions.admit(check(job_id=first.job_id))
    assert (again.job_id, again.began) == (first.job_id, False)
    assert await redis.get(INFLIGHT) == first.job_id.encode()
    assert 0 < await redis.pttl(INFLIGHT) <= RENEWAL * 1000
    assert await redis.llen(QUEUE) == 1


@pytest.mark.usefixtures("worker")
async def test_the_check_under_way_goes_before_the_one_that_the_caller_remembers(redis, admissions):
    old = await admissions.admit(check())
    await redis.set(INFLIGHT, f"{PEER}-newer")
    await redis.hset(f"rq:job:{PEER}-newer", "status", "queued")
    assert (await admissions.admit(check(job_id=old.job_id))).job_id == f"{PEER}-newer"


@pytest.mark.usefixtures("worker")
async def test_a_check_whose_job_is_gone_is_begun_anew(redis, admissions):
    """Its hash ended with its deadline; nothing would ever answer."""
    first = await admissions.admit(check())
    await redis.delete(f"rq:job:{first.job_id}")
    assert (await admissions.admit(check())).began


@pytest.mark.usefixtures("worker")
async def test_a_full_queue_refuses_what_is_new_and_lets_others_join(redis, admissions):
    """At most so many wait; a refusal leaves nothing behind."""
    for number in range(MOST):
        assert (await admissions.admit(check(peer_id(number)))).began
    with pytest.raises(NoVerdictError, match="too many"):
        await admissions.admit(check(peer_id(99)))
    assert not await redis.exists(keys.inflight("here", peer_id(99)))
    assert await redis.llen(QUEUE) == MOST
    assert not (await admissions.admit(check())).began


@pytest.mark.usefixtures("worker")
async def test_a_redis_that_forgot_the_script_is_told_again(redis, admissions):
    """It does after a restart."""
    await admissions.admit(check())
    await redis.script_flush()
    assert (await admissions.admit(check(peer_id(2)))).began


@pytest.mark.usefixtures("worker")
async def test_many_at_once_are_all_decided_and_one_begins(redis, admissions, monkeypatch):
    """More than go in one pipeline, about one peer."""
    monkeypatch.setattr(admission, "ADMITTED_AT_ONCE", 5)
    asked = [admissions.admit(check()) for _ in range(11)]
    decided = await asyncio.gather(*asked)
    assert sum(each.began for each in decided) == 1
    assert len({each.job_id for each in decided}) == 1
    assert await redis.llen(QUEUE) == 1


@pytest.mark.usefixtures("worker")
async def test_who_gave_up_costs_nobody_else_an_answer(redis, admissions, monkeypatch):
    """Whoever hung up before its check was sent, alone or among others, or while Redis decided on it."""
    async with asyncio.timeout(5):
        for others in (0, 1):
            gone = asyncio.create_task(admissions.admit(check(peer_id(2))))
            staying = [asyncio.create_task(admissions.admit(check(peer_id(3 + number)))) for number in range(others)]
            await asyncio.sleep(0)
            gone.cancel()
            assert all(each.began for each in await asyncio.gather(*staying))
        working = redis.pipeline

        def hang_up(*arguments, **options):
            gone.cancel()
            return working(*arguments, **options)

        monkeypatch.setattr(redis, "pipeline", hang_up)
        gone, staying = (asyncio.create_task(admissions.admit(check(peer_id(number)))) for number in (5, 6))
        assert (await staying).began
        assert gone.cancelled()


@pytest.mark.usefixtures("worker")
async def test_a_failing_redis_is_told_to_each_caller_and_the_next_ones_are_answered(redis, admissions, monkeypatch):
    """Neither an outage nor a fault of this program ends the task."""
    await admissions.admit(check())
    working = redis.pipeline

    def broken(*_, **__):
        raise RedisError("away")

    monkeypatch.setattr(redis, "pipeline", broken)
    failed = await asyncio.gather(*(admissions.admit(check()) for _ in range(3)), return_exceptions=True)
    assert [str(error) for error in failed] == ["away"] * 3
    monkeypatch.setattr(redis, "pipeline", working)
    with pytest.raises(TypeError):
        await admissions.admit(check(inference=object()))  # nothing that a job can hold
    assert (await admissions.admit(check(peer_id(2)))).began


@pytest.mark.usefixtures("worker")
async def test_an_error_of_one_question_is_that_questions_alone(redis, admissions):
    """Something that is no list of workers stands under the key of one vantage."""
    await redis.set(keys.workers("there"), "no workers")
    bad, good = await asyncio.gather(
        admissions.admit(check(vantage="there")), admissions.admit(check()), return_exceptions=True
    )
    assert isinstance(bad, RedisError)
    assert good.began


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("key", [keys.verdict("here", PEER), INFLIGHT])
async def test_what_is_no_text_is_passed_over(redis, admissions, key):
    """A verdict or a check that something else stands for is none."""
    await redis.rpush(key, "a list")
    assert (await admissions.admit(check())).began


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("named", [f"{peer_id(2)}-abc", f"{PEER}-a:b", "x", ""])
async def test_a_check_that_is_not_this_peers_is_never_joined(redis, admissions, named):
    """Somebody else wrote it there."""
    await redis.set(INFLIGHT, named)
    await redis.hset(f"rq:job:{named}", "status", "queued")
    assert (await admissions.admit(check())).began


@pytest.mark.usefixtures("worker")
async def test_an_admission_is_a_span_with_its_queue_and_what_became_of_it(redis, admissions, monkeypatch, verdict):
    """Where traces are on, the check goes on with the trace of its check."""
    spans = []

    class Recorded:
        traceparent = "the trace"

        def set(self, attributes):
            spans[-1][2].update(attributes)

    @contextmanager
    def span(name, kind, *, attributes):
        spans.append((name, kind, dict(attributes)))
        yield Recorded()

    monkeypatch.setattr(tracing, "span", span)
    asked = check(fresh=True)
    admitted = await admissions.admit(asked)
    assert await redis.hget(f"rq:job:{admitted.job_id}", "traceparent") == b"the trace"
    await admissions.admit(check())
    sent = {
        "messaging.system": "rq",
        "messaging.operation.type": "send",
        "messaging.operation.name": "admit",
        "messaging.destination.name": queue_name("here"),
    }
    began = {"petals.admission": "began", "messaging.message.id": admitted.job_id}
    assert spans == [
        (f"admit {queue_name('here')}", tracing.Kind.PRODUCER, sent | began),
        (f"admit {queue_name('here')}", tracing.Kind.PRODUCER, sent | {"petals.admission": "reused"}),
    ]


ASKED = InferenceRequest("demo-model", 0, 4)
COMPUTED = ServerInference(InferenceOutcome.COMPUTED, (0, 4), 1.0)
GIVEN = f"/ip4/192.0.2.1/tcp/1/p2p/{PEER}"


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize(
    ("asked", "answer", "answers"),
    [
        ({}, Answer(PEER, "here", 1.0, REACHED), True),
        ({}, Answer(peer_id(2), "here", 1.0, REACHED), False),
        ({}, Answer(PEER, "there", 1.0, REACHED), False),
        ({"inference": ASKED}, Answer(PEER, "here", 1.0, REACHED, inference=COMPUTED), True),
        ({"inference": ASKED}, Answer(PEER, "here", 1.0, REACHED), False),
        ({"inference": ASKED}, Answer(PEER, "here", 1.0, REFUSED), True),
        ({"peer": "", "address": GIVEN}, Answer("", "here", 1.0, REACHED, address=GIVEN), True),
        ({"peer": "", "address": GIVEN}, Answer("", "here", 1.0, REACHED, address="/ip4/192.0.2.2/tcp/1"), False),
        ({}, None, False),
    ],
)
async def test_a_verdict_answers_who_asked_for_it_or_is_looked_at_anew(redis, admissions, asked, answer, answers):
    """It is about the same peer or address, from the same place, and a peer that was reached has computed if asked."""
    asked = check(**asked)
    before = refused("verdict")
    packed = encode_answer(answer) if answer else b"junk"
    await redis.set(keys.verdict("here", asked.subject), packed, px=60_000)
    admitted = await admissions.admit(asked)
    expected = (answer, False, False) if answers else (None, True, True)
    assert (admitted.answer, admitted.began, asked.ignores_verdict) == expected
    assert refused("verdict") - before == (not answers)


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize(
    ("asked", "subject", "about"),
    [
        ({}, PEER, [PEER]),
        ({"inference": ASKED}, f"{PEER}-inference", [PEER, {"dht_prefix": "demo-model", "start": 0, "end": 4}]),
        ({"peer": "", "address": GIVEN}, address_subject(GIVEN), [GIVEN]),
    ],
)
async def test_a_job_says_what_is_asked_of_the_worker(redis, admissions, asked, subject, about):
    """Its id tells the subject, under whose name the check is joined; a worker reads the same from both."""
    job_id = (await admissions.admit(check(**asked))).job_id
    packed = await redis.hget(f"rq:job:{job_id}", "data")
    assert json.loads(zlib.decompress(packed)) == [CHECK_FUNCTION, None, about, {}]
    assert job_id.rpartition("-")[0] == subject
    assert await redis.get(keys.inflight("here", subject)) == job_id.encode()
