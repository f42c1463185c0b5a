"""Containers learn the demo swarm's bootstrap peer from the swarm itself."""

import asyncio

import pytest

from deploy import with_swarm
from deploy.demo import swarm
from deploy.embedded_redis import free_port

pytestmark = pytest.mark.real_parts


async def test_the_demo_swarm_tells_its_settings_and_bears_probes(monkeypatch, caplog):
    """Also past an http_proxy, which Docker gives to containers; a health check that only connects is no error."""
    monkeypatch.setattr(swarm, "HANDOVER_PORT", free_port())
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    async with await swarm._hand_over(["/dns4/demo-swarm/tcp/31337/p2p/x"]):
        _, probe = await asyncio.open_connection("127.0.0.1", swarm.HANDOVER_PORT)
        probe.close()
        told = await asyncio.to_thread(with_swarm._settings, f"http://127.0.0.1:{swarm.HANDOVER_PORT}/")
    assert told["INITIAL_PEERS"] == "/dns4/demo-swarm/tcp/31337/p2p/x"
    assert told.keys() == {"INITIAL_PEERS", "MODELS", "CRAWL_PERIOD"}
    assert not caplog.records
