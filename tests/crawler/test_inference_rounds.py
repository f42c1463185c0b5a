"""A round of inference checks, with servers that answer in memory: who is asked, what is recorded, who is blamed."""

import asyncio
import itertools
import math
from collections import Counter
from contextlib import asynccontextmanager
from functools import partial
from types import SimpleNamespace

import msgspec
import pytest
from structlog.testing import capture_logs

from crawler.inference import checker, rounds
from crawler.inference.checker import Checker, Round
from crawler.inference.results import Results
from crawler.inference.rounds import InferenceChecks
from crawler.settings import CrawlerSettings
from shared.inference import AgreementOutcome, InferenceOutcome, ServerInference, Usability, UsabilityState
from shared.judgement.usability import OPT_OUT, gives_tokens, not_asked
from shared.p2p import tensors
from shared.p2p.connect import NotConnectedError
from shared.p2p.daemon import NodeError
from shared.p2p.inference import InferenceError
from shared.snapshot import PeerState, Verdict
from tests.fakes import model, peer_id, server, snapshot
from tests.shared.inference_streams import HIDDEN, Servers, answer_rpc_info, compute, numbers, raised, schema

pytestmark = pytest.mark.fast

NOW = 1000.0
ONE, TWO, THREE = peer_id(1), peer_id(2), peer_id(3)


def reached(number, start=0, end=8, **more):
    return server(number, start, end, verdict=Verdict.REACHABLE, **{"inference_rps": 100.0, "relayed": False} | more)


class Swarm:
    """Servers in memory, and one crawler's checks of them."""

    def __init__(self, monkeypatch, daemon=None, **more):
        self.daemon = daemon or Servers()
        self.counted = Counter()
        self.connected = []
        self.slots = []
        """Peer ids of those that were connected to, by slot that had anything to do."""
        self.info = lambda *_: schema()
        self.checks = InferenceChecks(**{"period": 60.0, "now": lambda: NOW, "count": self._count} | more)

        @asynccontextmanager
        async def connection(_node, peer, addresses, rules, *, within):
            self.connected.append((peer, list(addresses), rules, within))
            if self.slots:
                self.slots[-1].append(peer)
            yield

        async def opened(_identity):
            self.slots.append([])
            return self.daemon

        monkeypatch.setattr(rounds, "connection", connection)
        monkeypatch.setattr(rounds.ProberNode, "open", opened)
        answer_rpc_info(monkeypatch, self._answer)

    def checker(self, fresh_for=60.0):
        """Return what a first round checks with."""
        checks = self.checks
        hold = partial(checks.connection, self.daemon)
        return Checker(Round(0), self.daemon, checks.results, hold, fresh_for, checks.count, checks.now)

    def _answer(self, peer, uid):
        return self.info(peer, uid)

    def _count(self, outcome):
        self.counted[outcome] += 1

    async def round(self, *models, age=0.0):
        """Return the models after a round."""
        seen = snapshot(*models, taken_at=NOW - age)
        self.checks.merged(seen)
        await self.checks.round()
        return self.checks.merged(seen).models

    def asked(self):
        """How many sessions each server had."""
        return Counter(peer for peer, _, _, metadata in self.daemon.requests if metadata["step_id"] == "1")


async def test_a_round_asks_each_server_once(monkeypatch):
    """Those of the chain in the chain, the others by themselves; all are compared."""
    swarm = Swarm(monkeypatch)
    (found,) = await swarm.round(model(servers=(reached(1), reached(2, inference_rps=1.0), reached(3, 0, 4))))
    assert swarm.asked() == {ONE: 1, TWO: 1, THREE: 1}
    assert found.usability.state is UsabilityState.USABLE
    assert {one.inference.outcome for one in found.servers} == {InferenceOutcome.COMPUTED}
    assert [one.inference.agreement.outcome for one in found.servers] == [
        AgreementOutcome.AGREES, AgreementOutcome.AGREES, AgreementOutcome.ALONE,
    ]  # fmt: skip
    assert swarm.counted == {"computed": 3}
    assert swarm.checks.merged(snapshot(taken_at=NOW)).inference_peer_id == "QmMonitor"


