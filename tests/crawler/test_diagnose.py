"""`--diagnose` names what is wrong, in words."""

import pytest

from crawler.diagnose import diagnose
from crawler.settings import CrawlerSettings
from deploy.demo.simulated_server import Announcement, Model
from tests.fakes import peer_id

pytestmark = pytest.mark.swarm


async def findings(**settings):
    said = []
    ok = await diagnose(CrawlerSettings(dial_timeout=2, **settings), said.append)
    return ok, "\n".join(said)


async def test_an_empty_swarm_is_told_from_one_that_cannot_be_seen(swarm):
    """Nobody announces anything; nobody answers; and one that works."""
    ok, said = await findings(initial_peers=swarm.initial_peers)
    assert ok
    assert "No model is announced" in said
    assert "No server is announced" in said

    swarm.start(Announcement(Model("half", 8), 0, 4))
    ok, said = await findings(initial_peers=swarm.initial_peers)
    assert ok
    assert "half: 4/8 blocks served; 1 online" in said

    ok, said = await findings(initial_peers=[f"/ip4/127.0.0.1/tcp/9/p2p/{peer_id(1)}"])
    assert not ok
    assert "refused" in said
    assert "check INITIAL_PEERS" in said
