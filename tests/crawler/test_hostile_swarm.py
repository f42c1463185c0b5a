"""Hostile records and servers on a real private swarm: what they cost, and what is said of them."""

import asyncio
import math
import time

import msgpack
import pytest

from crawler.crawl import crawl_once
from crawler.settings import CrawlerSettings
from deploy.demo.simulated_server import Announcement, Model
from shared.advice.causes import message
from shared.p2p import addresses, petals
from shared.p2p.connect import ProberNode
from shared.p2p.dht_node import DHTClientNode
from shared.p2p.hivemind import DHTID, MSGPackSerializer, P2PContext, runtime_pb2
from shared.p2p.probe import probe
from shared.reachability import Cause, Stage
from shared.snapshot import ModelState, PeerState, Verdict
from tests.fakes import peer_id
from tests.support.announcing import announce

pytestmark = pytest.mark.swarm

MODEL = Model("demo-model", 12, "https://huggingface.co/demo/model")


async def crawl(swarm, **more):
    async with await DHTClientNode.open() as dht_node:
        return await crawl_once(CrawlerSettings(initial_peers=swarm.initial_peers, dial_timeout=4, **more), dht_node)


def servers_of(snapshot):
    model = next(model for model in snapshot.models if model.dht_prefix == MODEL.dht_prefix)
    return model, {server.peer_id: server for server in model.servers}


def announced_by(swarm, peer, start, end, **info):
    """Write the records of a server that the bootstrap peer alone stores."""
    swarm.call(announce(swarm.bootstrap, peer, Announcement(MODEL, start, end, info=info)))


def overfill(swarm, key):
    """Fill a dictionary until no answer about it fits into a message of libp2p."""
    value = MSGPackSerializer.dumps((2, 1.0, {"public_name": "x" * 50_000}))
    storage = swarm.bootstrap.node.protocol.storage
    for number in range(100):
        storage.store(DHTID.generate(key), value, time.time() + 60, subkey=peer_id(1000 + number))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # hivemind's own, in the flooded node
async def test_a_key_that_is_too_large_to_be_answered_costs_that_key(swarm):
    """Its answer never arrives. It is named as unanswered; its neighbours, and the node that holds it, are kept."""
    announced_by(swarm, peer_id(1), 0, 12)
    overfill(swarm, "demo-model.5")
    async with await DHTClientNode.open() as dht_node:
        await dht_node.join(swarm.bootstrap_peers, 5)
        for _ in range(2):
            found = await dht_node.look_up([f"demo-model.{block}" for block in range(14)], 15)
            assert found.whole.keys() == {f"demo-model.{block}" for block in range(14)} - {"demo-model.5"}
            assert [found.whole["demo-model.12"], found.whole["demo-model.13"]] == [None, None]
            assert all(found.whole[f"demo-model.{block}"].keys() == {peer_id(1)} for block in (4, 6))


async def test_a_silent_node_is_not_an_answer(swarm):
    """Where nobody answers a lookup, the key is "unanswered", not "not held"."""
    async with await DHTClientNode.open() as dht_node:
        await dht_node.join(swarm.bootstrap_peers, 5)
        assert await dht_node.look_up(["demo-model.0"], 10) == ({"demo-model.0": None}, {})
        swarm.bootstrap.freeze()
        assert await dht_node.look_up(["demo-model.0", "demo-model.1"], 10) == ({}, {})
        # hivemind avoids the node now, and would find that nobody holds the key.
        assert await dht_node.look_up(["demo-model.0"], 10) == ({}, {})


async def test_records_that_never_expire_are_shown_as_clients_see_them(swarm):
    """An absurd expiry breaks nothing; the dial judges the server as any other."""
    storage = swarm.bootstrap.node.protocol.storage
    announced_by(swarm, peer_id(1), 0, 1)
    for number, expires in enumerate((1e300, math.inf, time.time() + 10**10)):
        value = MSGPackSerializer.dumps((2, 1.0, {}))
        storage.store(DHTID.generate("demo-model.3"), value, expires, subkey=peer_id(10 + number))
    _, servers = servers_of(await crawl(swarm))
    assert {peer_id(10), peer_id(11), peer_id(12)} <= servers.keys()
    assert {server.state for server in servers.values()} == {PeerState.UNREACHABLE}


async def test_a_record_with_a_million_pings_costs_one_record(swarm):
    """And no noticeable time."""
    live = swarm.start(Announcement(MODEL, 0, 12))
    pings = msgpack.packb({str(number): 0.1 for number in range(100_000)})
    head = MSGPackSerializer.dumps((2, 1.0))[:-1]
    storage = swarm.bootstrap.node.protocol.storage
    storage.store(DHTID.generate("demo-model.3"), head + pings, time.time() + 60, subkey=peer_id(66))
    million = b"\xdf\x00\x0f\x42\x40" + b"\xa1x\x01" * 20_000
    storage.store(DHTID.generate("demo-model.3"), million, time.time() + 60, subkey=peer_id(67))
    snapshot = await crawl(swarm)
    model, servers = servers_of(snapshot)
    assert servers.keys() == {live.peer_id}
    assert model.state is ModelState.HEALTHY
    assert snapshot.refused.by_reason == {"record_too_long": 1, "undecodable": 1}


