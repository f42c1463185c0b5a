"""The pure judgement: the public contract's rules, and petals' own `compute_spans` as a reference."""

import sys
from types import SimpleNamespace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.models import Model
from crawler.records import ServerRecord
from crawler.report import best_span, build_snapshot, peer_state
from crawler.swarm import Observation, ObservedModel
from shared.p2p.petals_wire import ServerInfo, ServerState, load_petals_module
from shared.reachability import Cause, DialOutcome, Stage
from shared.snapshot import BootstrapPeer, ModelState, PeerState, Refusals, Verdict
from tests.fakes import REACHED, REFUSED, peer_id

BOOTSTRAP = BootstrapPeer(peer_id(0), ("/ip4/127.0.0.1/tcp/1",), Verdict.REACHABLE)
NOBODY_LOOKED = DialOutcome.unknown(Cause.LOOKUP_UNFINISHED, stage=Stage.LOOKUP)


def record(start, end, state=PeerState.ONLINE, **more):
    return ServerRecord(state, 100.0, start, end, **more)


def announce(start, end, state=PeerState.ONLINE, **more):
    return dict.fromkeys(range(start, end), record(start, end, state, **more))


def judge(servers, *, model=None, dials=None, bootstrap=(BOOTSTRAP,)):
    model = model or Model("demo", 20, "https://huggingface.co/demo/demo")
    observation = Observation(
        bootstrap_peers=bootstrap,
        models=(ObservedModel(model, servers),),
        dials={} if dials is None else dials,
        addresses={},
        refused=Refusals(),
        unanswered_keys=0,
        crawler_peer_id=peer_id(99),
    )
    return build_snapshot(observation, started_at=100.0, ended_at=102.5, update_period=60.0, private_swarm=False)


@pytest.mark.parametrize(
    ("announced", "dial", "state"),
    [
        (PeerState.ONLINE, REACHED, PeerState.ONLINE),
        (PeerState.ONLINE, REFUSED, PeerState.UNREACHABLE),
        (PeerState.ONLINE, NOBODY_LOOKED, PeerState.ONLINE),
        (PeerState.ONLINE, None, PeerState.ONLINE),
        (PeerState.JOINING, REFUSED, PeerState.JOINING),
        (PeerState.OFFLINE, REFUSED, PeerState.OFFLINE),
    ],
)
def test_only_a_look_that_was_made_makes_a_server_unreachable(announced, dial, state):
    """And only one that says it is online is judged by it."""
    assert peer_state(announced, dial) is state


def test_a_model_is_healthy_when_every_block_has_a_reachable_server():
    """Two halves make a whole; take one's reachability away and it is broken."""
    servers = {peer_id(1): announce(0, 10), peer_id(2): announce(10, 20)}
    healthy = judge(servers, dials={peer_id(1): REACHED, peer_id(2): REACHED})
    broken = judge(servers, dials={peer_id(1): REACHED, peer_id(2): REFUSED})
    assert healthy.models[0].state is ModelState.HEALTHY
    assert broken.models[0].state is ModelState.BROKEN


def test_names_show_for_ten_blocks_and_count_for_official_models():
    """A public name is earned; contributors are those of official models, most blocks first."""
    servers = {
        peer_id(1): announce(0, 10, public_name="ten"),
        peer_id(2): announce(0, 9, public_name="nine"),
        peer_id(3): announce(0, 20, public_name="twenty"),
        peer_id(4): announce(0, 12, PeerState.JOINING, public_name="joining"),
    }
    official = judge(servers)
    shown = {server.public_name for server in official.models[0].servers if server.show_public_name}
    assert shown == {"ten", "twenty"}
    assert list(official.top_contributors.items()) == [("twenty", 20), ("ten", 10)]
    announced = judge(servers, model=Model("demo", 20, None, official=False))
    assert announced.top_contributors == {}


def test_rows_are_sorted_by_peer_id_and_issues_too():
    """So that pages do not jump from crawl to crawl."""
    servers = {peer_id(n): announce(0, 5) for n in range(6)}
    snapshot = judge(servers, dials={peer_id(n): REFUSED for n in range(6)})
    ids = [server.peer_id for server in snapshot.models[0].servers]
    assert ids == sorted(ids)
    issues = [issue.peer_id for issue in snapshot.reachability_issues]
    assert issues == sorted(issues)
    assert len(issues) == 6


