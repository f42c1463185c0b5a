"""Streams that are asked more than once: fewer are opened, and no answer is ever taken for another's."""

import asyncio

import pytest
import pytest_asyncio

from shared.p2p import address_search, request_streams
from shared.p2p.address_search import ASK_TIMEOUT
from shared.p2p.dht_node import DHTClientNode
from shared.p2p.kad_messages import PROTOCOL, closer_peers, find_node
from shared.p2p.multiaddr import to_text
from shared.p2p.request_streams import RequestStreams
from shared.p2p.swarm_settings import bootstrap_peers
from tests.fakes import peer_id
from tests.shared.lying_node import LyingNode

pytestmark = pytest.mark.swarm
ADDRESSES = {number: f"/ip4/192.0.2.{number}/tcp/31330" for number in range(1, 101)}


@pytest_asyncio.fixture
async def node():
    """One that says something else of each peer."""
    node = await LyingNode.start()
    node.says = {peer_id(number): {peer_id(number): [address]} for number, address in ADDRESSES.items()}
    yield node
    await node.close()


@pytest_asyncio.fixture
async def dht_node(node):
    async with await DHTClientNode.open() as dht_node:
        assert set((await dht_node.join(bootstrap_peers([await node.address()]), 5)).values()) == {None}
        yield dht_node


async def found(dht_node, number):
    search = dht_node.search(peer_id(number), dialled_from=dht_node.peer_id)
    await search.run(lambda _: None)
    return [to_text(address) for address in search.addresses]


@pytest.mark.parametrize("answers_a_stream", [1, 3, 1_000])
async def test_every_question_is_answered_however_often_the_node_closes(dht_node, node, answers_a_stream, monkeypatch):
    """Each with its own answer, also many at once; a node that lets them be kept is opened far fewer."""
    monkeypatch.setattr(address_search, "ASK_TIMEOUT", 30.0)  # a busy machine's silence is not what is tested
    node.answers_a_stream = answers_a_stream
    for number in range(1, 21):
        assert await found(dht_node, number) == [ADDRESSES[number]]
    everybody = await asyncio.gather(*(found(dht_node, number) for number in ADDRESSES))
    assert everybody == [[address] for address in ADDRESSES.values()]
    assert 120 <= node.asked <= 120 + node.streams  # one that met the end of its stream is asked once more
    assert (node.streams < 120) == (answers_a_stream > 1)


async def test_one_stream_is_enough_for_questions_one_after_another(node, dht_node, monkeypatch):
    """Of those that many at once took, so many are kept."""
    monkeypatch.setattr(request_streams, "KEPT", 8)
    monkeypatch.setattr(address_search, "ASK_TIMEOUT", 30.0)
    node.answers_a_stream = 1_000
    for number in range(1, 11):
        assert await found(dht_node, number) == [ADDRESSES[number]]
    assert node.streams == 1
    await asyncio.gather(*(found(dht_node, number) for number in ADDRESSES))
    assert len(dht_node.kademlia.streams._idle[str(node.node.peer_id)]) == 8


async def test_a_late_answer_is_not_taken_for_the_next_question(node, dht_node):
    """Whoever does not wait for an answer leaves no stream behind on which it would still come."""
    node.answers_a_stream = 1_000
    assert await found(dht_node, 1) == [ADDRESSES[1]]
    node.delay = ASK_TIMEOUT + 0.3
    assert await found(dht_node, 2) == []
    node.delay = 0
    for number in range(3, 6):
        assert await found(dht_node, number) == [ADDRESSES[number]]
        await asyncio.sleep(0.2)


async def test_a_node_that_restarted_is_asked_again(node, dht_node):
    """Streams that were kept are dead then, all of them."""
    node.answers_a_stream = 1_000
    await asyncio.gather(*(found(dht_node, number) for number in ADDRESSES))
    await dht_node.disconnect(str(node.node.peer_id))
    await dht_node.join(bootstrap_peers([await node.address()]), 5)
    assert await found(dht_node, 7) == [ADDRESSES[7]]


async def test_only_who_is_asked_again_is_kept(node, dht_node):
    """Strangers on the way are asked once: their streams would pile up."""
    name = str(node.node.peer_id)
    streams = RequestStreams(dht_node, PROTOCOL)
    question = find_node(b"\x00" * 34)
    assert closer_peers(await streams.ask(name, question, keep=False)) == {}
    assert not streams._idle


async def test_an_answer_that_comes_after_the_end_leaves_no_stream(node, dht_node):
    """Searches may still be under way when their node closes."""
    streams = RequestStreams(dht_node, PROTOCOL)
    streams.close()
    await streams.ask(str(node.node.peer_id), find_node(b"\x00" * 34), keep=True)
    assert not streams._idle