async def test_a_record_that_the_peer_itself_contradicts_is_shown_with_the_conflict(swarm):
    """Anyone can write under an honest server's name, but only the server answers its dial."""
    honest = swarm.start(Announcement(MODEL, 0, 12))
    forged = swarm.start(Announcement(MODEL, 0, 12, info={"version": "9.9.9"}))
    bystander = swarm.start()
    announced_by(swarm, bystander.peer_id, 0, 12)
    _, servers = servers_of(await crawl(swarm))
    assert servers[honest.peer_id].conflict is None
    assert servers[forged.peer_id].conflict == "Its record says version 9.9.9, but the peer itself says 2.2.0.post1."
    assert "serves no Petals blocks" in servers[bystander.peer_id].conflict


class Hostile:
    """What a server may answer to `rpc_info` instead of the truth."""

    @staticmethod
    async def hangs():
        await asyncio.sleep(60)

    @staticmethod
    async def fails():
        raise RuntimeError("\x1b[31m<script>" + "x" * 100_000)

    @staticmethod
    async def garbage():
        return b"\xc1\xff" * 50

    @staticmethod
    async def large():
        return MSGPackSerializer.dumps({"version": "x" * 1_000_000})

    @staticmethod
    async def huge():
        return b"x" * 6_000_000

    @staticmethod
    async def nested():
        return b"\x91" * 4_000


ANSWERS = {
    Hostile.hangs: (Verdict.UNREACHABLE, Stage.PROTOCOL),
    Hostile.huge: (Verdict.UNREACHABLE, Stage.PROTOCOL),  # no answer comes of it
    Hostile.fails: (Verdict.REACHABLE, Stage.ANSWERED),
    Hostile.garbage: (Verdict.REACHABLE, Stage.ANSWERED),
    Hostile.large: (Verdict.REACHABLE, Stage.ANSWERED),
    Hostile.nested: (Verdict.REACHABLE, Stage.ANSWERED),
}


def server_that(swarm, answer):
    class TransformerConnectionHandler(petals.TransformerConnectionHandler):
        async def rpc_info(self, request: runtime_pb2.ExpertUID, context: P2PContext) -> runtime_pb2.ExpertInfo:
            return runtime_pb2.ExpertInfo(serialized_info=await answer())

    server = swarm.start(Announcement(MODEL, 0, 4), serves=False)
    swarm.call(TransformerConnectionHandler().add_p2p_handlers(server.node.p2p))
    return server


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # hivemind's own, in the hostile server
async def test_whatever_rpc_info_answers_the_dial_ends_in_time_with_bounded_text(swarm):
    """A peer that answers is reachable, however badly it does; one that does not is told as such."""
    servers = [server_that(swarm, answer) for answer in ANSWERS]
    async with await DHTClientNode.open() as dht_node, await ProberNode.open() as prober_node:
        await dht_node.join(swarm.bootstrap_peers, 5)
        deadline = time.monotonic() + 5
        async with asyncio.timeout(60):
            outcomes = await asyncio.gather(
                *(probe(dht_node, prober_node, one.peer_id, deadline=deadline, must_serve=True) for one in servers)
            )
        assert prober_node.versions == {}
    for outcome, (answer, expected) in zip(outcomes, ANSWERS.items(), strict=True):
        assert (outcome.verdict, outcome.stage) == expected, answer
        assert len(outcome.error or "") <= 300
        assert (outcome.error or "x").isprintable()


async def test_the_operator_can_forbid_private_addresses_in_a_swarm_of_its_own(swarm):
    """Told `no`, a crawl calls a server at a private address what it is: not dialable from outside."""
    swarm.start(Announcement(MODEL, 0, 12))
    settings = CrawlerSettings(initial_peers=swarm.initial_peers, dial_timeout=4, dial_private_addresses="no")
    async with await DHTClientNode.open(settings.dial_private_addresses) as dht_node:
        snapshot = await crawl_once(settings, dht_node)
    assert [issue.error for issue in snapshot.reachability_issues] == [message(Cause.NOT_DIALABLE)]


async def test_a_public_swarms_private_addresses_are_not_dialled(swarm, monkeypatch):
    """Or anyone could have the monitor scan its own network; the operator of the server is told what is wrong."""
    server = swarm.start(Announcement(MODEL, 0, 12))
    async with await DHTClientNode.open() as dht_node, await ProberNode.open() as prober_node:
        await dht_node.join(swarm.bootstrap_peers, 5)
        assert (
            await probe(dht_node, prober_node, server.peer_id, deadline=time.monotonic() + 5)
        ).verdict is Verdict.REACHABLE
        monkeypatch.setattr(addresses, "PUBLIC_INITIAL_PEERS", swarm.initial_peers)
        await dht_node.join(swarm.bootstrap_peers, 5)
        outcome = await probe(dht_node, prober_node, server.peer_id, deadline=time.monotonic() + 5)
        assert (outcome.verdict, outcome.stage) == (Verdict.UNREACHABLE, Stage.LOOKUP)
        assert outcome.cause is Cause.NOT_DIALABLE
        assert outcome.addresses[0].startswith("/ip4/127.0.0.1/tcp/")
        # The operator chose the bootstrap peers: they are dialled wherever they are.
        bootstrap = await probe(dht_node, prober_node, swarm.bootstrap.peer_id, deadline=time.monotonic() + 5)
        assert bootstrap.verdict is Verdict.REACHABLE
