"""Answers of hivemind's DHT that no honest node gives: they cost one answer, never the event loop."""

import asyncio
import time
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio

from shared.p2p.daemon import MAX_RESULTS, P2PDaemon, _checked
from shared.p2p.dht_node import DHTClientNode
from shared.p2p.hivemind import (
    DictionaryDHTValue,
    MSGPackSerializer,
    P2PContext,
    P2PHandlerError,
    ServicerBase,
    dht_pb2,
)

pytestmark = pytest.mark.real_parts


class DHTProtocol(ServicerBase):
    """What a node of hivemind's DHT is called by; tests choose what it answers."""

    def __init__(self):
        self.node_id = bytes(20)
        self.nearest = ([], [])
        self.result = dht_pb2.FindResult(type=dht_pb2.NOT_FOUND)
        self.answers = asyncio.Event()
        self.answers.set()

    async def rpc_ping(self, request: dht_pb2.PingRequest, context: P2PContext) -> dht_pb2.PingResponse:
        return dht_pb2.PingResponse(peer=dht_pb2.NodeInfo(node_id=self.node_id))

    async def rpc_find(self, request: dht_pb2.FindRequest, context: P2PContext) -> dht_pb2.FindResponse:
        await self.answers.wait()
        node_ids, peer_ids = self.nearest
        found = dht_pb2.FindResult(nearest_node_ids=node_ids, nearest_peer_ids=peer_ids)
        found.MergeFrom(self.result)
        return dht_pb2.FindResponse(results=[found] * len(request.keys), peer=dht_pb2.NodeInfo(node_id=self.node_id))


@asynccontextmanager
async def made():
    """Start a node of the DHT. Yield it, and `{its peer id: its addresses}`."""
    p2p = await P2PDaemon.create(
        host_maddrs=["/ip4/127.0.0.1/tcp/0"], auto_nat=False, nat_port_map=False, use_relay=False
    )
    node = DHTProtocol()
    await node.add_p2p_handlers(p2p)
    yield node, {str(p2p.peer_id): [str(one).rpartition("/p2p/")[0] for one in await p2p.get_visible_maddrs()]}
    await p2p.shutdown()


@pytest_asyncio.fixture
async def hostile():
    async with made() as node_and_peers:
        yield node_and_peers


def dictionary(**values):
    """What a node answers that holds these values under a key."""
    held, expires = DictionaryDHTValue(), time.time() + 60
    for subkey, packed in values.items():
        held.store(subkey, packed, expires)
    return dht_pb2.FindResult(
        type=dht_pb2.FOUND_DICTIONARY, value=MSGPackSerializer.dumps(held), expiration_time=expires
    )


LONG_ID = bytes(3_000_000)


@pytest.mark.parametrize(
    "nearest",
    [([bytes(20)], [LONG_ID]), ([bytes(20)] * 60_000, [b"\x12\x20" + bytes(32)] * 60_000)],
)
async def test_what_a_node_names_is_limited_before_it_is_decoded(hostile, nearest):
    """hivemind decodes each peer id at once, in time by the square of its length: a day for one of 3 MB."""
    node, peers = hostile
    async with await DHTClientNode.open() as dht_node:
        assert set((await dht_node.join(peers, 5)).values()) == {None}
        assert await dht_node.look_up(["a"], 5) == ({"a": None}, {})
        node.nearest = nearest
        assert await dht_node.look_up(["a"], 5) == ({}, {})


async def test_what_other_nodes_hold_is_kept_where_one_delays_the_end(hostile):
    """It answers pings, so it is waited for until the time is over."""
    slow, peers = hostile
    slow.answers.clear()
    async with made() as (honest, others), await DHTClientNode.open() as dht_node:
        honest.node_id, honest.result = bytes([1] * 20), dictionary(peer=b"record")
        assert set((await dht_node.join(peers | others, 5)).values()) == {None}
        assert await dht_node.look_up(["a"], 1) == ({}, {"a": {"peer": b"record"}})
        slow.answers.set()
        assert await dht_node.look_up(["a"], 5) == ({"a": {"peer": b"record"}}, {})


async def test_a_node_whose_own_id_is_none_has_not_answered(hostile):
    """hivemind raises out of its ping for one that is too long."""
    node, peers = hostile
    node.node_id = bytes(range(1, 100))
    async with await DHTClientNode.open() as dht_node:
        (failure,) = (await dht_node.join(peers, 5)).values()
        assert "does not answer as a hivemind DHT node" in failure.error


def test_an_answer_about_more_keys_than_anybody_requests_is_refused_at_once():
    """There is room for two million results in one."""
    assert len(_checked(dht_pb2.FindResponse(results=[dht_pb2.FindResult()] * MAX_RESULTS)).results) == MAX_RESULTS
    with pytest.raises(P2PHandlerError, match="too many keys"):
        _checked(dht_pb2.FindResponse(results=[dht_pb2.FindResult()] * (MAX_RESULTS + 1)))
