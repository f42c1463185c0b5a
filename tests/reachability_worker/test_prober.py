"""The prober on a real private swarm: each verdict, and above all no false negative."""

import asyncio
import os
import signal
import time
from contextlib import asynccontextmanager

import pytest

from deploy.demo.simulated_inference import Computation
from deploy.demo.simulated_server import Announcement, Model, stop_process
from reachability_worker.inference import CHECKS_AT_ONCE, InferenceChecker
from reachability_worker.nodes import Nodes
from reachability_worker.prober import Prober
from shared.inference import InferenceOutcome, InferenceRequest
from shared.p2p import petals
from shared.p2p.addresses import DialPrivate
from shared.p2p.connect import ProberNode
from shared.p2p.daemon import PING_BYTES, PING_PROTOCOL
from shared.p2p.hivemind import ControlFailure, P2PContext, runtime_pb2
from shared.p2p.probe import probe
from shared.p2p.swarm_settings import bootstrap_peers
from shared.reachability import Cause, DialOutcome, Stage
from shared.snapshot import Verdict
from shared.tasks import end
from tests.fakes import peer_id
from tests.reliability.parts import daemons_of
from tests.shared.lying_node import LyingNode

pytestmark = pytest.mark.swarm

MODEL = Model("demo-model", 4)


@asynccontextmanager
async def prober_in(swarm, dial_private=DialPrivate.AUTO, **more):
    options = {"check_timeout": 5.0, "dials_at_once": 1024, **more}
    nodes = Nodes(swarm.bootstrap_peers, dial_private)
    running = asyncio.create_task(nodes.run())
    assert await nodes.until_fit(20)
    try:
        yield nodes, Prober(nodes, **options)
    finally:
        await end(running)


async def look(prober, peer, seconds=8.0):
    return await prober.probe(peer, time.monotonic() + seconds)


async def heard(prober, peer):
    """Look until this machine is not too busy to hear an answer: of a silent peer such a look says nothing."""
    for _ in range(5):
        if (found := await look(prober, peer)).cause is not Cause.NODE_UNFIT:
            break
    return found


async def test_each_kind_of_peer_gets_its_verdict_and_evidence(swarm):
    """Live, joining, dead, unknown and frozen peers, all asked at once."""
    live = swarm.start(Announcement(MODEL, 0, 4))
    joining = swarm.start(Announcement(MODEL, 0, 4, state="joining"), serves=False)
    dead = swarm.start()
    frozen = swarm.start()
    swarm.close_server(dead)
    frozen.freeze()
    async with prober_in(swarm) as (_, prober):
        asked = [live.peer_id, joining.peer_id, dead.peer_id, peer_id(1), frozen.peer_id, swarm.bootstrap.peer_id]
        served, loading, gone, nobody, silent, bootstrap = await asyncio.gather(
            *(heard(prober, peer) for peer in asked)
        )
    assert (served.verdict, served.stage, served.protocol_ok) == (Verdict.REACHABLE, Stage.ANSWERED, True)
    assert served.addresses[0].startswith("/ip4/127.0.0.1/tcp/")
    assert served.relayed is False
    assert (loading.verdict, loading.protocol_ok) == (Verdict.REACHABLE, False)
    assert (gone.verdict, gone.stage, gone.cause) == (Verdict.UNREACHABLE, Stage.DIAL, Cause.REFUSED)
    assert (nobody.verdict, nobody.stage, nobody.cause) == (Verdict.UNREACHABLE, Stage.LOOKUP, Cause.NO_ADDRESS)
    assert (silent.verdict, silent.stage, silent.cause) == (Verdict.UNREACHABLE, Stage.SECURITY, Cause.FROZEN)
    assert bootstrap.verdict is Verdict.REACHABLE


async def test_a_peer_that_was_reached_can_be_asked_to_compute(swarm):
    """Within the time of the check; another model's blocks are refused, a server that hangs is a time-out."""
    good = swarm.start(Announcement(MODEL, 0, 4))
    hangs = swarm.start(Announcement(MODEL, 0, 4), computation=Computation(fault="silent"))
    async with prober_in(swarm) as (_, prober):
        checker, outcomes = InferenceChecker(dial_private=True, dial_timeout=5.0), {}
        for server, prefix in ((good, "demo-model"), (good, "other"), (hangs, "demo-model")):
            reached = await look(prober, server.peer_id)
            asked = InferenceRequest(prefix, 0, 4)
            found = await checker.infer(server.peer_id, reached, asked, time.monotonic() + 4)
            outcomes[server.peer_id, prefix] = found.outcome
        assert list(outcomes.values()) == [
            InferenceOutcome.COMPUTED, InferenceOutcome.REFUSED, InferenceOutcome.TIMEOUT
        ]  # fmt: skip
        assert (await look(prober, good.peer_id)).verdict is Verdict.REACHABLE


