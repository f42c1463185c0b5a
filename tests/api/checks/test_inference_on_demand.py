"""A computation on demand: through a real uvicorn, a real Redis and a real worker whose peers are simulated."""

import asyncio

import httpx
import pytest

from crawler.leader import Leadership
from shared.store.snapshots import SnapshotWriter
from tests.api.serving import serve
from tests.fakes import REFUSED, FakeProber, model, peer_id, server, snapshot
from tests.reachability_worker.simulated_worker import worker_on

PEER = peer_id(1)


@pytest.fixture
async def published(redis):
    """A snapshot in which one server holds blocks, and another wants no inference checks."""
    leader = Leadership(redis, "tests")
    await leader.hold()
    servers = (server(1, 2, 6), server(2, 0, 8, public_name="mine #no-inference-checks"))
    await SnapshotWriter(redis).publish(snapshot(model("m", servers=servers)), leader.lease)


async def ask(url, peer=PEER, **query):
    async with httpx.AsyncClient(base_url=url, timeout=10) as http:
        return await http.get(f"/api/v1/is_reachable/{peer}", params=query)


@pytest.mark.usefixtures("published")
async def test_a_server_computes_once_for_all_who_ask(redis_url):
    """A verdict of a probe is not taken for it, nor the reverse; its blocks are those it announces."""
    prober = FakeProber(delay=0.05)
    async with serve(redis_url) as url, worker_on(redis_url, prober):
        plain = await ask(url)
        many = await asyncio.gather(*(ask(url, inference="1") for _ in range(5)))
        later = await ask(url, inference="1")
        again = await ask(url)
    assert plain.json()["inference"] is None
    assert again.json()["inference"] is None
    for answer in (*many, later):
        assert answer.json()["success"] is True
        assert answer.json()["inference"]["outcome"] == "computed"
        assert answer.json()["inference"]["blocks"] == [2, 6]
    assert prober.inferences == [("m", 2, 6)]


@pytest.mark.usefixtures("published")
async def test_who_cannot_compute_is_not_asked_to(redis_url):
    """One that is unreachable, one that opted out, and one of which nothing is known."""
    prober = FakeProber()
    prober.outcomes[PEER] = (REFUSED, 0.0)
    async with serve(redis_url) as url, worker_on(redis_url, prober):
        unreachable = (await ask(url, inference="1")).json()
        opted_out = (await ask(url, peer_id(2), inference="1")).json()
        stranger = (await ask(url, peer_id(3), inference="1")).json()
    assert (unreachable["success"], unreachable["inference"]["outcome"]) == (False, "unknown")
    assert (opted_out["success"], opted_out["inference"]["outcome"]) == (True, "unknown")
    assert "opted out" in opted_out["inference"]["detail"]
    assert (stranger["success"], stranger["inference"]) == (True, None)
    assert prober.inferences == []


@pytest.mark.usefixtures("published")
async def test_computations_are_rarer_than_checks(redis_url):
    """A limit of its own, which costs a plain check nothing; it can be switched off."""
    options = {"trusted_networks": [], "inference_rate_limit": 1}
    async with worker_on(redis_url):
        async with serve(redis_url, **options) as url:
            codes = [(await ask(url, inference="1")).status_code for _ in range(2)]
            plain = await ask(url)
        async with serve(redis_url, on_demand_inference="off") as url:
            off = await ask(url, inference="1")
    assert codes == [200, 429]
    assert (plain.status_code, off.status_code) == (200, 403)


@pytest.mark.usefixtures("published")
async def test_the_page_offers_it_and_shows_what_came_out(redis_url):
    async with serve(redis_url) as url, worker_on(redis_url), httpx.AsyncClient(base_url=url, timeout=10) as http:
        offer = await http.get(f"/check/{PEER}")
        shown = await http.get(f"/check/{PEER}", params={"inference": "1"})
        stranger = await http.get(f"/check/{peer_id(3)}")
    assert f'href="/check/{PEER}?inference=1"' in offer.text
    assert "Computes: 10 ms per token through blocks 2–5" in shown.text
    assert "inference=1" not in stranger.text
