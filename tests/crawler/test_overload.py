"""A crawler that cannot keep up calls nobody unreachable."""

import asyncio
import time

import pytest

from crawler.judge import judge
from crawler.observe import overload
from crawler.observe.overload import Overload
from shared.snapshot import PeerState, Verdict
from tests.crawler.synthetic_swarm import SyntheticSwarm
from tests.fakes import peer_id


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(overload, "EVERY", 0.01)
    monkeypatch.setattr(overload, "MAX_DELAY", 0.1)


async def watched(ask, seconds):
    began = time.monotonic()
    it = Overload(ask)
    watching = asyncio.create_task(it.watch())
    await asyncio.sleep(seconds)
    late = it.since(began)
    watching.cancel()
    return late


async def test_a_machine_that_keeps_up(quick):
    async def ask():
        await asyncio.sleep(0)

    assert not await watched(ask, 0.05)


async def test_a_late_answer_is_noticed_before_it_comes(quick):
    async def ask():
        await asyncio.sleep(60)

    assert await watched(ask, 0.3)


async def test_a_loop_that_stands_still_is_noticed(quick):
    async def ask():
        time.sleep(0.3)

    assert await watched(ask, 0.4)


async def test_a_daemon_that_fails_is_no_error_here(quick):
    async def ask():
        raise OSError("gone")

    assert not await watched(ask, 0.05)


async def crawled(monkeypatch, identify=None):
    synthetic = SyntheticSwarm()
    synthetic.announce_model("m-hf", 8)
    synthetic.announce_server("m-hf", peer_id(1), 0, 8, reached=False)
    synthetic.dial_seconds = 0.4
    if identify is not None:
        monkeypatch.setattr(synthetic, "identify", identify)
    observation = await synthetic.crawl(monkeypatch).run()
    snapshot = judge(observation, 60)
    return snapshot.models[0].servers[0]


async def test_silence_is_the_servers_where_the_crawler_keeps_up(monkeypatch):
    server = await crawled(monkeypatch)
    assert (server.state, server.verdict) == (PeerState.UNREACHABLE, Verdict.UNREACHABLE)


async def test_silence_while_the_crawler_is_too_busy_says_nothing(quick, monkeypatch):
    async def late():
        await asyncio.sleep(1)

    server = await crawled(monkeypatch, late)
    assert (server.state, server.verdict) == (PeerState.ONLINE, Verdict.UNKNOWN)
    assert "too busy" in server.error