async def test_a_peer_cannot_have_megabytes_held(swarm):
    """A thousand of them at once would take all memory: what is longer than any genuine answer is not read."""

    class TransformerConnectionHandler(petals.TransformerConnectionHandler):
        async def rpc_info(self, request: runtime_pb2.ExpertUID, context: P2PContext) -> runtime_pb2.ExpertInfo:
            return runtime_pb2.ExpertInfo(serialized_info=bytes(1 << 20))

    server = swarm.start(Announcement(MODEL, 0, 4), serves=False)
    swarm.call(TransformerConnectionHandler().add_p2p_handlers(server.node.p2p))
    async with prober_in(swarm) as (_, prober):
        found = await look(prober, server.peer_id)
    assert (found.verdict, found.cause, found.error) == (Verdict.REACHABLE, Cause.HANDLER_FAILED, "message too long")


async def test_an_inference_check_that_had_no_time_says_nothing_about_the_server():
    """Two slow servers that others ask to compute make no third one seem unable to."""
    checker, reached = InferenceChecker(dial_private=True, dial_timeout=5.0), DialOutcome(Verdict.REACHABLE, Stage.DIAL)
    for _ in range(CHECKS_AT_ONCE):
        await checker._slots.acquire()
    found = await checker.infer(peer_id(1), reached, InferenceRequest("m", 0, 4), time.monotonic() + 1.1)
    assert found.outcome is InferenceOutcome.UNKNOWN


async def test_a_peer_that_comes_back_is_reachable_at_once(swarm):
    """p2pd answers "dial backoff" for seconds after a failure; that never becomes a verdict on a live peer."""
    server = swarm.start(Announcement(MODEL, 0, 4))
    async with prober_in(swarm, check_timeout=2.0) as (_, prober):
        server.freeze()
        for _ in range(2):
            assert (await heard(prober, server.peer_id)).verdict is Verdict.UNREACHABLE
        server.thaw()
        # Its failures of a moment ago explain a backoff for ten seconds; after that, a fresh prober_node probes.
        deadline = time.monotonic() + 15
        while (await look(prober, server.peer_id)).verdict is not Verdict.REACHABLE:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.5)


async def test_a_prober_cut_off_from_the_swarm_calls_nobody_unreachable(swarm):
    """With the only bootstrap peer gone, no answer is a verdict; when it is back, answers are right again."""
    dead = swarm.start()
    swarm.close_server(dead)
    async with prober_in(swarm) as (nodes, prober):
        swarm.bootstrap.freeze()
        outcomes = await asyncio.gather(look(prober, dead.peer_id), look(prober, peer_id(1)))
        assert {outcome.verdict for outcome in outcomes} == {Verdict.UNKNOWN}
        assert not nodes.fit
        swarm.bootstrap.thaw()
        assert await nodes.until_fit(20)
        live = swarm.start(Announcement(MODEL, 0, 4))
        assert (await look(prober, live.peer_id)).verdict is Verdict.REACHABLE


async def test_a_bootstrap_peer_that_was_away_at_the_start_is_asked_as_soon_as_it_answers(swarm, monkeypatch):
    """A server behind a relay may be known to it alone."""
    monkeypatch.setattr("reachability_worker.nodes.SELF_TEST_EVERY", 0.2)
    monkeypatch.setattr("reachability_worker.nodes.JOIN_TIMEOUT", 1.0)
    second = await LyingNode.start()
    swarm.bootstrap.freeze()
    nodes = Nodes(bootstrap_peers([await second.address(), *swarm.initial_peers]), DialPrivate.YES)
    running = asyncio.create_task(nodes.run())
    try:
        assert await nodes.until_fit(20)
        dht_node = nodes.current().dht_node
        assert dht_node.joined == (str(second.node.peer_id),)
        swarm.bootstrap.thaw()
        async with asyncio.timeout(30):
            while swarm.bootstrap.peer_id not in dht_node.joined:
                await asyncio.sleep(0.1)
    finally:
        swarm.bootstrap.thaw()
        await end(running)
        await second.close()


