"""is_reachable through a real uvicorn and a real Redis, with real workers whose prober is simulated."""

import asyncio
import subprocess
import sys
import time

import httpx
import pytest
import redis as sync_redis

from shared.reachability import Answer, Cause, DialOutcome, Stage, encode_answer
from shared.snapshot import Verdict
from shared.store import keys
from shared.tasks import end
from tests.api.serving import serve
from tests.fakes import REACHED, REFUSED, FakeProber, peer_id
from tests.reachability_worker.simulated_worker import worker_on


@pytest.fixture
async def client(redis_url):
    async with serve(redis_url) as url, httpx.AsyncClient(base_url=url, timeout=10) as http:
        yield http


async def ask(client, peer, **query):
    return await client.get(f"/api/v1/is_reachable/{peer}", params=query)


async def test_a_reachable_peer_is_told_what_petals_servers_read(redis_url, client):
    """`success` and `ok` are true and equal, `message` is null, `your_ip` is the caller's; evidence is added."""
    async with worker_on(redis_url, FakeProber()):
        answer = await ask(client, peer_id(1))
    document = answer.json()
    assert answer.status_code == 200
    assert (document["success"], document["ok"], document["message"]) == (True, True, None)
    assert document["your_ip"] == "127.0.0.1"
    assert document["vantages"][0]["stage"] == "answered"
    assert answer.headers["access-control-allow-origin"] == "*"


async def test_the_way_that_worked_is_named(redis_url, client):
    """A relayed server learns through which relay it was reached, and at which address."""
    circuit = f"/ip4/45.1.1.1/tcp/1/p2p/{peer_id(7)}/p2p-circuit"
    outcome = DialOutcome(
        Verdict.REACHABLE, Stage.ANSWERED, addresses=(circuit,), reached_at=circuit, relayed=True, relay=peer_id(7)
    )
    async with worker_on(redis_url, FakeProber(outcome)):
        document = (await ask(client, peer_id(1))).json()
    assert (document["success"], document["relayed"], document["relay"]) == (True, True, peer_id(7))
    assert document["reached_at"] == circuit
    assert document["hints"] == []


async def test_an_unreachable_peer_is_a_200_with_a_reason(redis_url, client):
    """A negative verdict needs somebody who probed."""
    async with worker_on(redis_url, FakeProber(REFUSED)):
        answer = await ask(client, peer_id(1))
    assert answer.status_code == 200
    assert answer.json()["success"] is False
    assert "refused" in answer.json()["message"]


async def test_without_a_worker_nobody_could_probe(client):
    """503 at once, so that servers skip the check; never `success: false`."""
    started = time.monotonic()
    answer = await ask(client, peer_id(1))
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["retry-after"]) > 0
    assert "success" not in answer.json()
    assert time.monotonic() - started < 9, "the deadline is not waited for"


async def test_an_outcome_that_is_unknown_is_a_503(redis_url, client):
    """The worker was there, but could not probe."""
    async with worker_on(redis_url, FakeProber(DialOutcome.unknown(Cause.NODE_UNFIT))):
        answer = await ask(client, peer_id(1))
    assert answer.status_code == 503
    assert "cut off" in answer.json()["detail"]


async def test_a_worker_that_never_answers_is_a_503_before_the_clients_time_is_up(redis_url):
    """One absolute deadline, whatever happens behind it."""
    async with serve(redis_url, reachability_deadline=1.5) as url, httpx.AsyncClient(base_url=url) as http:
        async with worker_on(redis_url, FakeProber(delay=60)):
            started = time.monotonic()
            answer = await ask(http, peer_id(1))
            assert answer.status_code == 503
            assert 1.0 < time.monotonic() - started < 9


@pytest.mark.parametrize("bad", ["Qm", "hello", "Q" * 10_000, "12D3KooW/../etc", "%00", "Qm%20x", "é"])
async def test_a_malformed_id_is_a_400_that_says_why(client, bad):
    """Problem documents, never a 500, and no worker is bothered."""
    answer = await client.get(f"/api/v1/is_reachable/{bad}")
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith("Bad peer id")


async def test_a_verdict_that_cannot_be_read_spoils_one_check_alone(redis_url, redis):
    """Another version's, or poison: whoever asks after a caller who gave up gets the verdict that is there by then."""
    entry = keys.verdict("default", peer_id(1))
    async with (
        serve(redis_url, reachability_deadline=2.0) as url,
        httpx.AsyncClient(base_url=url) as http,
        worker_on(redis_url, FakeProber(delay=60)),
    ):
        await redis.set(entry, "poison", px=60_000)
        with pytest.raises(httpx.ReadTimeout):
            await http.get(f"/api/v1/is_reachable/{peer_id(1)}", timeout=0.5)
        while serve.services.checks.waiting:
            await asyncio.sleep(0.01)
        await redis.set(entry, encode_answer(Answer(peer_id(1), "default", time.time(), REACHED)), px=60_000)
        assert (await ask(http, peer_id(1))).status_code == 200


async def test_no_id_is_a_400_too(client):
    """Both spellings of nothing."""
    for path in ("/api/v1/is_reachable/", "/api/v1/is_reachable"):
        assert (await client.get(path)).status_code == 400


async def test_many_callers_about_one_peer_share_one_probe(redis_url):
    """In one process and across replicas."""
    prober = FakeProber(delay=0.3)
    async with serve(redis_url) as one, serve(redis_url) as two, worker_on(redis_url, prober):
        async with httpx.AsyncClient(timeout=10, limits=httpx.Limits(max_connections=200)) as http:
            answers = await asyncio.gather(
                *(http.get(f"{base}/api/v1/is_reachable/{peer_id(n % 3)}") for n in range(60) for base in (one, two))
            )
    assert {answer.status_code for answer in answers} == {200}
    assert sorted(prober.looks) == sorted(peer_id(n) for n in range(3))