async def test_who_holds_a_hop_of_the_chain_is_given_what_it_was_given(monkeypatch):
    """So that the two are compared."""
    swarm = Swarm(monkeypatch)
    (found,) = await swarm.round(
        model(servers=(reached(1, 0, 4), reached(2, 4, 8), reached(3, 4, 8, inference_rps=1.0)))
    )
    given = {peer: (uids, value) for peer, uids, value, metadata in swarm.daemon.requests if metadata["step_id"] == "2"}
    assert given[THREE] == given[TWO] != given[ONE]
    assert found.servers[1].inference.agreement.peers == (THREE,)


async def test_other_numbers_stand_out_in_a_round(monkeypatch):
    odd = Servers(**{THREE: lambda request, _step: _other_weights(request)})
    swarm = Swarm(monkeypatch, odd)
    (found,) = await swarm.round(model(servers=tuple(reached(n, inference_rps=100.0 / n) for n in (1, 2, 3))))
    assert [one.inference.agreement.against_majority for one in found.servers] == [False, False, True]


def _other_weights(request):
    values = tensors.read(request.tensors[0], list(request.tensors[0].size))
    return numbers([value * (-1) ** place * 9 for place, value in enumerate(values)])


async def test_a_failure_is_recorded_for_the_server_that_failed(monkeypatch):
    """With the blocks, the time and its own words; a model without another is unusable. The log has the counts."""
    swarm = Swarm(monkeypatch, Servers(**{ONE: lambda *_: raised("a bug"), THREE: lambda *_: raised("not found")}))
    with capture_logs() as logs:
        one, other = await swarm.round(
            model("one", servers=(reached(1),)), model("other", servers=(reached(2), reached(3, 0, 4)))
        )
    assert logs == [{
        "event": "inference round", "log_level": "info", "models": {"unusable": 1, "degraded": 1},
        "servers": {"failed": 1, "refused": 1, "computed": 1},
    }]  # fmt: skip
    failed = ServerInference(InferenceOutcome.FAILED, (0, 8), NOW, detail="a bug")
    assert one.servers[0].inference == failed
    assert (one.usability.state, one.usability.path) == (UsabilityState.UNUSABLE, ())
    assert other.usability.state is UsabilityState.DEGRADED
    assert other.servers[1].inference == ServerInference(InferenceOutcome.REFUSED, (0, 4), NOW, detail="not found")
    assert swarm.counted == {"failed": 1, "refused": 1, "computed": 1}


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        (OSError("gone"), UsabilityState.UNKNOWN),
        (b"", UsabilityState.UNUSABLE),
    ],
)
async def test_a_model_whose_servers_describe_no_blocks(monkeypatch, answer, state):
    """Where our own daemon failed, nobody could look; where the servers answer nonsense, no token comes out."""
    swarm = Swarm(monkeypatch)
    swarm.info = lambda *_: answer
    (found,) = await swarm.round(model(servers=(reached(1),)))
    detail = "p2pd: OSError('gone')" if state is UsabilityState.UNKNOWN else "its rpc_info does not describe the block"
    assert found.usability == Usability(state, NOW, f"no server describes its blocks: {detail}")
    assert not swarm.daemon.requests
    assert found.servers[0].inference.detail == detail


async def test_who_names_another_hidden_size_than_most_is_found_out(monkeypatch):
    """It spoils no chain."""
    swarm = Swarm(monkeypatch)
    swarm.info = lambda peer, _: schema((2,)) if peer == THREE else schema()
    servers = (reached(1), reached(2, inference_rps=50.0), reached(3, inference_rps=1.0), reached(4, inference_rps=1.0))
    (found,) = await swarm.round(model(servers=servers))
    assert found.usability.state is UsabilityState.USABLE
    assert found.servers[2].inference == ServerInference(
        InferenceOutcome.WRONG_SHAPE, (0, 8), NOW, detail="its hidden size is 2, that of other servers of the model 4"
    )


