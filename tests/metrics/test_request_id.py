"""One id from the caller's header to the worker's log line and the reply."""

import asyncio
import json

import httpx
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import LogCapture

from deploy.embedded_redis import free_port
from shared import request_id
from shared.reachability import decode_answer
from shared.store import keys
from tests.api.serving import serve
from tests.fakes import REACHED, FakeProber, peer_id
from tests.metrics.simulated_monitor import worker_on
from tests.reliability.parts import Part, get, until

INSANE = ("", "abc", "x" * 65, "two words", "semi;colon", "új-azonosító", "-leading", '"quoted"')


@pytest.fixture
def logged():
    """What is logged, with what is bound to the context, as `shared.logs` merges it."""
    capture = LogCapture()
    before = structlog.get_config()
    structlog.configure(processors=[structlog.contextvars.merge_contextvars, capture], cache_logger_on_first_use=False)
    yield capture.entries
    structlog.configure(**before)


class Talkative(FakeProber):
    """A prober that logs, as the real one does."""

    async def probe(self, peer, deadline, on_stage):
        structlog.get_logger().info("looking", peer=peer)
        return await super().probe(peer, deadline, on_stage)


async def test_an_id_goes_from_the_header_to_the_workers_log_and_back(redis_url, redis, logged):
    """api → job → worker → reply: whoever asks "what became of my request" finds it under one id."""
    seen = {}

    class Peeking(Talkative):
        async def probe(self, peer, deadline, on_stage):
            async for key in redis.scan_iter("rq:job:*"):
                seen.update(await redis.hgetall(key))
            return await super().probe(peer, deadline, on_stage)

    async with worker_on(redis_url, Peeking(REACHED)), serve(redis_url) as url, httpx.AsyncClient(base_url=url) as http:
        answer = await http.get(f"/api/v1/is_reachable/{peer_id(1)}", headers={"X-Request-ID": "caller-0001"})
        assert answer.status_code == 200
        assert answer.headers["x-request-id"] == "caller-0001"
    assert seen[b"request_id"] == b"caller-0001"
    assert next(entry for entry in logged if entry["event"] == "looking")["request_id"] == "caller-0001"
    ((_, fields),) = await redis.xrange(keys.REPLIES)
    assert decode_answer(fields[b"answer"]).request_id == "caller-0001"


async def test_parallel_requests_keep_their_ids_apart(redis_url, logged):
    """Tasks have contexts of their own: no id leaks into another request's lines."""
    prober = Talkative(REACHED, delay=0.2)
    async with worker_on(redis_url, prober), serve(redis_url) as url, httpx.AsyncClient(base_url=url) as http:
        await asyncio.gather(
            *(http.get(f"/api/v1/is_reachable/{peer_id(n)}", headers={"X-Request-ID": f"id-{n}x"}) for n in range(20))
        )
    lines = {entry["peer"]: entry["request_id"] for entry in logged if entry["event"] == "looking"}
    assert lines == {peer_id(n): f"id-{n}x" for n in range(20)}


@pytest.mark.parametrize("given_id", INSANE)
async def test_an_id_that_is_not_sane_is_replaced(redis_url, given_id):
    """Headers are hostile text: nothing odd gets into logs, Redis or the answer."""
    async with serve(redis_url) as url, httpx.AsyncClient(base_url=url) as http:
        answer = await http.get("/livez", headers={"X-Request-ID": given_id.encode()})
    made = answer.headers["x-request-id"]
    assert made != given_id
    assert request_id.sane(made)


@given(st.text())
def test_what_is_sane_can_stand_in_a_header_and_a_log_line(text):
    """Sane means: short, ASCII, and without anything that ends a line, a field or a header."""
    kept = request_id.sane(text)
    assert kept is None or (kept == text and kept.isascii() and kept.isprintable() and 4 <= len(kept) <= 64)


async def test_a_job_with_a_hostile_id_is_checked_without_it(redis_url, redis, logged):
    """What is in Redis is not trusted either."""
    prober = Talkative(REACHED, delay=0.3)
    async with serve(redis_url) as url, httpx.AsyncClient(base_url=url) as http:
        await redis.zadd("reachability:workers:default", {"soon": 1e15})
        await redis.zadd("reachability:vantages", {"default": 1e15})
        asking = asyncio.create_task(http.get(f"/api/v1/is_reachable/{peer_id(1)}"))
        while not (jobs := [key async for key in redis.scan_iter("rq:job:*")]):
            await asyncio.sleep(0.02)
        await redis.hset(jobs[0], "request_id", b"evil\nid \xff")
        async with worker_on(redis_url, prober):
            assert (await asking).status_code == 200
    assert next(entry for entry in logged if entry["event"] == "looking")["request_id"] == ""


@pytest.mark.parametrize(("level", "told"), [("info", False), ("debug", True)])
async def test_no_line_a_request_unless_debugging(redis_url, tmp_path, level, told):
    """An api process answers requests of all kinds in silence; at the level debug, each line bears its request's id."""
    port = free_port()
    api = Part(["api"], tmp_path / "api.log", REDIS_URL=redis_url, API_PORT=str(port), LOG_LEVEL=level)
    try:
        await asyncio.to_thread(until, lambda: get(f"http://127.0.0.1:{port}/readyz")[0] == 200, 20, "the api")
        before = api.log.read_text()
        async with worker_on(redis_url), httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as http:
            for number in range(5):
                headers = {"X-Request-ID": f"request-{number}"}
                answer = await http.get(f"/api/v1/is_reachable/{peer_id(number)}", headers=headers)
                assert answer.status_code == 200
                for path in ("/", "/check", "/metrics", "/nothing", "/api/v1/is_reachable/nonsense"):
                    await http.get(path, headers=headers)
        lines = [json.loads(line) for line in api.log.read_text().removeprefix(before).splitlines()]
    finally:
        api.end()
    asked = [line["request_id"] for line in lines if line["event"] == "check admitted"]
    assert asked == ([f"request-{number}" for number in range(5)] if told else [])
    assert told or lines == []