async def test_a_lost_daemon_is_noticed_and_replaced(swarm):
    """While a daemon of ours is dead or deaf, live peers are not called unreachable; then it heals."""
    live = swarm.start(Announcement(MODEL, 0, 4))

    async def lose(which, how):
        async with prober_in(swarm, check_timeout=2.0) as (nodes, prober):
            os.kill(getattr(nodes.current(), which).daemon_pid, how)
            outcome = await look(prober, live.peer_id, 5)
            assert outcome.verdict is not Verdict.UNREACHABLE, (which, how)
            deadline = time.monotonic() + 30
            while (await look(prober, live.peer_id)).verdict is not Verdict.REACHABLE:
                assert time.monotonic() < deadline, (which, how)
                await asyncio.sleep(0.3)

    before = set(daemons_of(os.getpid()))
    async with asyncio.TaskGroup() as probers:
        for which in ("dht_node", "prober_node"):
            for how in (signal.SIGKILL, signal.SIGSTOP):
                probers.create_task(lose(which, how))
    # Workers were told to stop while they closed frozen ones, which takes a moment.
    async with asyncio.timeout(5):
        while set(daemons_of(os.getpid())) - before:
            await asyncio.sleep(0.05)


async def test_a_self_test_ends_no_connection_that_others_use(swarm):
    """Bootstrap peers relay for servers behind NATs: circuits lead over the prober node's connections to them."""
    async with prober_in(swarm) as (nodes, _):
        pair, bootstrap = nodes.current(), swarm.bootstrap.peer_id
        await pair.prober_node.connect(bootstrap, pair.dht_node.bootstrap_peers[bootstrap])
        reader, writer = await pair.prober_node.open_stream(bootstrap, PING_PROTOCOL)
        assert await pair.passes_self_test()
        writer.write(bytes(PING_BYTES))
        assert await reader.readexactly(PING_BYTES) == bytes(PING_BYTES)
        writer.close()


async def test_nodes_confirm_what_they_found_themselves(swarm, monkeypatch):
    """A failure that a broken daemon reports is not confirmed by the one that took its place meanwhile."""
    async with prober_in(swarm) as (nodes, _):
        broken = nodes.current()
        monkeypatch.setattr(broken.prober_node, "connect", _too_many_files)
        fresh = await nodes.replace(broken)
        found = DialOutcome(Verdict.UNREACHABLE, Stage.DIAL, Cause.OTHER)
        assert (await nodes.confirmed(found, broken)).verdict is Verdict.UNKNOWN
        assert await nodes.confirmed(found, fresh) is found
        assert nodes.fit


async def _too_many_files(*_):
    raise ControlFailure("dial tcp4 192.0.2.1:1: socket: too many open files")


async def test_no_check_waits_for_a_prober_node_that_does_not_start(swarm, monkeypatch):
    """An old one works on while the one that shall replace it starts."""
    live = swarm.start(Announcement(MODEL, 0, 4))
    monkeypatch.setattr("reachability_worker.prober.PROBER_NODE_LIFETIME", 0)
    async with prober_in(swarm) as (_, prober):
        monkeypatch.setattr(ProberNode, "open", classmethod(lambda _: asyncio.sleep(60)))
        for _ in range(2):
            assert (await look(prober, live.peer_id, 5)).verdict is Verdict.REACHABLE


async def test_a_prober_node_that_is_replaced_while_the_swarm_is_lost_does_not_stay(swarm, monkeypatch):
    """Two daemons are left: those that joined the swarm again."""
    monkeypatch.setattr("reachability_worker.nodes.RETIRED_LASTS", 0)
    monkeypatch.setattr("reachability_worker.nodes.RECOVER_PAUSES", (0,))
    before = set(daemons_of(os.getpid()))
    async with prober_in(swarm) as (nodes, _):
        pair = nodes.current()
        nodes._become_unfit("a test")
        await nodes.replace(pair)
        assert await nodes.until_fit(20)
        async with asyncio.timeout(5):
            while len(set(daemons_of(os.getpid())) - before) != 2:
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("away", ["our own daemon", "all others, as where our network is away"])
async def test_who_stood_still_during_a_probe_has_proved_nothing(swarm, monkeypatch, away):
    """They go on before the self-test, which then passes: only what is measured beside the probe can tell."""
    monkeypatch.setattr("reachability_worker.nodes.SELF_TEST_EVERY", 60.0)  # none but the probe's own
    live = swarm.start(Announcement(MODEL, 0, 4))
    async with prober_in(swarm, check_timeout=3.0) as (nodes, prober):
        pair = nodes.current()
        ours, theirs = [pair.prober_node.daemon_pid], [live.daemon_pid, swarm.bootstrap.daemon_pid]
        daemons, passes = ours if away == "our own daemon" else theirs, pair.passes_self_test

        def stop(stage):
            if stage is Stage.DIAL:
                for daemon in daemons:
                    stop_process(daemon)

        async def go_on_first():
            for daemon in daemons:
                os.kill(daemon, signal.SIGCONT)
            return await passes()

        monkeypatch.setattr(pair, "passes_self_test", go_on_first)
        outcome = await prober.probe(live.peer_id, time.monotonic() + 8, stop)
        assert (outcome.verdict, outcome.cause, nodes.fit) == (Verdict.UNKNOWN, Cause.NODE_UNFIT, True)


