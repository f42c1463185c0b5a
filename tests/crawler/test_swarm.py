"""The crawler on a real private swarm: hivemind nodes with p2pd, some of them dead, frozen or lying."""

import asyncio
import os
import signal
import time
from types import SimpleNamespace

import msgpack
import pytest

from crawler.crawl import crawl_once
from crawler.judge import judge
from crawler.observe.observation import SwarmUnavailableError
from crawler.observe.observer import observe
from crawler.settings import CrawlerSettings
from deploy.demo.simulated_server import Announcement, Model
from shared.p2p.connect import ProberNode
from shared.p2p.daemon import NodeError
from shared.p2p.dht_node import DHTClientNode
from shared.reachability import Cause
from shared.snapshot import ModelState, PeerState, Verdict
from tests.fakes import peer_id

pytestmark = pytest.mark.swarm

MODEL = Model("demo-model", 12, "https://huggingface.co/demo/model")
NOWHERE = "/ip4/127.0.0.1/tcp/9/p2p/" + peer_id(1)


def settings(swarm, **more):
    return CrawlerSettings(initial_peers=swarm.initial_peers, dial_timeout=4, **more)


async def crawl(swarm, **more):
    async with await DHTClientNode.open() as dht_node:
        return await crawl_once(settings(swarm, **more), dht_node)


async def crawl_that_hears(swarm, silent):
    """Crawl until this machine is not too busy to hear an answer: of a silent server such a crawl says nothing."""
    for _ in range(5):
        snapshot = await crawl(swarm)
        if servers_of(snapshot)[1][silent.peer_id].verdict is not Verdict.UNKNOWN:
            break
    return snapshot


def servers_of(snapshot, prefix="demo-model"):
    model = next(model for model in snapshot.models if model.dht_prefix == prefix)
    return model, {server.peer_id: server for server in model.servers}


async def test_every_kind_of_server_is_shown_as_what_it_is(swarm):
    """Online and answering, joining, offline, dead and frozen: each has its state, and only some are dialled."""
    live = swarm.start(Announcement(MODEL, 0, 12, info={"public_name": "Ada", "next_pings": {peer_id(1): 0.1}}))
    joining = swarm.start(Announcement(MODEL, 2, 6, state="joining"), serves=False)
    loading = swarm.start(Announcement(MODEL, 4, 8), serves=False)  # online by its word, but without the handler
    offline = swarm.start(Announcement(MODEL, 0, 3, state="offline"))
    dead = swarm.start(Announcement(MODEL, 3, 5))
    frozen = swarm.start(Announcement(MODEL, 5, 7))
    swarm.close_server(dead)
    frozen.freeze()

    snapshot = await crawl_that_hears(swarm, frozen)

    model, servers = servers_of(snapshot)
    assert {identity: server.state for identity, server in servers.items()} == {
        live.peer_id: PeerState.ONLINE,
        joining.peer_id: PeerState.JOINING,
        loading.peer_id: PeerState.ONLINE,
        offline.peer_id: PeerState.OFFLINE,
        dead.peer_id: PeerState.UNREACHABLE,
        frozen.peer_id: PeerState.UNREACHABLE,
    }
    assert model.state is ModelState.HEALTHY
    assert (model.name, model.official) == ("demo/model", False)
    assert servers[live.peer_id].span.length == 12
    assert servers[live.peer_id].show_public_name
    assert servers[live.peer_id].next_pings == {peer_id(1): 0.1}
    assert servers[live.peer_id].multiaddrs[0].startswith("/ip4/127.0.0.1/tcp/")
    assert servers[joining.peer_id].verdict is Verdict.UNKNOWN
    issues = {issue.peer_id: issue for issue in snapshot.reachability_issues}
    assert issues.keys() == {dead.peer_id, frozen.peer_id}
    assert "refused" in issues[dead.peer_id].error
    assert "does not answer" in issues[frozen.peer_id].error
    assert snapshot.bootstrap_peers[0].verdict is Verdict.REACHABLE
    assert snapshot.unanswered_keys == 0


