"""Any node of the swarm can name wrong addresses for a peer: a live server is found all the same."""

import asyncio
import os
import signal
import time

import pytest
import pytest_asyncio

from deploy.demo.simulated_server import Announcement, Model, stop_process
from shared.p2p.address_search import DIALLED_AT_ONCE, MAX_ASKED, MAX_DIALLED, Search
from shared.p2p.addresses import AddressRules
from shared.p2p.connect import PeerDials, ProberNode
from shared.p2p.dht_node import DHTClientNode
from shared.p2p.dial_errors import Failure, outcome_of
from shared.p2p.multiaddr import from_text
from shared.p2p.probe import probe
from shared.p2p.swarm_settings import bootstrap_peers
from shared.reachability import Cause
from shared.snapshot import Verdict
from shared.tasks import end
from tests.fakes import peer_id
from tests.shared.lying_node import LyingNode, Tarpit, id_near

pytestmark = pytest.mark.swarm
CLOSED_PORT = "/ip4/127.0.0.1/tcp/1"
UNKNOWN = Failure("none yet")


@pytest_asyncio.fixture
async def liar():
    node = await LyingNode.start()
    yield node
    await node.close()


@pytest_asyncio.fixture
async def nodes(swarm, liar):
    """A dht_node that joined through an honest and a lying bootstrap peer, and a prober_node."""
    peers = bootstrap_peers([await liar.address(), *swarm.initial_peers])
    async with await DHTClientNode.open() as dht_node, await ProberNode.open() as prober_node:
        errors = await dht_node.join(peers, 5)
        assert set(errors.values()) == {None}
        yield dht_node, prober_node


async def probe_through(nodes, peer):
    return await probe(*nodes, peer, deadline=time.monotonic() + 5)


async def probe_with_the_lie_first(swarm, liar, nodes, peer):
    """The honest node is held back until the liar has spoken and what it named was dialled."""
    swarm.bootstrap.freeze()
    try:
        probing = asyncio.create_task(probe_through(nodes, peer))
        async with asyncio.timeout(4):
            while not liar.asked:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        assert not probing.done()
    finally:
        swarm.bootstrap.thaw()
    return await probing


@pytest.mark.parametrize("lie", ["a closed port", "another node's address"])
async def test_a_lie_that_comes_first_does_not_make_a_live_server_unreachable(swarm, liar, nodes, lie):
    """It is dialled and fails; then the honest node's answer is dialled too."""
    live, bystander = swarm.start(Announcement(Model("m", 4), 0, 4)), swarm.start()
    elsewhere = addresses(swarm, bystander)[0].rpartition("/p2p/")[0]
    liar.says = {live.peer_id: {live.peer_id: [CLOSED_PORT if lie == "a closed port" else elsewhere]}}
    outcome = await probe_with_the_lie_first(swarm, liar, nodes, live.peer_id)
    assert outcome.verdict is Verdict.REACHABLE


async def test_a_liar_cannot_take_all_the_room_of_a_dial(swarm, liar, nodes):
    """p2pd dials eight addresses of a peer at once: sixteen that hang would keep the true one waiting."""
    live = swarm.start(Announcement(Model("m", 4), 0, 4))
    async with Tarpit(16) as tarpit:
        liar.says = {live.peer_id: {live.peer_id: tarpit.addresses}}
        outcome = await probe_with_the_lie_first(swarm, liar, nodes, live.peer_id)
        assert outcome.verdict is Verdict.REACHABLE
        assert tarpit.knocks <= DIALLED_AT_ONCE


async def test_a_liar_cannot_lead_the_search_away(swarm, liar, nodes):
    """It names nodes near the peer that do not exist: the bootstrap peers are asked before any of these."""
    live = swarm.start(Announcement(Model("m", 4), 0, 4))
    liar.says = {live.peer_id: {id_near(live.peer_id, number): [CLOSED_PORT] for number in range(20)}}
    outcome = await probe_with_the_lie_first(swarm, liar, nodes, live.peer_id)
    assert outcome.verdict is Verdict.REACHABLE


