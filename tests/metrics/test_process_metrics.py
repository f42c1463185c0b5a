"""What each process says of itself on its private port."""

import asyncio
import time

import httpx
import pytest
from prometheus_client import CollectorRegistry

from crawler.metrics import CrawlerMetrics
from crawler.settings import CrawlerSettings
from deploy.embedded_redis import free_port
from reachability_worker.metrics import WorkerMetrics
from shared.store.connection import connect
from shared.tasks import end
from tests.api.serving import serve
from tests.fakes import FakeProber, peer_id, snapshot
from tests.metrics.simulated_monitor import REACHED, REFUSED, crawled, worker_on

IS_REACHABLE = "/api/v1/is_reachable/{peer_id:path}"


def read(registry: CollectorRegistry, name, **labels):
    return registry.get_sample_value(name, labels)


async def eventually(condition, within=15.0):
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def test_the_api_counts_requests_by_route_and_the_lag_of_replies(redis_url):
    """Routes, not paths: no client can add series. Prepared responses are counted apart."""
    async with worker_on(redis_url), serve(redis_url) as url, httpx.AsyncClient(base_url=url) as client:
        registry = serve.services.metrics.registry
        for number in range(3):
            assert (await client.get(f"/api/v1/is_reachable/{peer_id(number)}")).status_code == 200
        await client.get("/api/v1/is_reachable/nonsense")
        await client.get("/no/such/page")
        await client.get("/metrics")
        await eventually(lambda: read(registry, "petals_api_requests_in_flight") == 0)
        await eventually(lambda: read(registry, "petals_api_redis_connected") == 1)
    assert read(registry, "petals_api_requests_total", route=IS_REACHABLE, status="200") == 3
    assert read(registry, "petals_api_requests_total", route=IS_REACHABLE, status="400") == 1
    assert read(registry, "petals_api_requests_total", route="(none)", status="404") == 1
    assert read(registry, "petals_api_request_duration_seconds_count", route=IS_REACHABLE) == 4
    assert read(registry, "petals_api_cached_responses_total", path="/metrics") == 1
    assert read(registry, "petals_api_reply_lag_seconds_count") == 3
    assert 0 <= read(registry, "petals_api_reply_lag_seconds_sum") < 3 * 9  # seconds that passed, not an instant


async def test_callers_that_wait_and_checks_in_flight_are_seen(redis_url):
    """While a probe lasts, the api shows its caller and the worker its check."""
    metrics, prober = WorkerMetrics(), FakeProber(REACHED)
    prober.free.clear()
    async with worker_on(redis_url, prober, metrics), serve(redis_url) as url:
        registry = serve.services.metrics.registry
        async with httpx.AsyncClient(base_url=url, timeout=12) as client:
            asking = asyncio.create_task(client.get(f"/api/v1/is_reachable/{peer_id(1)}"))
            await eventually(lambda: read(metrics.registry, "petals_worker_checks_in_flight") == 1)
            assert read(registry, "petals_api_checks_waiting") == 1
            assert read(registry, "petals_api_requests_in_flight") == 1
            prober.free.set()
            await asking


async def test_a_worker_tells_outcomes_stages_and_how_long_they_took(redis_url):
    """By vantage point, verdict, stage and cause; all from closed sets."""
    metrics, prober = WorkerMetrics("eu"), FakeProber(REACHED)
    prober.outcomes[peer_id(2)] = REFUSED, 0.0
    async with worker_on(redis_url, prober, metrics, vantage="eu"), serve(redis_url) as url:
        async with httpx.AsyncClient(base_url=url) as client:
            for number in (1, 2):
                await client.get(f"/api/v1/is_reachable/{peer_id(number)}")
        await eventually(lambda: read(metrics.registry, "petals_worker_looking", vantage="eu") == 1)
    good = {"vantage": "eu", "verdict": "reachable", "stage": "answered", "cause": "none"}
    bad = {"vantage": "eu", "verdict": "unreachable", "stage": "dial", "cause": "refused"}
    assert read(metrics.registry, "petals_worker_checks_total", **good) == 1
    assert read(metrics.registry, "petals_worker_checks_total", **bad) == 1
    assert read(metrics.registry, "petals_worker_check_duration_seconds_count", verdict="reachable") == 1
    assert read(metrics.registry, "petals_worker_stage_duration_seconds_count", stage="lookup") == 2
    assert read(metrics.registry, "petals_worker_stage_duration_seconds_count", stage="protocol") == 1


