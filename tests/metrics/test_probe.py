"""`/probe`: blackbox_exporter's form, and never a failure that nobody observed."""

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.api.serving import serve
from tests.fakes import FakeProber, peer_id
from tests.metrics.simulated_monitor import REACHED, REFUSED, worker_on


def values(text):
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def probe(url, target, timeout=None):
    headers = {} if timeout is None else {"x-prometheus-scrape-timeout-seconds": str(timeout)}
    async with httpx.AsyncClient(timeout=12) as client:
        return await client.get(f"{url}/probe", params={"target": target}, headers=headers)


async def test_a_reached_peer_is_a_success_with_its_stages(redis_url):
    """probe_success, probe_duration_seconds, and where the time went."""
    async with worker_on(redis_url), serve(redis_url, probe_endpoint="on") as url:
        answer = await probe(url, peer_id(1))
    found = values(answer.text)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert found["probe_success",] == 1
    assert found["probe_duration_seconds",] > 0
    assert found["probe_stage_duration_seconds", "dial"] == 0.002
    assert found["probe_stage_duration_seconds", "queue"] >= 0
    assert found["probe_result_info", "none", "answered"] == 1
    assert found["probe_vantage_success", "default"] == 1


async def test_an_unreachable_peer_is_a_failure_with_a_cause(redis_url):
    """The scrape succeeds; the probe does not."""
    async with worker_on(redis_url, FakeProber(REFUSED)), serve(redis_url, probe_endpoint="on") as url:
        answer = await probe(url, peer_id(1))
    found = values(answer.text)
    assert (answer.status_code, found["probe_success",]) == (200, 0)
    assert found["probe_result_info", "refused", "dial"] == 1


async def test_a_peer_that_nobody_could_probe_is_a_failed_scrape(redis_url):
    """No worker, or none in the scrape's time: 503 and no probe_success, so no alert blames the peer."""
    async with serve(redis_url, probe_endpoint="on") as url:
        answer = await probe(url, peer_id(1))
        assert answer.status_code == 503
        assert "probe_success" not in answer.text
        async with worker_on(redis_url, FakeProber(REACHED, delay=60)):
            late = await probe(url, peer_id(2), timeout=1.5)
        assert late.status_code == 503
        assert late.elapsed.total_seconds() < 9, "the scrape's time, not the deadline of a check"


async def test_bad_targets_are_the_callers_mistake(redis_url):
    """No target, or none that is a peer id: 400."""
    async with serve(redis_url, probe_endpoint="on") as url:
        assert (await probe(url, "")).status_code == 400
        assert (await probe(url, "http://169.254.169.254/")).status_code == 400


async def test_the_endpoint_is_off_unless_the_operator_wants_it(redis_url):
    """It lets others spend our dials."""
    async with worker_on(redis_url), serve(redis_url) as url:
        assert (await probe(url, peer_id(1))).status_code == 404
