"""The pure judgement: the public contract's rules, and petals' own `compute_spans` as a reference."""

import sys
from types import SimpleNamespace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmdb_writer import MMDBWriter
from netaddr import IPSet

from crawler.geoip import GeoDatabase
from crawler.judge import best_span, conflict, judge, peer_state, with_since
from crawler.models import Model
from crawler.observe.observation import Observation, ObservedModel
from crawler.observe.records import ServerRecord
from shared.advice.causes import advice, explanation, message
from shared.p2p.petals import ServerInfo, ServerState, load_petals_module
from shared.reachability import Cause, DialOutcome, Stage
from shared.snapshot import SCHEMA_VERSION, BootstrapPeer, Location, ModelState, PeerState, Refusals, Span, Verdict
from tests.fakes import REACHED, REFUSED, peer_id

BOOTSTRAP = BootstrapPeer(peer_id(0), ("/ip4/127.0.0.1/tcp/1",), Verdict.REACHABLE)
NOBODY_LOOKED = DialOutcome.unknown(Cause.LOOKUP_UNFINISHED, stage=Stage.LOOKUP)


def record(start, end, state=PeerState.ONLINE, **more):
    return ServerRecord(state, start, end, throughput=100.0, **more)


def announce(start, end, state=PeerState.ONLINE, **more):
    return dict.fromkeys(range(start, end), record(start, end, state, **more))


def judged(servers, *, model=None, dials=None, bootstrap=(BOOTSTRAP,)):
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
    return judge(observation, 60.0)


@pytest.mark.parametrize(
    ("announced", "dial", "state"),
    [
        (PeerState.ONLINE, REACHED, PeerState.ONLINE),
        (PeerState.ONLINE, REFUSED, PeerState.UNREACHABLE),
        (PeerState.ONLINE, NOBODY_LOOKED, PeerState.ONLINE),
        (PeerState.JOINING, REFUSED, PeerState.JOINING),
        (PeerState.OFFLINE, REFUSED, PeerState.OFFLINE),
    ],
)
def test_only_a_probe_that_was_made_makes_a_server_unreachable(announced, dial, state):
    """And only one that says it is online is judged by it."""
    assert peer_state(announced, dial) is state


def test_a_model_is_healthy_when_every_block_has_a_reachable_server():
    """Two halves make a whole; take one's reachability away and it is broken."""
    servers = {peer_id(1): announce(0, 10), peer_id(2): announce(10, 20)}
    healthy = judged(servers, dials={peer_id(1): REACHED, peer_id(2): REACHED})
    broken = judged(servers, dials={peer_id(1): REACHED, peer_id(2): REFUSED})
    assert healthy.models[0].state is ModelState.HEALTHY
    assert broken.models[0].state is ModelState.BROKEN


def test_a_model_keeps_since_when_it_is_so_until_that_changes():
    """What lasts keeps its time from crawl to crawl; what turns worse, better or appears takes that of its crawl."""
    whole = {peer_id(1): announce(0, 20), peer_id(2): announce(0, 20)}
    times, before = [], None
    for taken_at, peers in ((10.0, 2), (20.0, 2), (30.0, 1), (40.0, 1), (50.0, 0), (60.0, 2)):
        crawled = msgspec.structs.replace(judged(dict(list(whole.items())[:peers])), taken_at=taken_at)
        before = with_since(crawled, before)
        times.append(before.models[0].since)
    assert times == [10.0, 10.0, 30.0, 30.0, 50.0, 60.0]


def test_names_show_for_ten_blocks_and_count_for_official_models():
    """A public name is earned; contributors are those of official models, most blocks first."""
    servers = {
        peer_id(1): announce(0, 10, public_name="ten"),
        peer_id(2): announce(0, 9, public_name="nine"),
        peer_id(3): announce(0, 20, public_name="twenty"),
        peer_id(4): announce(0, 12, PeerState.JOINING, public_name="joining"),
    }
    official = judged(servers)
    shown = {server.public_name for server in official.models[0].servers if server.show_public_name}
    assert shown == {"ten", "twenty"}
    assert list(official.top_contributors.items()) == [("twenty", 20), ("ten", 10)]
    announced = judged(servers, model=Model("demo", 20, None, official=False))
    assert announced.top_contributors == {}