async def test_a_queue_that_nobody_empties_has_a_depth_and_an_age(redis_url, redis):
    """What waits, and for how long the first of it has, also while the worker itself cannot probe."""
    metrics, prober = WorkerMetrics(), FakeProber(REACHED)
    async with worker_on(redis_url, prober, metrics), serve(redis_url) as url:
        async with httpx.AsyncClient(base_url=url, timeout=30) as client:
            assert (await client.get(f"/api/v1/is_reachable/{peer_id(0)}")).status_code == 200
            await redis.set("rq:suspended", 1)  # `rq suspend`
            lease = "reachability:workers:default"
            await eventually(lambda: read(metrics.registry, "petals_worker_looking", vantage="default") == 0)
            await redis.zadd(lease, {"another": 1e15})
            await redis.zadd("reachability:vantages", {"default": 1e15})
            asking = [asyncio.create_task(client.get(f"/api/v1/is_reachable/{peer_id(n)}")) for n in (1, 2)]
            await eventually(lambda: read(metrics.registry, "petals_worker_queue_checks", vantage="default") == 2)
            age = "petals_worker_queue_oldest_age_seconds"
            await eventually(lambda: read(metrics.registry, age, vantage="default") > 1)
            await redis.delete("rq:suspended")
            await asyncio.gather(*asking)  # on a busy machine their time may be over by now
            await eventually(lambda: read(metrics.registry, age, vantage="default") == 0)
            assert (await client.get(f"/api/v1/is_reachable/{peer_id(3)}")).status_code == 200


async def test_the_crawler_measures_phases_lookups_and_dials(redis_url):
    """Each crawl adds to them; Redis's memory is followed beside."""
    metrics = CrawlerMetrics()
    crawled(metrics, snapshot())
    assert read(metrics.registry, "petals_crawler_phase_duration_seconds_sum", phase="look_up") == pytest.approx(1.0)
    assert read(metrics.registry, "petals_crawler_lookups_total", outcome="unanswered") == 2
    dials = {"verdict": "reachable", "stage": "answered", "cause": "none"}
    assert read(metrics.registry, "petals_crawler_dials_total", **dials) == 1
    assert read(metrics.registry, "petals_crawler_crawls_total", outcome="ok") == 1
    assert read(metrics.registry, "petals_crawler_last_success_timestamp_seconds") > time.time() - 5
    redis = connect(redis_url, "test")
    watching = asyncio.create_task(metrics.watch_redis(redis))
    await eventually(lambda: read(metrics.registry, "petals_redis_up") == 1)
    assert read(metrics.registry, "petals_redis_memory_used_bytes") > 100_000
    await end(watching)
    await redis.aclose()


@pytest.mark.parametrize("made", [CrawlerMetrics, WorkerMetrics])
@pytest.mark.real_parts
async def test_private_ports_speak_both_formats_and_gzip(made):
    """Text or OpenMetrics, compressed or not, with the process's own memory and CPU."""
    metrics, port = made(), free_port()
    metrics.serve(port, CrawlerSettings().metrics_host)
    with pytest.raises(OSError, match="in use") as taken:
        made().serve(port, "127.0.0.1")
    assert f"127.0.0.1:{port}" in taken.value.__notes__[0]
    with pytest.raises(httpx.ConnectError):  # an address of this machine that nobody was told to listen on
        httpx.get(f"http://127.0.0.2:{port}/metrics")
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        text = await client.get("/metrics", headers={"accept-encoding": "gzip"})
        openmetrics = await client.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert text.headers["content-encoding"] == "gzip"
    assert "process_resident_memory_bytes" in text.text
    assert openmetrics.text.endswith("# EOF\n")
