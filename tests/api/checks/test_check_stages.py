"""A check tells its stages while it runs, to whoever watches it, in whichever process it was asked for."""

import asyncio

import httpx
import pytest

from api.checks.client import CheckClient
from shared.reachability import Stage
from shared.store import keys
from shared.tasks import Tasks
from tests.api.serving import serve
from tests.fakes import FakeProber, peer_id
from tests.reachability_worker.simulated_worker import worker_on


async def test_a_running_check_tells_the_stages_it_comes_to(redis_url):
    """The stream follows the check that another replica began, and ends with it; it begins none by itself."""
    prober = FakeProber()
    prober.free.clear()
    told = []
    async with (
        worker_on(redis_url, prober),
        serve(redis_url) as url,
        serve(redis_url) as other,
        httpx.AsyncClient(base_url=url, timeout=12) as http,
        httpx.AsyncClient(base_url=other, timeout=12) as watching,
    ):
        assert (await watching.get("/check/nobody/stages")).status_code == 400
        checking = asyncio.create_task(http.get(f"/api/v1/is_reachable/{peer_id(1)}"))
        while not prober.looks:
            await asyncio.sleep(0.02)
        async with watching.stream("GET", f"/check/{peer_id(1)}/stages") as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            async for line in stream.aiter_lines():
                told += [line.removeprefix("data: ")] * line.startswith("data: ")
                if Stage.DIAL in told:
                    prober.free.set()
        assert (await checking).json()["ok"]
    assert told[-1] == Stage.DIAL
    assert set(told) <= {Stage.QUEUE, Stage.LOOKUP, Stage.DIAL}
    assert prober.looks == [peer_id(1)]


@pytest.mark.parametrize(
    ("job", "stage"),
    [
        ({"status": "started", "stage": b"nonsense"}, None),
        ({"status": "started", "stage": b"\xff\xfe"}, None),
        ({"nothing": "of it"}, None),
        ({"status": "queued"}, Stage.QUEUE),
        ({"status": "started"}, Stage.LOOKUP),
        ({"status": "started", "stage": "protocol"}, Stage.PROTOCOL),
    ],
)
async def test_the_stage_of_a_job(redis, job, stage):
    """What others write as a stage is none."""
    await redis.zadd(keys.VANTAGES, {"default": 1e15})
    await redis.set(keys.inflight("default", peer_id(1)), f"{peer_id(1)}-aa", px=5000)
    await redis.hset(f"rq:job:{peer_id(1)}-aa", mapping=job)
    checks = CheckClient(redis, Tasks(), max_queued=1)
    assert await checks.stage(peer_id(1)) is stage
    assert await checks.stage(peer_id(2)) is None