async def test_a_fresh_check_probes_again_and_others_reuse(redis_url, client):
    """A verdict answers for some seconds; `?fresh=1` from a trusted network does not take an old one."""
    prober = FakeProber()
    async with worker_on(redis_url, prober):
        for _ in range(3):
            await ask(client, peer_id(1))
        assert len(prober.looks) == 1
        prober.outcome = REFUSED
        assert (await ask(client, peer_id(1), fresh="1")).json()["success"] is False
        assert len(prober.looks) == 2


async def test_two_vantage_points_decide_by_the_quorum_rule(redis_url, client):
    """Reachable if anyone reached it; the disagreement is shown; one can be asked alone."""
    async with (
        worker_on(redis_url, FakeProber(REFUSED), vantage="east"),
        worker_on(redis_url, FakeProber(REACHED), vantage="west"),
    ):
        both = (await ask(client, peer_id(1))).json()
        east = (await ask(client, peer_id(1), vantage="east")).json()
        nowhere = await ask(client, peer_id(1), vantage="north")
    assert (both["success"], both["disagreement"], both["vantage"]) == (True, True, "west")
    assert {item["vantage"]: item["verdict"] for item in both["vantages"]} == {
        "east": "unreachable",
        "west": "reachable",
    }
    assert east["success"] is False
    assert nowhere.status_code == 503


async def test_a_client_that_hangs_up_frees_its_place(redis_url):
    """Nothing goes on for it in this process."""
    async with serve(redis_url) as url, worker_on(redis_url, FakeProber(delay=60)):
        async with httpx.AsyncClient() as http:
            with pytest.raises(httpx.ReadTimeout):
                await http.get(f"{url}/api/v1/is_reachable/{peer_id(1)}", timeout=0.5)
        checks = serve.services.checks
        async with asyncio.timeout(20):
            while checks.waiting:
                await asyncio.sleep(0.05)


async def test_a_full_queue_refuses_at_once(redis_url, redis):
    """Bounded: a check that cannot run in time is refused, with Retry-After."""
    prober = FakeProber()
    prober.free.clear()
    async with serve(redis_url, max_queued_checks=2) as url, worker_on(redis_url, prober, checks_at_once=1):
        async with httpx.AsyncClient(base_url=url) as http:
            waiting = [asyncio.create_task(ask(http, peer_id(0)))]
            while not prober.looking:
                await asyncio.sleep(0.02)
            waiting += [asyncio.create_task(ask(http, peer_id(n))) for n in (1, 2)]
            while await redis.llen("rq:queue:reachability-default") < 2:
                await asyncio.sleep(0.02)
            refused = await ask(http, peer_id(9))
            assert refused.status_code == 503
            assert "waiting" in refused.json()["detail"]
            await end(*waiting)


async def test_too_many_requests_are_a_429_counted_across_replicas(redis_url):
    """With RateLimit headers; strangers only."""
    options = {"rate_limit": 4, "trusted_networks": []}
    async with serve(redis_url, **options) as one, serve(redis_url, **options) as two:
        async with worker_on(redis_url, FakeProber()), httpx.AsyncClient() as http:
            urls = [f"{base}/api/v1/is_reachable/{peer_id(1)}" for base in (one, two)]
            codes = [(await http.get(urls[n % 2])).status_code for n in range(6)]
            last = await http.get(urls[0])
            fresh = await http.get(urls[0], params={"fresh": "1"})
    assert codes == [200, 200, 200, 200, 429, 429]
    assert last.headers["ratelimit"].startswith('"default";r=0;t=')
    assert int(last.headers["retry-after"]) <= 60
    assert fresh.status_code in (403, 429)


async def test_checks_of_a_killed_worker_move_to_another(redis_url):
    """kill -9 with checks in flight: every caller gets its verdict in time, and nothing is left behind."""
    connection = sync_redis.Redis.from_url(redis_url)
    doomed = subprocess.Popen([sys.executable, "-m", "tests.reachability_worker.simulated_worker", redis_url, "60"])
    try:
        while not connection.zcard(keys.workers("default")):
            await asyncio.sleep(0.05)
        async with serve(redis_url) as url, httpx.AsyncClient(base_url=url, timeout=10) as http:
            asking = [asyncio.create_task(ask(http, peer_id(n))) for n in range(30)]
            while connection.zcard("rq:wip:reachability-default") < 30:
                await asyncio.sleep(0.02)
            doomed.kill()
            async with worker_on(redis_url, FakeProber()):
                answers = await asyncio.gather(*asking)
                assert {answer.json().get("success") for answer in answers} == {True}
                deadline = time.monotonic() + 10
                while connection.zcard("rq:wip:reachability-default") or connection.keys("rq:execution*"):
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.2)
    finally:
        doomed.kill()
        doomed.wait()
        connection.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # redis-py drops a dead server's socket
async def test_redis_going_away_is_a_503_and_heals(redis_server):
    """The answer is that nobody could probe; when Redis is back, answers are too."""
    async with serve(redis_server.url) as url, httpx.AsyncClient(base_url=url, timeout=10) as http:
        async with worker_on(redis_server.url, FakeProber()):
            assert (await ask(http, peer_id(1))).status_code == 200
            redis_server.kill()
            assert (await ask(http, peer_id(2))).status_code == 503
            redis_server.start()
            deadline = time.monotonic() + 10
            while (await ask(http, peer_id(3))).status_code != 200:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.2)