async def test_waiting_for_a_slot_is_not_failing(swarm):
    """A check whose time runs out before it may dial says that nobody could look."""
    frozen = swarm.start()
    frozen.freeze()
    async with prober_in(swarm, dials_at_once=1) as (_, prober):
        has_slot = asyncio.Event()
        first = asyncio.create_task(prober.probe(frozen.peer_id, time.monotonic() + 6, lambda _: has_slot.set()))
        await has_slot.wait()
        waiting = await look(prober, peer_id(1), 0.5)
        assert (waiting.verdict, waiting.cause) == (Verdict.UNKNOWN, Cause.NO_SLOT)
        assert (await first).verdict is Verdict.UNREACHABLE or (await first).cause is Cause.NODE_UNFIT


async def test_what_hung_for_a_moment_only_has_proved_nothing(swarm):
    """A check that waited long in the queue, for a relay or an address, has little time left for the peer."""
    server = swarm.start(Announcement(MODEL, 0, 4))
    async with prober_in(swarm) as (nodes, prober):
        pair = nodes.current()
        found = await probe(
            pair.dht_node, pair.prober_node, server.peer_id, deadline=time.monotonic() + 0.9, must_serve=True,
            on_stage=lambda stage: server.freeze() if stage is Stage.PROTOCOL else None,
        )  # fmt: skip
        assert (found.verdict, found.stage, found.cause) == (Verdict.UNKNOWN, Stage.PROTOCOL, Cause.NO_SLOT)
        found = await look(prober, server.peer_id, 0.9)
        assert (found.verdict, found.stage, found.cause) == (Verdict.UNKNOWN, Stage.DIAL, Cause.NO_SLOT)
    server.thaw()


async def test_a_call_whose_connection_another_probe_ends_is_made_again(swarm):
    """Servers relay for each other, and a server's own probe begins with a new connection: circuits through it end."""
    calls = []

    class TransformerConnectionHandler(petals.TransformerConnectionHandler):
        async def rpc_info(self, request: runtime_pb2.ExpertUID, context: P2PContext) -> runtime_pb2.ExpertInfo:
            calls.append(request)
            if len(calls) == 1:
                await asyncio.sleep(60)
            return runtime_pb2.ExpertInfo()

    server = swarm.start(Announcement(MODEL, 0, 4), serves=False)
    swarm.call(TransformerConnectionHandler().add_p2p_handlers(server.node.p2p))
    async with prober_in(swarm) as (nodes, _):
        pair = nodes.current()
        probing = asyncio.create_task(
            probe(pair.dht_node, pair.prober_node, server.peer_id, deadline=time.monotonic() + 5, must_serve=True)
        )
        while not calls:
            await asyncio.sleep(0.01)
        await pair.prober_node.disconnect(server.peer_id)
        outcome = await probing
    assert (outcome.verdict, outcome.stage) == (Verdict.REACHABLE, Stage.ANSWERED)


async def test_hundreds_of_silent_peers_do_not_make_a_live_one_look_dead(swarm):
    """p2pd's default of 160 dials at once made live peers time out behind silent ones."""
    from shared.p2p.address_search import Search
    from shared.p2p.multiaddr import from_text

    over = asyncio.Event()

    async def say_nothing(_, writer):
        await over.wait()
        writer.close()

    listener = await asyncio.start_server(say_nothing, "127.0.0.1", 0, backlog=1024)
    silent = f"/ip4/127.0.0.1/tcp/{listener.sockets[0].getsockname()[1]}"
    live = swarm.start(Announcement(MODEL, 0, 4))
    async with prober_in(swarm) as (nodes, prober):
        dht_node = nodes.current().dht_node
        search = dht_node.search

        def find(peer, **dialled_from):
            if peer == live.peer_id:
                return search(peer, **dialled_from)
            return Search.of_known(dht_node.kademlia, peer, (from_text(silent),))

        dht_node.search = find
        try:
            hanging = [asyncio.create_task(look(prober, peer_id(n))) for n in range(400)]
            await asyncio.sleep(1)
            for _ in range(3):
                outcome = await look(prober, live.peer_id, 3)
                assert outcome.verdict is Verdict.REACHABLE
            outcomes = await asyncio.gather(*hanging)
        finally:
            listener.close()
            over.set()
    # A machine that is too busy to hear an answer says nothing of a silent peer.
    assert all(one.verdict is Verdict.UNREACHABLE or one.cause is Cause.NODE_UNFIT for one in outcomes)
    await asyncio.sleep(0.2)
