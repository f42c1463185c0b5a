"""DHT nodes that are silent, as on the Internet some always are: nobody is called unseen or unreachable for it."""

import os
import signal

import pytest

from crawler.crawl import crawl_once
from crawler.settings import CrawlerSettings
from deploy.demo.simulated_server import Announcement, Model, place, stop_process
from shared.p2p.dht_node import DHTClientNode
from shared.snapshot import PeerState
from tests.fakes import peer_id

pytestmark = pytest.mark.swarm
MODEL = Model("silent-hf", 24)


@pytest.fixture
def nodes(swarm):
    """Seven servers, each a DHT node that holds records of others."""
    return [swarm.start(Announcement(MODEL, number * 4 % 24, number * 4 % 24 + 4)) for number in range(7)]


async def states(swarm, node):
    settings = CrawlerSettings(initial_peers=swarm.initial_peers, dial_timeout=4)
    snapshot = await crawl_once(settings, node)
    return {server.peer_id: server.state for model in snapshot.models for server in model.servers}


async def test_a_crawl_with_most_nodes_silent_sees_all_servers(swarm, nodes):
    """Each crawl, the first of a new node too: the silent servers unreachable, the others online, none unseen."""
    silent = nodes[3:]
    for server in silent:
        server.freeze()
    expected = {server.peer_id: PeerState.ONLINE for server in nodes[:3]} | {
        server.peer_id: PeerState.UNREACHABLE for server in silent
    }
    async with await DHTClientNode.open() as node:
        for _ in range(5):
            found = await states(swarm, node)
            assert found.keys() == expected.keys()
            assert all(found[server.peer_id] is PeerState.ONLINE for server in nodes[:3])
            if found == expected:
                break  # a crawl on a busy machine says of silent servers that it was too busy to hear them
        assert found == expected
        for server in silent:
            server.thaw()
        assert set((await states(swarm, node)).values()) == {PeerState.ONLINE}


async def test_a_silent_node_is_waited_for_once(swarm, nodes):
    """However many keys, batches and stages meet it: after its first silence nobody waits for it again."""
    silent = {server.peer_id for server in nodes[3:]}
    for server in nodes[3:]:
        server.freeze()
    async with await DHTClientNode.open() as node:
        await node.join(swarm.bootstrap_peers, 4)
        keys = [f"{MODEL.dht_prefix}.{block}" for block in range(24)]
        await node.look_up(keys, 10)
        asked, find = [], node._reader._find

        async def counted(peer, keys):
            asked.append(str(peer))
            return await find(peer, keys)

        node._reader._find = counted
        found = await node.look_up(keys, 10)
        assert asked
        assert not silent & set(asked)
        assert all(found.whole[key] for key in keys)


async def test_a_key_whose_holder_was_heard_too_late_is_unanswered(swarm):
    """Our own daemon stands still once a node that does not hold it has answered: "nobody holds it" is no answer."""
    holder = swarm.start()
    place({peer_id(1): Announcement(MODEL, 0, 1)}, on=[holder])
    key = f"{MODEL.dht_prefix}.0"
    async with await DHTClientNode.open() as node:
        await node.join(swarm.bootstrap_peers, 4)
        reader, meet = node._reader, node._reader._meet

        def stop(nearest):
            stop_process(node.daemon_pid)
            meet(nearest)

        reader._meet = stop
        assert await node.look_up([key], 10) == ({}, {})
        reader._meet = meet
        os.kill(node.daemon_pid, signal.SIGCONT)
        assert not len(reader.silent)
        await node.join(swarm.bootstrap_peers, 4)  # as the next crawl does
        assert peer_id(1) in (await node.look_up([key], 10)).whole[key]


async def test_a_bootstrap_peer_that_only_pings_is_told_as_such(swarm):
    """The error says what happened: connected, answered the ping, left the lookups open."""
    async with await DHTClientNode.open() as node:
        await node.join(swarm.bootstrap_peers, 4)
        node._reader._find = lambda peer, keys: _nothing()
        await node.look_up(["silent-hf.0"], 10)
        account = node.account(swarm.bootstrap.peer_id)
    assert account == "connected, answered the ping, did not answer 1 of 1 lookups"


async def _nothing():
    return None