def test_rows_are_sorted_by_peer_id_and_issues_too():
    """So that pages do not jump from crawl to crawl."""
    servers = {peer_id(n): announce(0, 5) for n in range(6)}
    snapshot = judged(servers, dials={peer_id(n): REFUSED for n in range(6)})
    ids = [server.peer_id for server in snapshot.models[0].servers]
    assert ids == sorted(ids)
    issues = [issue.peer_id for issue in snapshot.reachability_issues]
    assert issues == sorted(issues)
    assert len(issues) == 6


around = st.tuples(st.integers(0, 6), st.integers(1, 6))
"""How many blocks of the record's span lie before its own block, and how many from there on."""
records_of_one = st.dictionaries(
    st.integers(0, 11),
    st.tuples(st.sampled_from([PeerState.ONLINE, PeerState.JOINING, PeerState.OFFLINE]), st.none() | around),
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
    """The same start, end and state as `petals.utils.dht.compute_spans`, for records that cover their own block."""
    announced = {}
    modules = [SimpleNamespace(uid=f"demo.{block}", servers={}) for block in range(12)]
    for block, (state, reach) in blocks.items():
        start, end = (None, None) if reach is None else (max(0, block - reach[0]), min(12, block + reach[1]))
        announced[block] = ServerRecord(state, start, end, throughput=1.0)
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
    snapshot = judged({peer_id(1): announce(0, 20, using_relay=using_relay)}, dials={peer_id(1): dial})
    (server,) = snapshot.models[0].servers
    assert (server.state, server.conflict) == (PeerState.ONLINE, says)
    assert (server.relayed, server.relay, server.rtt) == (dial.relayed, dial.relay, dial.rtt)


def observed(servers, *, models=None, **more):
    observation = {
        "bootstrap_peers": (BOOTSTRAP,),
        "models": models or (ObservedModel(Model("demo", 20, "https://huggingface.co/demo/demo"), servers),),
        "dials": {}, "addresses": {}, "refused": Refusals(), "unanswered_keys": 0, "crawler_peer_id": peer_id(99),
        **more,
    }  # fmt: skip
    return Observation(**observation)


def test_a_snapshot_carries_what_was_observed():
    """When, how long, of whom, and what was refused, unanswered or not dialled."""
    observation = observed(
        {},
        refused=Refusals({"bad_span": 2}),
        unanswered_keys=3,
        undialled=4,
        private_swarm=True,
        ended_at=102.5,
        duration=2.5,
    )
    snapshot = judge(observation, 60.0)
    assert (snapshot.schema, snapshot.taken_at, snapshot.update_period) == (SCHEMA_VERSION, 102.5, 60.0)
    assert (snapshot.update_duration, snapshot.private_swarm) == (2.5, True)
    assert (snapshot.refused.by_reason, snapshot.unanswered_keys) == ({"bad_span": 2}, 3)
    assert (snapshot.undialled_servers, snapshot.crawler_peer_id) == (4, peer_id(99))
    assert snapshot.bootstrap_peers == (BOOTSTRAP,)


def test_a_model_carries_what_is_known_of_it():
    model = Model("demo-hf", 2, "https://huggingface.co/lab/demo", official=True, limited=True)
    (report,) = judged({}, model=model).models
    assert (report.dht_prefix, report.num_blocks, report.repository) == (
        "demo-hf",
        2,
        "https://huggingface.co/lab/demo",
    )
    assert (report.name, report.short_name) == (model.name, model.short_name)
    assert (report.official, report.limited, report.state) == (True, True, ModelState.BROKEN)


def test_a_server_carries_what_it_announces_and_what_its_dial_found():
    """Every field in its own place."""
    told = {
        "public_name": "Ada", "version": "2.2.0", "network_rps": 1.0, "forward_rps": 2.0, "inference_rps": 3.0,
        "adapters": ("lab/lora",), "torch_dtype": "float16", "quant_type": "nf4", "using_relay": False,
        "cache_tokens_left": 100, "next_pings": {peer_id(2): 0.1},
    }  # fmt: skip
    observation = observed(
        {peer_id(1): announce(3, 7, **told)},
        dials={peer_id(1): msgspec.structs.replace(REACHED, relayed=False)},
        addresses={peer_id(1): ("/ip4/192.0.2.1/tcp/1",)},
    )
    snapshot = judge(observation, 60.0)
    ((server,),) = (model.servers for model in snapshot.models)
    assert {name: getattr(server, name) for name in told} == told
    assert (server.peer_id, server.span, server.throughput) == (peer_id(1), Span(3, 7), 100.0)
    assert (server.announced, server.state, server.verdict) == (PeerState.ONLINE, PeerState.ONLINE, Verdict.REACHABLE)
    assert server.multiaddrs == ("/ip4/192.0.2.1/tcp/1",)
    assert (server.error, server.conflict, server.show_public_name) == (None, None, False)


def test_a_refusal_stands_with_the_server_and_a_server_that_nobody_dialled_is_unknown():
    servers = {peer_id(n): announce(0, 5) for n in (1, 2)} | {peer_id(3): announce(0, 5, PeerState.JOINING)}
    refusal = msgspec.structs.replace(REFUSED, rtt=0.5)
    snapshot = judged(servers, dials={peer_id(1): refusal, peer_id(3): REFUSED})
    found = {server.peer_id: server for server in snapshot.models[0].servers}
    refused, unknown, joining = (found[peer_id(n)] for n in (1, 2, 3))
    assert (refused.state, refused.announced) == (PeerState.UNREACHABLE, PeerState.ONLINE)
    assert (refused.verdict, refused.error, refused.cause, refused.rtt) == (
        Verdict.UNREACHABLE, explanation(REFUSED), REFUSED.cause, None,
    )  # fmt: skip
    assert (unknown.state, unknown.verdict, unknown.error) == (PeerState.ONLINE, Verdict.UNKNOWN, None)
    assert (joining.state, joining.verdict, joining.error) == (PeerState.JOINING, Verdict.UNKNOWN, None)
    assert unknown.multiaddrs == ()


def test_issues_say_why_and_what_to_do():
    """Of servers that nobody reached; of those that nobody could probe there is nothing to say."""
    bare = DialOutcome(Verdict.UNREACHABLE, Stage.DIAL, Cause.TIMEOUT)
    causeless = DialOutcome(Verdict.UNREACHABLE, Stage.DIAL)
    dials = {
        peer_id(1): REFUSED,
        peer_id(2): bare,
        peer_id(3): NOBODY_LOOKED,
        peer_id(4): REACHED,
        peer_id(5): causeless,
    }
    issues = {issue.peer_id: issue for issue in judged({}, dials=dials).reachability_issues}
    assert issues.keys() == {peer_id(1), peer_id(2)}
    assert (issues[peer_id(1)].error, issues[peer_id(1)].advice) == (explanation(REFUSED), advice(Cause.REFUSED))
    assert (issues[peer_id(2)].error, issues[peer_id(2)].advice) == (
        message(Cause.TIMEOUT), advice(Cause.TIMEOUT),
    )  # fmt: skip


@pytest.mark.parametrize(("error", "says"), [("refused", "refused"), (None, "")])
def test_a_bootstrap_peer_that_is_down_is_an_issue(error, says):
    """It stands with the servers' issues, and says that it is a bootstrap peer; one that nobody probed is none."""
    down = msgspec.structs.replace(BOOTSTRAP, verdict=Verdict.UNREACHABLE, error=error)
    unknown = BootstrapPeer(peer_id(5), (), Verdict.UNKNOWN, "nobody looked")
    (issue,) = judged({}, bootstrap=(down, unknown)).reachability_issues
    assert (issue.peer_id, issue.error) == (peer_id(0), says)
    assert issue.advice == "This is a bootstrap peer of the swarm."


def test_what_a_peer_says_of_itself_goes_before_a_record_under_its_name():
    """Anyone can write the record."""
    lacking = DialOutcome(Verdict.REACHABLE, Stage.PROTOCOL, Cause.PROTOCOL_MISSING, protocol_ok=False)
    said = conflict(record(0, 4, version="2.2.0"), lacking, "9")
    assert said == "Its record says online, but the peer itself serves no Petals blocks (yet)."
    said = conflict(record(0, 4, version="2.2.0"), REACHED, "2.3.0")
    assert said == "Its record says version 2.2.0, but the peer itself says 2.3.0."
    for announced, told in (("2.2.0", "2.2.0"), (None, "2.2.0"), ("2.2.0", None), (None, None)):
        assert conflict(record(0, 4, version=announced), REACHED, told) is None


def test_a_version_that_the_peer_denies_stands_in_its_row():
    observation = observed(
        {peer_id(1): announce(0, 5, version="2.2.0")}, dials={peer_id(1): REACHED}, versions={peer_id(1): "2.3.0"}
    )
    snapshot = judge(observation, 60.0)
    assert "2.3.0" in snapshot.models[0].servers[0].conflict


def test_a_server_that_answers_has_a_difference_and_no_cause():
    """One that serves no blocks (yet) was reached all the same."""
    lacking = DialOutcome(Verdict.REACHABLE, Stage.PROTOCOL, Cause.PROTOCOL_MISSING, protocol_ok=False)
    (server,) = judged({peer_id(1): announce(0, 5)}, dials={peer_id(1): lacking}).models[0].servers
    assert (server.verdict, server.error, server.cause) == (Verdict.REACHABLE, None, None)
    assert server.conflict is not None


def test_a_record_that_does_not_say_online_is_compared_with_nothing():
    """The peer was dialled for another model, and by now runs another version than when it wrote this."""
    observation = observed(
        {peer_id(1): announce(0, 5, PeerState.OFFLINE, version="2.2.0")},
        dials={peer_id(1): REACHED},
        versions={peer_id(1): "2.3.0"},
    )
    assert judge(observation, 60.0).models[0].servers[0].conflict is None


def test_servers_have_locations_where_there_is_a_database_of_them(tmp_path):
    writer, path = MMDBWriter(), tmp_path / "places.mmdb"
    writer.insert_network(IPSet(["8.8.8.0/24"]), {"country": {"iso_code": "NL"}})
    writer.to_db_file(str(path))
    observation = observed({peer_id(1): announce(0, 5)}, addresses={peer_id(1): ("/ip4/8.8.8.8/tcp/1",)})
    for database, location in ((None, None), (GeoDatabase.open(path), Location("NL"))):
        assert judge(observation, 60.0, database).models[0].servers[0].location == location


def test_contributors_are_added_up_over_official_models():
    """One name on several servers and models, those without a name not."""
    whole = Model("a", 20, None), Model("b", 30, None)
    servers = {peer_id(1): announce(0, 15, public_name="Ada"), peer_id(2): announce(0, 20, public_name="Bob")}
    more = {peer_id(3): announce(0, 12, public_name="Ada"), peer_id(4): announce(0, 30)}
    observation = observed({}, models=(ObservedModel(whole[0], servers), ObservedModel(whole[1], more)))
    snapshot = judge(observation, 60.0)
    assert list(snapshot.top_contributors.items()) == [("Ada", 27), ("Bob", 20)]


def test_the_best_state_decides_where_a_server_moves():
    """Its old blocks say OFFLINE, its new ones JOINING; the span is that of the new ones."""
    moving = {**announce(0, 4, PeerState.OFFLINE), **announce(8, 12, PeerState.JOINING)}
    span, best = best_span(moving, 12)
    assert (span, best.state) == (Span(8, 12), PeerState.JOINING)
    span, best = best_span({**announce(0, 4), **announce(8, 12, PeerState.OFFLINE)}, 12)
    assert (span, best.state) == (Span(0, 4), PeerState.ONLINE)


@pytest.mark.parametrize(("start", "end", "cut"), [(8, 10**9, Span(8, 12)), (-3, 12, Span(0, 12))])
def test_a_span_beyond_the_model_is_cut_to_it(start, end, cut):
    """It counts for the blocks that there are, and for nothing more."""
    assert best_span({11: ServerRecord(PeerState.ONLINE, start, end, throughput=1.0)}, 12)[0] == cut


def test_records_without_a_span_count_for_their_own_blocks():
    """As those of old servers: from the first to the last."""
    bare = ServerRecord(PeerState.ONLINE, throughput=1.0)
    assert best_span({3: bare, 4: bare, 6: bare}, 12)[0] == Span(3, 7)
    half = ServerRecord(PeerState.ONLINE, 2, None, throughput=1.0)
    assert best_span({3: half}, 12)[0] == Span(3, 4)
    half = ServerRecord(PeerState.ONLINE, None, 9, throughput=1.0)
    assert best_span({3: half}, 12)[0] == Span(3, 4)