async def test_most_servers_by_name_decide_which_hidden_size_is_wrong(monkeypatch):
    """Nobody counts twice, and where two sizes have equally many, nobody is blamed."""
    swarm = Swarm(monkeypatch)
    named = {ONE: 2, TWO: 4, THREE: 4}
    swarm.info = lambda peer, _: schema((named[peer],))
    checks = swarm.checker(fresh_for=0.0)
    one, two, three = (reached(number) for number in (1, 2, 3))
    for each in (one, two, two, one, three):
        await checks.server(model(), each)
    assert swarm.counted == {"computed": 5}
    await checks.server(model(), one)
    assert swarm.counted == {"computed": 5, "wrong_shape": 1}


def test_servers_that_each_name_another_hidden_size_fill_no_memory():
    """A quarter of a megabyte for each: beyond some, those that come last are not checked."""
    current = Round(0)
    first = current.inputs(1)
    for size in range(2, checker.MAX_SIZES + 1):
        current.inputs(size)
    assert current.inputs(1) is first
    with pytest.raises(InferenceError) as refused:
        current.inputs(checker.MAX_SIZES + 1)
    assert refused.value.outcome is InferenceOutcome.UNKNOWN


async def test_a_chain_of_another_hidden_size_is_nobodys_input(monkeypatch):
    """Of two servers that name different ones nobody knows which is right: each is given what it can compute."""
    swarm = Swarm(monkeypatch)
    swarm.info = lambda peer, _: schema((2,)) if peer == ONE else schema()
    monkeypatch.setattr(checker.random, "sample", lambda asked, _: asked)
    (found,) = await swarm.round(model(servers=(reached(1), reached(2, inference_rps=1.0))))
    assert found.usability.path[0].peer_id == ONE
    two = found.servers[1].inference
    assert (two.outcome, two.detail) == (InferenceOutcome.COMPUTED, None)
    assert two.agreement.outcome is AgreementOutcome.ALONE


@pytest.mark.parametrize("liars_first", [True, False])
@pytest.mark.parametrize("liars", [1, 2])
async def test_who_names_another_hidden_size_makes_no_model_unusable(monkeypatch, liars, liars_first):
    """Not where it is asked first, nor where two of three do: another size is tried where one gives no token.

    Nor is the other called wrong for what it made of a size that is not its own, unless most name that one.
    """
    swarm = Swarm(monkeypatch)
    swarm.info = lambda peer, _: schema() if peer == THREE else schema((2,))
    swarm.daemon.scripts[THREE] = lambda request, step: (
        compute(request, step) if request.tensors[0].size[-1] == HIDDEN else raised("a tensor of another size")
    )
    monkeypatch.setattr(checker.random, "sample", lambda asked, _: asked if liars_first else asked[::-1])
    false = [reached(number + 1, 0, 4, inference_rps=1000.0) for number in range(liars)]
    (found,) = await swarm.round(model(servers=(*false, reached(3))))
    assert (found.usability.state, [hop.peer_id for hop in found.usability.path]) == (UsabilityState.DEGRADED, [THREE])
    honest = next(one for one in found.servers if one.peer_id == THREE)
    assert honest.inference.outcome is InferenceOutcome.COMPUTED


async def test_few_servers_are_asked_for_the_hidden_size(monkeypatch):
    """Until three have named one, and eight at most, in no order; those that are left out are not asked."""
    swarm, asked = Swarm(monkeypatch), []
    swarm.info = lambda peer, uid: asked.append((peer, uid)) or schema()
    servers = tuple(reached(n, n % 2, 8) for n in range(12))
    await swarm.checker().chain(model(servers=servers))
    assert len(asked) == checker.SCHEMAS_ASKED
    assert {(peer, uid) for peer, uid in asked} <= {(one.peer_id, f"demo-model.{one.span.start}") for one in servers}
    asked.clear()
    swarm.info = lambda peer, uid: asked.append((peer, uid)) or b""
    out = tuple(reached(n, public_name=OPT_OUT) for n in (20, 21))
    await swarm.checker().chain(model("other", servers=(*servers, *out)))
    assert len(asked) == checker.SCHEMA_TRIES
    assert not {peer for peer, _ in asked} & {one.peer_id for one in out}
    asked.clear()
    await swarm.checker().chain(model("left out", servers=out))
    assert (asked, swarm.checks.results.models["left out"].state) == ([], UsabilityState.UNKNOWN)