async def test_a_dead_peer_is_still_called_unreachable_where_somebody_lies(swarm, liar, nodes):
    """Its old address and the lie were both dialled, once."""
    dead = swarm.start(Announcement(Model("m", 4), 0, 4))
    address = addresses(swarm, dead)[0].rpartition("/p2p/")[0]
    swarm.close_server(dead)
    liar.says = {dead.peer_id: {dead.peer_id: [CLOSED_PORT, address]}}
    outcome = await probe_through(nodes, dead.peer_id)
    assert (outcome.verdict, outcome.cause) == (Verdict.UNREACHABLE, Cause.REFUSED)


async def test_a_liar_makes_nobody_an_amplifier(liar, nodes):
    """However many addresses and nodes it names: one probe dials few, each once."""
    nobody = peer_id(77)
    async with Tarpit(20) as named, Tarpit(16) as steps:
        near = {id_near(nobody, number): steps.addresses for number in range(31)}
        liar.says = {nobody: {**near, nobody: named.addresses}}
        outcome = await probe_through(nodes, nobody)
        assert (outcome.verdict, outcome.cause) == (Verdict.UNREACHABLE, Cause.FROZEN)
        # A dial that hung is followed by one knock at each address.
        assert named.knocks <= 2 * MAX_DIALLED
        assert steps.knocks <= MAX_ASKED * 4


async def test_nobody_is_believed_before_others_were_asked(swarm, liar, nodes):
    """The time ends with the honest node still silent: nobody knows whether it would have named another address."""
    liar.says = {peer_id(5): {peer_id(5): [CLOSED_PORT]}}
    dht_node, _ = nodes
    search = Search(
        dht_node.kademlia,
        peer_id(5),
        (str(liar.node.peer_id), swarm.bootstrap.peer_id),
        AddressRules(dial_private=True),
    )
    named = []
    swarm.bootstrap.freeze()
    try:
        running = asyncio.create_task(search.run(named.append))
        async with asyncio.timeout(4):
            while not named:
                await asyncio.sleep(0.01)
        assert not search.over
        await end(running)
    finally:
        swarm.bootstrap.thaw()
    assert named == [(from_text(CLOSED_PORT),)]
    assert not search.over


def addresses(swarm, server):
    return swarm.call(server.addresses())


async def test_an_answer_that_our_own_daemon_was_too_late_to_hear_may_have_named_the_address(swarm, liar, nodes):
    """One node knows no address; the other's answer, which names it, waits until our daemon goes on."""
    live = swarm.start(Announcement(Model("m", 4), 0, 4))
    liar.says = {live.peer_id: {}}
    dht_node = nodes[0]
    swarm.bootstrap.freeze()
    try:
        probing = asyncio.create_task(probe_through(nodes, live.peer_id))
        async with asyncio.timeout(4):
            while not dht_node.kademlia.streams._idle:  # the answer of the liar, whose stream is kept, has come
                await asyncio.sleep(0.01)
        stop_process(dht_node.daemon_pid)
        swarm.bootstrap.thaw()
        outcome = await probing
    finally:
        swarm.bootstrap.thaw()
        os.kill(dht_node.daemon_pid, signal.SIGCONT)
    assert (outcome.verdict, outcome.cause) == (Verdict.UNKNOWN, Cause.NODE_UNFIT)
    liar.says = {}
    assert (await probe_through(nodes, live.peer_id)).verdict is Verdict.REACHABLE  # no node was taken for silent