async def test_a_server_that_comes_back_is_reachable_in_the_next_crawl(swarm):
    """A daemon's memory of failed dials never outlives a crawl."""
    server = swarm.start(Announcement(MODEL, 0, 12))
    async with await DHTClientNode.open() as dht_node:
        server.freeze()
        assert (
            servers_of(await crawl_once(settings(swarm), dht_node))[1][server.peer_id].verdict is not Verdict.REACHABLE
        )
        server.thaw()
        assert servers_of(await crawl_once(settings(swarm), dht_node))[1][server.peer_id].state is PeerState.ONLINE


HOSTILE_VALUES = {
    "bad msgpack": b"\xc1\xc1",
    "bad utf-8": b"\xa2\xff\xfe",
    "unknown extension": msgpack.packb(msgpack.ExtType(7, b"x")),
    "dictionary in disguise": msgpack.packb(msgpack.ExtType(0x50, b"\xc1")),
    "deep nesting": b"\x91" * 500 + b"\xc0",
    "empty": b"",
}


async def test_each_undecodable_record_costs_one_record(swarm):
    """Such a record makes hivemind's own lookup hang for ever; here it is refused and counted."""
    live = swarm.start(Announcement(MODEL, 0, 12))
    for block, value in enumerate(HOSTILE_VALUES.values()):
        store_raw(swarm, f"demo-model.{block}", value, subkey=peer_id(66))
    snapshot = await crawl(swarm)
    model, servers = servers_of(snapshot)
    assert servers.keys() == {live.peer_id}
    assert model.state is ModelState.HEALTHY
    reasons = snapshot.refused.by_reason
    assert set(reasons) == {"undecodable", "unknown_extension", "bad_server_info"}
    assert reasons["undecodable"] >= 3


def store_raw(swarm, key, value, subkey):
    """Write bytes that no serializer made, as an attacker would."""
    from shared.p2p.hivemind import DHTID

    storage = swarm.bootstrap.node.protocol.storage
    assert storage.store(DHTID.generate(key), value, time.time() + 60, subkey=subkey)


async def test_lying_records_are_refused_by_reason(swarm):
    """Spans that exclude their block, ids that are none, models with a billion blocks: counted, not shown."""
    live = swarm.start(Announcement(MODEL, 0, 12))
    swarm.store("demo-model.3", (2, 1.0, {"start_block": 7, "end_block": 9}), subkey=peer_id(1))
    swarm.store("demo-model.3", (2, 1.0, {"start_block": 9, "end_block": 2}), subkey=peer_id(2))
    swarm.store("demo-model.3", (2, float("nan"), {}), subkey=peer_id(3))
    swarm.store("demo-model.3", (2, 1.0, {}), subkey="not-a-peer")
    swarm.store("demo-model.3", {"a": 1}, subkey=peer_id(4))
    swarm.store("_petals.models", {"num_blocks": 10**9, "repository": None}, subkey="huge")
    swarm.store("_petals.models", {"num_blocks": 3, "repository": None}, subkey="dotted.prefix")
    snapshot = await crawl(swarm)
    assert servers_of(snapshot)[1].keys() == {live.peer_id}
    assert snapshot.refused.by_reason == {
        "span_excludes_block": 1,
        "reversed_span": 1,
        "bad_server_info": 1,
        "bad_peer_id": 1,
        "server_not_a_tuple": 1,
        "too_many_blocks": 1,
        "bad_prefix": 1,
    }


async def test_no_bootstrap_peer_is_a_failed_crawl_that_says_why():
    """The crawl failed: that is no empty swarm."""
    options = CrawlerSettings(initial_peers=[NOWHERE], dial_timeout=2)
    async with await DHTClientNode.open() as dht_node:
        with pytest.raises(SwarmUnavailableError, match="no bootstrap peer answered") as caught:
            await crawl_once(options, dht_node)
    assert "refused" in caught.value.bootstrap_peers[0].error