async def test_who_opted_out_or_has_no_cache_is_not_asked(monkeypatch):
    """What is known of it instead is recorded and counted."""
    swarm = Swarm(monkeypatch)
    out = reached(1, public_name=f"x {OPT_OUT}")
    full = reached(2, 0, 4, cache_tokens_left=0)
    (found,) = await swarm.round(model(servers=(out, full)))
    assert not swarm.daemon.requests
    assert [one.inference.outcome for one in found.servers] == [InferenceOutcome.UNKNOWN, InferenceOutcome.BUSY]
    assert found.usability.state is UsabilityState.UNKNOWN
    assert swarm.counted == {"unknown": 1, "busy": 1}


async def test_who_opts_out_between_two_chains_is_not_asked(monkeypatch):
    """Nor with an adapter."""
    swarm = Swarm(monkeypatch)
    swarm.checks.results.models["demo-model"] = Usability(UsabilityState.USABLE, NOW)
    out = reached(1, public_name=OPT_OUT, adapters=("lab/lora",))
    for _ in range(2):
        (found,) = await swarm.round(model(servers=(out,)))
        assert found.servers[0].inference == not_asked(out, NOW)
    assert not swarm.connected
    assert swarm.counted == {"unknown": 1 + 1}


async def test_a_server_of_a_chain_is_not_checked_again_in_its_round(monkeypatch):
    """However long the round takes."""
    swarm = Swarm(monkeypatch, period=1.0, now=itertools.count(NOW).__next__)
    await swarm.round(model(servers=(reached(1),)))
    assert swarm.asked() == {ONE: 1}


async def test_a_model_whose_blocks_lack_servers_is_unusable_as_long_as_they_do(monkeypatch):
    """It has no chain. Once they are back nothing is known until there is one, which another round makes at once."""
    swarm = Swarm(monkeypatch)
    broken, whole = model(servers=(reached(1, 0, 4),)), model(servers=(reached(1, 0, 4), reached(2, 4, 8)))
    await swarm.round(whole)
    (found,) = swarm.checks.merged(snapshot(broken, taken_at=NOW)).models
    assert found.usability == Usability(UsabilityState.UNUSABLE, NOW, "no server that answers holds blocks 4–7")
    swarm.checks.results = Results(60.0)  # those of another crawler that takes over
    swarm.checks.results.restore(snapshot(found, taken_at=NOW))
    swarm.checks.merged(snapshot(broken, taken_at=NOW))
    (found,) = swarm.checks.merged(snapshot(whole, taken_at=NOW)).models
    assert (found.usability.state, gives_tokens(found)) == (UsabilityState.UNKNOWN, None)
    (found,) = await swarm.round(whole)
    assert found.usability.state is UsabilityState.DEGRADED


async def test_a_model_that_nobody_could_look_at_is_not_unusable(monkeypatch):
    """Neither where no server could be probed, nor where the blocks without servers may have some. Nobody is asked."""
    swarm = Swarm(monkeypatch)
    (found,) = await swarm.round(model(servers=(server(1, 0, 8, PeerState.UNREACHABLE), server(2, 0, 8))))
    assert (found.usability, swarm.slots) == (None, [])
    swarm.checks.merged(snapshot(model(servers=(reached(1, 0, 4),)), taken_at=NOW, unanswered_keys=4))
    await swarm.checks.round()
    (found,) = swarm.checks.merged(snapshot(model(servers=(reached(1),)), taken_at=NOW)).models
    assert found.usability is None
    for _ in range(2):
        (found,) = await swarm.round(model("two", servers=(server(1, 0, 8), reached(2))))
        assert found.usability.state is UsabilityState.USABLE