async def test_a_silent_start_peer_may_have_named_the_address(swarm, liar, nodes, monkeypatch):
    """Another one knows no address, or a wrong one. A server behind a relay is known to few.

    A start peer that is silent for long counts no more.
    """
    asked = [swarm.start(Announcement(Model("m", 4), 0, 4)).peer_id for _ in range(2)]
    liar.says = {asked[0]: {}, asked[1]: {asked[1]: [CLOSED_PORT]}}
    swarm.bootstrap.freeze()
    try:
        found = await asyncio.gather(*(probe_through(nodes, peer) for peer in asked))
        assert {one.cause for one in found} == {Cause.LOOKUP_UNFINISHED}
        monkeypatch.setattr("shared.p2p.address_search.BELIEVED_SILENT_AFTER", 0)
        found = await asyncio.gather(*(probe_through(nodes, peer) for peer in asked))
        assert {one.verdict for one in found} == {Verdict.UNREACHABLE}
    finally:
        swarm.bootstrap.thaw()


async def test_a_start_peer_that_ends_its_streams_may_have_named_the_address(swarm, liar, nodes):
    """It restarts, or has too many streams: that another one knows no address is no fact then."""
    nobody = peer_id(7)
    assert (await probe_through(nodes, nobody)).cause is Cause.NO_ADDRESS
    liar.answers_a_stream = 0
    assert (await probe_through(nodes, nobody)).cause is Cause.LOOKUP_UNFINISHED


@pytest.mark.parametrize("lie", ["silent", "refused"])
async def test_a_wrong_address_of_a_relay_holds_up_nobody_who_knows_the_right_one(swarm, lie):
    """A peer may announce that it is behind another's relay, at an address where that is not."""
    relay = swarm.start()
    right = tuple(from_text(one.rpartition("/p2p/")[0]) for one in addresses(swarm, relay))
    async with Tarpit(1) as tarpit, await ProberNode.open() as prober_node:
        wrong = tarpit.addresses[0] if lie == "silent" else CLOSED_PORT
        lying = asyncio.create_task(prober_node.relays.connect(relay.peer_id, (from_text(wrong),)))
        await asyncio.sleep(0)
        async with asyncio.timeout(2):
            await prober_node.relays.connect(relay.peer_id, right)
        await end(lying)


@pytest.mark.parametrize("lie", ["silent", "refused"])
async def test_a_wrong_address_of_the_relay_that_comes_first_hides_no_right_one(swarm, lie):
    """One node answers sooner than an honest one, and names the server's own relay at an address where that is not."""
    relay = swarm.start()
    circuit = f"/p2p/{relay.peer_id}/p2p-circuit"
    right = addresses(swarm, relay)[0].rpartition("/p2p/")[0]
    async with Tarpit(1) as tarpit, await ProberNode.open() as prober_node:
        wrong = tarpit.addresses[0] if lie == "silent" else CLOSED_PORT
        async with PeerDials(prober_node, peer_id(1), AddressRules(dial_private=True)) as dials:
            dials.add([from_text(wrong + circuit)])
            if lie == "refused":
                await dials.ended()
            else:
                await asyncio.sleep(0.1)
            dials.add([from_text(right + circuit)])
            async with asyncio.timeout(5):
                # It relays for nobody, which shows that it was reached.
                while outcome_of(dials.failures or [UNKNOWN]).cause is not Cause.RELAY_REFUSED:
                    await asyncio.sleep(0.01)


async def test_an_address_that_p2pd_cannot_read_spoils_no_other_one(swarm, liar, nodes):
    """It would refuse a request with such an address as a whole."""
    live = swarm.start(Announcement(Model("m", 4), 0, 4))
    right = [one.rpartition("/p2p/")[0] for one in addresses(swarm, live)]
    liar.says = {live.peer_id: {live.peer_id: [from_text(CLOSED_PORT) + b"\x36\x01/", *right]}}
    search = Search(nodes[0].kademlia, live.peer_id, (str(liar.node.peer_id),), AddressRules(dial_private=True))
    async with PeerDials(nodes[1], live.peer_id, search.rules) as dials:
        await search.run(dials.add)
        await dials.ended()
        assert dials.connected.is_set()