async def test_a_crawler_whose_own_daemon_died_says_so_about_itself(swarm):
    """Servers are not called unreachable because our daemon is gone."""
    swarm.start(Announcement(MODEL, 0, 12))
    async with await DHTClientNode.open() as dht_node:
        await crawl_once(settings(swarm), dht_node)
        os.kill(dht_node.daemon_pid, signal.SIGKILL)
        with pytest.raises(SwarmUnavailableError):
            await crawl_once(settings(swarm), dht_node)


async def test_a_first_crawl_shows_servers_before_the_slowest_answered(swarm):
    """Who waits for an answer is undialled then, never unreachable; progress is told; the crawl's end says it all."""
    live = swarm.start(Announcement(MODEL, 0, 12))
    frozen = swarm.start(Announcement(MODEL, 5, 7))
    frozen.freeze()
    shown, told = [], []

    async def early(observation):
        shown.append(judge(observation, 60.0))

    async def progress(now):
        told.append(now)

    async with await DHTClientNode.open() as dht_node:
        while not shown:  # a busy machine may read for as long as the slowest dial takes
            told.clear()
            observation = await observe(settings(swarm), dht_node, early=early, progress=progress)
    (first,) = shown
    _, servers = servers_of(first)
    assert servers[live.peer_id].state is PeerState.ONLINE
    assert (servers[frozen.peer_id].state, servers[frozen.peer_id].verdict) == (PeerState.ONLINE, Verdict.UNKNOWN)
    unknown = [server for server in servers.values() if server.verdict is Verdict.UNKNOWN]
    assert (first.undialled_servers, first.reachability_issues) == (len(unknown), ())
    assert (told[0].doing, told[0].servers) == ("joining", 0)
    assert (told[-1].doing, told[-1].servers, told[-1].to_dial) == ("dialling", 2, 2)
    outcome = observation.dials[frozen.peer_id]
    assert outcome.verdict is Verdict.UNREACHABLE or outcome.cause is Cause.NODE_UNFIT  # too busy to hear an answer
    assert judge(observation, 60.0).undialled_servers == 0


async def test_official_models_are_shown_even_where_nobody_serves_them(swarm):
    """And they come first, before announced ones."""
    swarm.start(Announcement(MODEL, 0, 12))
    snapshot = await crawl(swarm, models="nobody-serves-this:4")
    assert [model.dht_prefix for model in snapshot.models] == ["nobody-serves-this", "demo-model"]
    assert (snapshot.models[0].official, snapshot.models[0].state) == (True, ModelState.BROKEN)


def test_the_python_api_returns_the_state_document(swarm):
    """`fetch_health_state` asks a hivemind.DHT for its peers alone; tests/petals_server has a real one, with torch."""
    from crawler.health import fetch_health_state

    live = swarm.start(Announcement(MODEL, 0, 12))
    state = fetch_health_state(SimpleNamespace(initial_peers=swarm.initial_peers))
    (model,) = state["model_reports"]
    assert model["state"] == "healthy"
    assert model["server_rows"][0]["peer_id"] == live.peer_id
    assert state["bootstrap_states"] == ["online"]


async def test_a_node_that_ends_with_the_crawl_is_told_in_words(swarm, monkeypatch):
    """As any failure of our own: `--once` and `--watch` go on from there, without a traceback."""
    swarm.start(Announcement(MODEL, 0, 12))
    asked = ProberNode.connections

    async def killed(node):
        os.kill(node.daemon_pid, signal.SIGKILL)
        while node.is_alive:
            await asyncio.sleep(0.01)
        return await asked(node)

    monkeypatch.setattr(ProberNode, "connections", killed)
    with pytest.raises(NodeError, match="ended during the crawl"):
        await crawl(swarm)