async def test_a_fresh_check_is_not_made_again(monkeypatch):
    """Of this crawler or of another one; half a period later it is."""
    swarm = Swarm(monkeypatch)
    made = model(servers=(reached(1), reached(2, 0, 4)))
    await swarm.round(made)
    await swarm.round(made)
    assert swarm.asked() == {ONE: 1, TWO: 1}
    swarm.checks.now = lambda: NOW + 29.9
    await swarm.round(made)
    assert swarm.asked() == {ONE: 1, TWO: 1}
    swarm.checks.now = lambda: NOW + 30
    await swarm.round(made)
    assert swarm.asked() == {ONE: 2, TWO: 2}


@pytest.mark.parametrize(
    ("more", "age"),
    [({"leads": lambda: False}, 0.0), ({"models": frozenset({"another"})}, 0.0), ({}, rounds.SNAPSHOT_LASTS + 1)],
)
async def test_nobody_checks_who_does_not_lead_or_what_is_old_or_left_out(monkeypatch, more, age):
    swarm = Swarm(monkeypatch, **more)
    (found,) = await swarm.round(model(servers=(reached(1),)), age=age)
    assert (swarm.connected, found.usability) == ([], None)


async def test_rare_crawls_still_have_checks(monkeypatch):
    """A snapshot serves until the next one, and what was found until then stays known for some crawls."""
    swarm = Swarm(monkeypatch)
    seen = snapshot(model(servers=(reached(1),)), taken_at=NOW - 3_000, update_period=3_600.0)
    swarm.checks.merged(seen)
    await swarm.checks.round()
    later = msgspec.structs.replace(seen, taken_at=NOW + 600)
    assert swarm.checks.merged(later).models[0].servers[0].inference.outcome is InferenceOutcome.COMPUTED
    much_later = msgspec.structs.replace(seen, taken_at=NOW + 4 * 3_600)
    assert swarm.checks.merged(much_later).models[0].servers[0].inference is None


async def test_a_chain_that_is_long_ago_leaves_unknown_what_it_proved(monkeypatch):
    """So it ends no incident, as a model does that has no chains at all; one that nobody announces is forgotten."""
    swarm = Swarm(monkeypatch, Servers(**{ONE: lambda *_: raised("a bug")}))
    seen = model(servers=(reached(1),))
    (found,) = await swarm.round(seen)
    assert found.usability.state is UsabilityState.UNUSABLE
    for _ in range(2):
        (found,) = swarm.checks.merged(snapshot(seen, taken_at=NOW + 181)).models
        assert (found.usability.state, found.usability.checked_at) == (UsabilityState.UNKNOWN, NOW)
    swarm.checks.merged(snapshot(model("another"), taken_at=NOW + 182))
    assert list(swarm.checks.results.models) == ["another"]


def test_the_newest_check_counts_at_a_take_over():
    """Not the one that this crawler made itself when it led before."""
    old, new = (ServerInference(outcome, (0, 8), at) for outcome, at in (("failed", NOW - 60), ("computed", NOW)))
    proved = Usability(UsabilityState.USABLE, NOW)
    published = model(servers=(reached(1, inference=new),), usability=proved)
    results = Results(60.0)
    results.add("demo-model", ONE, old)
    results.models["demo-model"] = Usability(UsabilityState.UNUSABLE, NOW - 60)
    for _ in range(2):
        results.restore(snapshot(published))
        (found,) = results.merged(snapshot(model(servers=(reached(1),)), taken_at=NOW), peer_id=None).models
        assert (found.servers[0].inference, found.usability) == (new, proved)
        published = model(servers=(reached(1, inference=old),), usability=Usability(UsabilityState.UNUSABLE, NOW - 60))


