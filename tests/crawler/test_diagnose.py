"""`--diagnose` names what is wrong, in words, and ends with a verdict and the next command."""

import argparse

import pytest

from crawler import by_hand
from crawler.diagnose import diagnose
from crawler.settings import CrawlerSettings
from deploy.demo.simulated_server import Announcement, Model
from shared.p2p.daemon import NodeError
from shared.p2p.dht_node import DHTClientNode
from shared.p2p.dht_reader import DHTReader, LookupResult
from tests.fakes import peer_id


@pytest.mark.parametrize("what", ["once", "diagnose"])
async def test_a_node_that_does_not_start_is_told_in_words(what, monkeypatch, capsys):
    """One line without a traceback, and the exit code of a failure."""

    async def fail(*_):
        raise NodeError("p2pd did not start")

    monkeypatch.setattr(DHTClientNode, "open", fail)
    flags = argparse.Namespace(once=False, diagnose=False, json=False, format="text")
    setattr(flags, what, True)
    settings = CrawlerSettings(initial_peers=[f"/ip4/127.0.0.1/tcp/9/p2p/{peer_id(1)}"])
    assert await by_hand._without_redis(settings, flags) == 1
    said = capsys.readouterr()
    assert "p2pd did not start" in said.err
    assert "Traceback" not in said.out + said.err


async def findings(**settings):
    said = []
    found = await diagnose(CrawlerSettings(dial_timeout=2, **settings), said.append)
    assert tuple(said) == found.findings
    return found, "\n".join(finding.text for finding in said)


@pytest.mark.swarm
async def test_an_empty_swarm_is_told_from_one_that_cannot_be_seen(swarm, monkeypatch):
    """Nobody announces anything; no lookup is answered; nobody answers; and one that works."""
    found, said = await findings(initial_peers=swarm.initial_peers)
    assert found.ok
    assert "No model is announced" in said
    assert "No server is announced" in said
    assert found.verdict == "The swarm can be joined, but no server announces anything."
    assert found.command.endswith(f"--initial_peers {' '.join(swarm.initial_peers)}")

    async def no_answer(*_):
        return LookupResult({}, {})

    with monkeypatch.context() as patched:
        patched.setattr(DHTReader, "look_up", no_answer)
        found, said = await findings(initial_peers=swarm.initial_peers)
    assert "No model is announced" not in said
    assert "did not answer in time" in said

    swarm.start(Announcement(Model("half", 8), 0, 4))
    found, said = await findings(initial_peers=swarm.initial_peers)
    assert found.ok
    assert found.verdict == "The swarm can be observed: 0 of 1 model can be used."
    assert "blocks 4–7 need a server" in found.next_step.lower()
    assert "--block_indices 4:8" in found.command
    assert "half: 4/8 blocks served; 1 online" in said

    found, said = await findings(initial_peers=[f"/ip4/127.0.0.1/tcp/9/p2p/{peer_id(1)}"])
    assert not found.ok
    assert "refused" in said
    assert "check INITIAL_PEERS" in found.next_step
    assert found.command == "nc -vz 127.0.0.1 9"