def test_cache_is_told_for_each_block():
    """Half of the tokens are keys, half values, shared by the blocks of the span."""
    snapshot = judge({peer_id(1): announce(0, 10, cache_tokens_left=8205)})
    assert snapshot.models[0].servers[0].cache_tokens_left_per_block == 410


def test_a_bootstrap_peer_that_is_down_is_an_issue():
    """It stands with the servers' issues, and says that it is a bootstrap peer."""
    down = msgspec.structs.replace(BOOTSTRAP, verdict=Verdict.UNREACHABLE, error="refused")
    (issue,) = judge({}, bootstrap=(down,)).reachability_issues
    assert (issue.peer_id, issue.error) == (peer_id(0), "refused")
    assert "bootstrap" in issue.advice


def test_a_span_that_ends_far_out_is_cut_to_the_model():
    """It counts for the blocks that there are, and for nothing more."""
    span, _ = best_span({11: ServerRecord(PeerState.ONLINE, 1.0, 8, 10**9)}, 12)
    assert (span.start, span.end) == (8, 12)


spans = st.tuples(st.integers(0, 11), st.integers(1, 6)).map(lambda pair: (pair[0], min(12, pair[0] + pair[1])))
records_of_one = st.dictionaries(
    st.integers(0, 11),
    st.tuples(st.sampled_from([PeerState.ONLINE, PeerState.JOINING, PeerState.OFFLINE]), st.none() | spans),
    min_size=1,
)


@pytest.fixture(scope="module")
def petals_dht():
    """`petals.utils.dht`, whose functions that use a DHT import what only torch can give; they are not called here."""
    lent = {"hivemind.dht": ("DHT", "DHTNode", "DHTValue"), "hivemind.utils": ("MPFuture",)}
    with pytest.MonkeyPatch.context() as patch:
        for package, names in lent.items():
            for name in names:
                patch.setitem(vars(sys.modules[package]), name, object)
        yield load_petals_module("utils.dht")


@given(records_of_one)
def test_spans_are_those_that_petals_computes(petals_dht, blocks):
    """The same start, end and state as `petals.utils.dht.compute_spans` for any records of one server."""
    announced = {}
    modules = [SimpleNamespace(uid=f"demo.{block}", servers={}) for block in range(12)]
    for block, (state, span) in blocks.items():
        start, end = span if span is not None else (None, None)
        announced[block] = ServerRecord(state, 1.0, start, end)
        modules[block].servers["peer"] = ServerInfo(
            state=ServerState[state.name], throughput=1.0, start_block=start, end_block=end
        )
    expected = petals_dht.compute_spans(modules, min_state=ServerState.OFFLINE)["peer"]
    span, best = best_span(announced, 12)
    assert (span.start, span.end, best.state.name) == (expected.start, expected.end, expected.state.name)


RELAYED = msgspec.structs.replace(REACHED, relayed=True, relay=peer_id(7), rtt=0.03)
DIRECT = msgspec.structs.replace(REACHED, relayed=False, rtt=0.01)


@pytest.mark.parametrize(
    ("using_relay", "dial", "says"),
    [
        (True, RELAYED, None),
        (False, DIRECT, None),
        (None, RELAYED, None),
        (True, DIRECT, "Its record says that it uses a relay, but it was reached directly."),
        (False, RELAYED, "Its record says that it uses no relay, but it was reached through a relay."),
    ],
)
def test_a_way_found_otherwise_than_announced_is_a_difference(using_relay, dial, says):
    """And a server that only a relay reaches is online, with the relay named."""
    snapshot = judge({peer_id(1): announce(0, 20, using_relay=using_relay)}, dials={peer_id(1): dial})
    (server,) = snapshot.models[0].servers
    assert (server.state, server.conflict) == (PeerState.ONLINE, says)
    assert (server.relayed, server.relay, server.rtt) == (dial.relayed, dial.relay, dial.rtt)