@pytest.mark.parametrize("order", [1, -1])
async def test_a_model_one_of_whose_servers_nobody_reached_is_not_unusable(monkeypatch, order):
    """Whichever server was asked last: the one that did not describe its blocks is not the only one."""
    swarm = Swarm(monkeypatch)
    swarm.info = lambda peer, _: OSError("gone") if peer == ONE else b""
    monkeypatch.setattr(checker.random, "sample", lambda asked, _: asked[::order])
    await swarm.checker().chain(model(servers=(reached(1), reached(2))))
    assert swarm.checks.results.models["demo-model"].state is UsabilityState.UNKNOWN


async def test_checks_begin_with_the_first_snapshot(monkeypatch):
    swarm = Swarm(monkeypatch, models=frozenset({"demo-model"}))
    await swarm.checks.round()
    assert not swarm.slots
    await swarm.round(model(servers=(reached(1),)), age=rounds.SNAPSHOT_LASTS)
    assert swarm.asked() == {ONE: 1}


async def test_an_adapter_is_tried_in_every_second_round(monkeypatch):
    """All in turn, beside the check without one, and recorded apart, whatever else is fresh."""
    swarm = Swarm(monkeypatch)
    made = model(servers=(reached(1, adapters=("lab/lora", "lab/other")), reached(2)))
    await swarm.round(made)
    (found,) = await swarm.round(made)
    adapters = [metadata.get("active_adapter") for peer, _, _, metadata in swarm.daemon.requests if peer == ONE]
    assert adapters == [None, None, "lab/lora", "lab/lora"]
    assert found.servers[0].adapter_inference.adapter == "lab/lora"
    assert found.servers[0].adapter_inference.agreement.outcome is AgreementOutcome.ALONE
    assert found.servers[0].inference.adapter is None
    swarm.daemon.scripts[ONE] = lambda *_: raised("not found")
    swarm.checks.results.adapters.clear()
    await swarm.round(made)
    (found,) = await swarm.round(made)
    assert found.servers[0].adapter_inference == ServerInference(
        InferenceOutcome.REFUSED, (0, 8), NOW, detail="not found", adapter="lab/other"
    )


async def test_a_connection_is_nobody_elses(monkeypatch):
    """Neither another check of this process nor one of another has it; who waits in vain says that nobody looked."""
    monkeypatch.setattr(rounds, "SERVER_FREE_WITHIN", 0.01)
    swarm = Swarm(monkeypatch, dial_timeout=3.0, dial_private=True)
    report, node = reached(1, multiaddrs=("/ip4/45.1.1.9/tcp/1",)), swarm.daemon
    async with swarm.checks.connection(node, report):
        with pytest.raises(InferenceError, match="another check of it goes on") as caught:
            await swarm.checks.connection(node, report).__aenter__()
    assert caught.value.outcome is InferenceOutcome.UNKNOWN
    async with swarm.checks.connection(node, report):  # it is free again
        pass
    (peer, addresses, rules, within) = swarm.connected[0]
    assert (peer, len(addresses), within) == (ONE, 1, 3.0)
    assert rules == rounds.AddressRules(True, frozenset({"QmMonitor"}))

    @asynccontextmanager
    async def taken(peer):
        assert peer == ONE
        yield False

    swarm.checks.turn = taken
    for _ in range(2):
        with pytest.raises(InferenceError, match="another check of it goes on") as caught:
            await swarm.checks.connection(node, report).__aenter__()
        assert caught.value.outcome is InferenceOutcome.UNKNOWN


async def test_no_connection_is_nobodys_finding(monkeypatch):
    """Not reached from here now: that does not say that it fails to compute."""
    swarm = Swarm(monkeypatch)

    @asynccontextmanager
    async def fails(*_, **__):
        raise NotConnectedError("dial backoff")
        yield

    monkeypatch.setattr(rounds, "connection", fails)
    for _ in range(2):
        (found,) = await swarm.round(model(servers=(reached(1), reached(2, 0, 4, adapters=("lab/lora",)))))
    for one in (found.servers[0].inference, found.servers[1].inference, found.servers[1].adapter_inference):
        assert one.outcome is InferenceOutcome.UNKNOWN
        assert one.detail == "not connected: dial backoff"
    assert found.servers[1].inference.adapter is None
    assert found.usability.state is UsabilityState.UNKNOWN


