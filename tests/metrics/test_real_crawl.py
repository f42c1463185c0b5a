"""A real crawl and a real probe fill the metrics that describe them."""

import asyncio
import time

import pytest

from crawler.metrics import CrawlerMetrics
from crawler.observe.observer import observe
from crawler.settings import CrawlerSettings
from deploy.demo.simulated_server import Announcement, Model
from reachability_worker.nodes import Nodes
from reachability_worker.prober import Prober
from shared.p2p.dht_node import DHTClientNode
from shared.snapshot import Verdict
from shared.tasks import end

pytestmark = pytest.mark.swarm

MODEL = Model("demo-model", 6, "https://huggingface.co/demo/model")


async def test_a_crawl_measures_its_phases_lookups_and_dials(swarm):
    """Every phase that it went through, a key for the index and for each block, a dial for each online server."""
    swarm.start(Announcement(MODEL, 0, 6))
    metrics = CrawlerMetrics()
    async with await DHTClientNode.open() as dht_node:
        settings = CrawlerSettings(initial_peers=swarm.initial_peers)
        observation = await observe(settings, dht_node)
    metrics.observed(observation)
    read = metrics.registry.get_sample_value
    phases = ("join", "look_up", "dial")
    took = [read("petals_crawler_phase_duration_seconds_sum", {"phase": phase}) for phase in phases]
    assert all(seconds > 0 for seconds in took)
    assert sum(took) <= observation.duration
    assert read("petals_crawler_lookups_total", {"outcome": "answered"}) >= 7
    assert read("petals_crawler_lookups_total", {"outcome": "unanswered"}) == 0
    reached = {"verdict": "reachable", "stage": "answered", "cause": "none"}
    assert read("petals_crawler_dials_total", reached) == 1
    assert read("petals_crawler_connect_duration_seconds_count") == 1


async def test_a_probe_measures_how_long_each_stage_took(swarm):
    """Look-up, dial and protocol of a server that answers; less for one that does not."""
    live = swarm.start(Announcement(MODEL, 0, 6))
    dead = swarm.start(Announcement(MODEL, 0, 6))
    swarm.close_server(dead)
    nodes = Nodes(swarm.bootstrap_peers)
    prober = Prober(nodes, check_timeout=5, dials_at_once=16)
    keeping_fit = asyncio.create_task(nodes.run())
    assert await nodes.until_fit(10)
    started = time.monotonic()
    good = await prober.probe(live.peer_id, started + 5)
    seconds = time.monotonic() - started
    bad = await prober.probe(dead.peer_id, time.monotonic() + 5)
    await end(keeping_fit)
    assert list(good.durations) == ["lookup", "dial", "protocol"]
    assert sum(good.durations.values()) <= seconds
    assert bad.verdict is Verdict.UNREACHABLE
    assert "protocol" not in bad.durations