async def test_a_node_that_does_not_start_costs_the_slot(monkeypatch):
    """It is said, nobody is blamed, and the round goes on."""
    swarm = Swarm(monkeypatch)

    async def fails(_identity):
        raise NodeError("no p2pd")

    monkeypatch.setattr(rounds.ProberNode, "open", fails)
    with capture_logs() as logs:
        (found,) = await swarm.round(model(servers=(reached(1),)))
    assert (found.usability, found.servers[0].inference) == (None, None)
    said = {"event": "no inference checks: the node does not start", "log_level": "warning", "error": "no p2pd"}
    assert logs[:-1] == [said] * 2
    assert logs[-1]["event"] == "inference round"


async def test_a_round_begins_with_chains_and_each_server_has_one_slot(monkeypatch):
    """The servers that are not on a chain's path are spread over the rest of the round."""
    swarm = Swarm(monkeypatch)
    monkeypatch.setattr(rounds, "SLOTS", 4)
    await swarm.round(model("one", servers=tuple(map(reached, range(10)))), model("two", servers=(reached(10),)))
    assert swarm.asked() == dict.fromkeys(map(peer_id, range(11)), 1)
    spread = swarm.slots[1:]
    later = [peer for slot in spread for peer in slot]
    assert len(later) == len(set(later)) == 9
    assert len(spread) == 3
    assert max(map(len, spread)) < 9


@pytest.mark.parametrize(("at_once", "models", "servers"), [("CHAINS_AT_ONCE", 5, 1), ("SESSIONS_AT_ONCE", 1, 9)])
async def test_work_is_bounded_and_an_error_costs_one_check(monkeypatch, at_once, models, servers):
    """As many checks as may be made at once are; a fault of ours in one of them is logged."""
    monkeypatch.setattr(rounds, "SLOTS", 2)
    monkeypatch.setattr(rounds, at_once, 3)
    running, most, done = 0, 0, set()

    @asynccontextmanager
    async def turn(peer):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        if peer == ONE:
            raise RuntimeError("a bug")
        yield True
        done.add(peer)

    swarm = Swarm(monkeypatch, turn=turn)
    numbers_of = iter(range(1, 100))
    with capture_logs() as logs:
        await swarm.round(*(
            model(str(n), servers=tuple(reached(m, inference_rps=m) for m in itertools.islice(numbers_of, servers)))
            for n in range(models)
        ))  # fmt: skip
    assert {line["event"] for line in logs} == {"inference check failed", "inference round"}
    assert most == 3
    assert done == {peer_id(n) for n in range(2, models * servers + 1)}


def test_a_rounds_input_is_known_to_nobody_before():
    """The same for all servers of a round, another one in the next."""
    one, other = Round(0), Round(1)
    assert one.inputs(HIDDEN) is one.inputs(HIDDEN)
    assert one.inputs(HIDDEN) != other.inputs(HIDDEN)
    assert [len(values) for values in one.inputs(7)] == [7, 7]


def test_a_file_that_keeps_no_identity_is_a_bad_setting(tmp_path):
    """An empty one, or the folder that a container's engine makes for a missing one: no check would ever be made."""
    (tmp_path / "empty").touch()
    (tmp_path / "junk").write_bytes(b"junk")
    for name in ("empty", "junk", "."):
        with pytest.raises(ValueError, match="no private key"):
            CrawlerSettings(inference_identity=tmp_path / name)
    assert CrawlerSettings(inference_identity=tmp_path / "new").inference_identity == tmp_path / "new"


@pytest.mark.parametrize("kept", [True, False])
async def test_rounds_follow_one_another_while_this_crawler_leads(monkeypatch, tmp_path, kept):
    """None before there is a snapshot; each with the same identity, a period after the one before began.

    An identity that is not kept is in a folder of its own, which goes away in the end.
    """
    checks, made = InferenceChecks(period=0.0, identity=tmp_path / "mine" if kept else None, now=lambda: NOW), []
    monkeypatch.setattr(rounds, "IDLE", 0.0)

    async def one(identity, began):
        assert not identity.exists()
        assert identity.parent.is_dir()
        made.append((identity, began))
        return True

    monkeypatch.setattr(checks, "round", one)
    task = asyncio.create_task(checks.run())
    for _ in range(5):
        await asyncio.sleep(0)
    assert not made
    checks.merged(snapshot(taken_at=NOW))
    while len(made) < 3 and not task.done():
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (identity,) = {identity for identity, _ in made}
    assert (identity == tmp_path / "mine") is kept is identity.parent.exists()
    assert made[0][1] <= made[1][1] <= made[2][1]


async def test_a_round_that_is_broken_off_is_begun_anew(monkeypatch, tmp_path):
    """As soon as this crawler leads again, not when the period is over, which may be a day."""
    swarm = Swarm(monkeypatch, period=86_400.0, identity=tmp_path)
    monkeypatch.setattr(rounds, "IDLE", 0.0)
    leads = itertools.chain((True, True, False, False), itertools.repeat(True))
    swarm.checks.leads = leads.__next__
    begun, whole = [], swarm.checks.round

    async def one(identity, began):
        begun.append(began)
        return await whole(identity) if len(begun) == 1 else True

    monkeypatch.setattr(swarm.checks, "round", one)
    swarm.checks.merged(snapshot(model(servers=(reached(1),)), taken_at=NOW))
    task = asyncio.create_task(swarm.checks.run())
    async with asyncio.timeout(5):
        while len(begun) < 2:
            await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_slots_of_a_round_are_spread_over_a_period(monkeypatch, tmp_path):
    """A slot, or a round, that is late begins at once. Each has a node of the same identity."""
    clock, began, sleep = 500.0, [], asyncio.sleep
    takes = iter((0, 20, 0, 20))

    async def slept(seconds):
        nonlocal clock
        clock += seconds
        await sleep(0)

    async def opened(identity):
        nonlocal clock
        assert identity == tmp_path
        began.append(clock)
        clock += next(takes, 0)
        return Servers()

    monkeypatch.setattr(rounds, "SLOTS", 4)
    swarm = Swarm(monkeypatch, period=60.0, identity=tmp_path)
    monkeypatch.setattr(rounds, "time", SimpleNamespace(monotonic=lambda: clock))
    monkeypatch.setattr(asyncio, "sleep", slept)
    monkeypatch.setattr(rounds.ProberNode, "open", opened)
    swarm.checks.merged(snapshot(model(servers=tuple(map(reached, range(10)))), taken_at=NOW))
    task = asyncio.create_task(swarm.checks.run())
    while len(began) < 9 and not task.done():
        await sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert began == [500, 515, 535, 545, 565, 580, 595, 610, 625]


@pytest.mark.parametrize(
    ("announced", "cosine", "agrees"),
    [
        ({"torch_dtype": "float32"}, 0.9985, False),
        ({"torch_dtype": "bfloat16"}, 0.9985, True),
        ({"torch_dtype": "float32", "quant_type": "int8"}, 0.995, True),
    ],
)
async def test_servers_are_compared_as_exactly_as_they_announce(monkeypatch, announced, cosine, agrees):
    def turned(request, _step):
        """Add to each value what `compute` adds, and some of it in turn more and less."""
        values = tensors.read(request.tensors[0], list(request.tensors[0].size))
        some = 8 * math.sqrt(1 / cosine**2 - 1)
        return numbers([value + 8 + some * (-1) ** place for place, value in enumerate(values)])

    swarm = Swarm(monkeypatch, Servers(**{TWO: turned}))
    (found,) = await swarm.round(model(servers=(reached(1, **announced), reached(2, inference_rps=1.0, **announced))))
    expected = AgreementOutcome.AGREES if agrees else AgreementOutcome.DISAGREES
    assert [one.inference.agreement.outcome for one in found.servers] == [expected] * 2
    assert found.servers[1].inference.agreement.lowest_cosine == pytest.approx(cosine, abs=1e-4)
