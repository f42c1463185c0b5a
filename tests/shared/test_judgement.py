"""What is judged of a snapshot, against brute force: coverage, the swarm as a whole."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from shared.incidents import Incident
from shared.inference import Usability, UsabilityState
from shared.judgement.contributors import Serving, serving
from shared.judgement.coverage import (
    MAX_SPEED,
    Coverage,
    Run,
    Stage,
    coverage,
    slowest_block_throughput,
    speed_by_block,
    weakest_stage,
)
from shared.judgement.freshness import Freshness, freshness, stale_after
from shared.judgement.outages import Outage, outages
from shared.judgement.swarm import (
    bootstrap_state,
    count_states,
    distinct_servers,
    judged_models,
    pings_to,
    swarm_state,
    uses_relay,
)
from shared.reachability import Answer, Cause, DialOutcome, decide
from shared.reachability import Stage as CheckStage
from shared.snapshot import BootstrapPeer, ModelState, PeerState, Verdict
from tests.fakes import model, peer_id, server, snapshot


@st.composite
def models(draw):
    """Small models whose servers are in any state."""
    blocks = draw(st.integers(1, 8))
    servers = []
    for number in range(draw(st.integers(0, 7))):
        start = draw(st.integers(0, blocks - 1))
        end = draw(st.integers(start + 1, blocks))
        state = draw(st.sampled_from([PeerState.ONLINE] * 4 + [PeerState.JOINING, PeerState.UNREACHABLE]))
        servers.append(server(number, start, end, state, throughput=draw(st.sampled_from([50.0, 100.0, 400.0]))))
    return model("m", blocks, tuple(servers))


@given(models())
def test_the_weakest_stage_is_the_least_sum(model):
    """The throughput of the slowest stage is the least sum over a block; none where a block has no server."""
    sums = [
        sum(s.throughput for s in model.servers if s.state is PeerState.ONLINE and s.span.start <= b < s.span.end)
        for b in range(model.num_blocks)
    ]
    stage = weakest_stage(model)
    assert slowest_block_throughput(model) == pytest.approx(min(sums))
    if min(sums) == 0:
        assert stage is None
        return
    assert stage is not None
    assert stage.throughput == pytest.approx(min(sums))
    assert all(value == pytest.approx(stage.throughput) for value in sums[stage.start : stage.end])


# --- Coverage ---


@given(models())
def test_redundancy_is_the_servers_that_hold_a_block(model):
    """For each block, the online servers whose span has it; everything else follows from these counts."""
    counted = [
        sum(s.state is PeerState.ONLINE and s.span.start <= block < s.span.end for s in model.servers)
        for block in range(model.num_blocks)
    ]
    held = coverage(model)
    assert list(held.redundancy) == counted
    assert held.covered_blocks + held.missing_blocks == model.num_blocks
    assert held.covered_share == held.covered_blocks / model.num_blocks
    assert held.min_redundancy == min(counted)
    assert (held.state is ModelState.HEALTHY) == held.has_path == all(counted)


def test_only_online_servers_hold_a_block():
    """Joining, offline and unreachable servers hold none for a client."""
    states = (PeerState.UNREACHABLE, PeerState.JOINING, PeerState.OFFLINE)
    others = [server(number, 0, 4, state) for number, state in enumerate(states, 3)]
    report = model(blocks=4, servers=(server(1, 0, 3), server(2, 1, 2), *others))
    assert coverage(report).redundancy == (1, 2, 1, 0)
    assert coverage(model(blocks=3)).redundancy == (0, 0, 0)


def test_a_model_without_blocks_is_judged_without_failing():
    """The crawler makes none; what stands in Redis may be anything."""
    held = coverage(model(blocks=0))
    assert (held.covered_share, held.min_redundancy, held.has_path) == (0.0, 0, False)
    assert (held.runs(), held.gaps(), weakest_stage(model(blocks=0))) == ([], [], None)


@given(st.lists(st.integers(0, 4), max_size=60))
def test_runs_tile_the_model(redundancy):
    """Runs put end to end are the list they came from, and neighbours differ."""
    runs = Coverage(tuple(redundancy)).runs()
    assert [run.redundancy for run in runs for _ in range(run.start, run.end)] == redundancy
    assert all(one.end == two.start and one.redundancy != two.redundancy for one, two in pairwise(runs))


def test_runs_by_hand():
    assert Coverage((1, 1, 0)).runs() == [Run(0, 2, 1), Run(2, 3, 0)]


@given(st.lists(st.integers(0, 4), max_size=60), st.integers(0, 4), st.integers(0, 4))
def test_spans_are_exactly_the_blocks_asked_for(redundancy, least, most):
    """Every block with as many servers is in one span, no other block is in any, and no two spans touch."""
    held = Coverage(tuple(redundancy))
    spans = held.spans(least, most)
    assert [block for start, end in spans for block in range(start, end)] == [
        block for block, count in enumerate(redundancy) if least <= count <= most
    ]
    assert all(one[1] < two[0] for one, two in pairwise(spans))
    assert held.gaps() == held.spans(0, 0)


# --- Throughput ---


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(1, 8), st.floats(0, 1e9)), max_size=8))
def test_speeds_add_up_over_each_block(spans):
    """As brute force adds them, to six digits, and nothing is left where servers come and go."""
    servers = [
        server(number, start, min(8, start + length), inference_rps=speed)
        for number, (start, length, speed) in enumerate(spans)
    ]
    sums = speed_by_block(8, servers, "inference_rps")
    for block, total in enumerate(sums):
        holders = [each for each in servers if each.span.start <= block < each.span.end]
        assert total == pytest.approx(sum(each.inference_rps for each in holders), abs=1e-5)
        if not holders:
            assert total == 0


@pytest.mark.parametrize("claim", [None, math.inf, -math.inf, math.nan, -1.0, 1e308])
def test_an_absurd_claim_counts_for_nothing(claim):
    """Nor does it hide what the other servers claim."""
    assert speed_by_block(2, [server(1, 0, 2, network_rps=claim), server(2, 1, 2, network_rps=5.0)], "network_rps") == [
        0.0,
        5.0,
    ]


def test_the_weakest_stage_by_hand():
    """Throughput adds up over a block's servers, and the first of the weakest blocks count; a gap passes nothing."""
    report = model(blocks=4, servers=(server(1, 0, 4, throughput=0.1), server(2, 2, 4, throughput=0.2)))
    assert weakest_stage(report) == Stage(0, 2, 0.1)
    middle = (server(1, 0, 8), server(2, 0, 3), server(3, 5, 6), server(4, 7, 8))
    assert weakest_stage(model(servers=middle)) == Stage(3, 5, 100.0)
    assert slowest_block_throughput(model(blocks=4, servers=(server(1, 0, 3),))) == 0.0
    assert slowest_block_throughput(model(blocks=1, servers=(server(1, 0, 1), server(2, 0, 1)))) == 200.0
    many = tuple(server(number, 0, 1, throughput=MAX_SPEED) for number in range(3))
    assert slowest_block_throughput(model(blocks=1, servers=many)) == MAX_SPEED


# --- The swarm ---

WHOLE = (server(1, 0, 8),)
HALF = (server(1, 0, 4),)


@pytest.mark.parametrize(
    ("models", "state"),
    [
        ([model("a", servers=WHOLE)], "healthy"),
        ([model("a", servers=HALF)], "broken"),
        ([model("a", servers=WHOLE), model("b", servers=HALF)], "partly healthy"),
        ([model("a", servers=WHOLE, official=True), model("b", servers=HALF)], "healthy"),
        ([model("a", official=True), model("b", servers=HALF)], "broken"),
        ([model("a", official=True)], "empty"),
    ],
)
def test_the_swarm_is_judged_by_its_official_models(models, state):
    """By those that anyone serves; where nobody serves an official one, by all that are served."""
    assert swarm_state(snapshot(*models)) == state


def test_a_swarm_that_nobody_can_join_is_broken():
    """Only where every bootstrap peer was found unreachable: that nobody dialled it is nothing against it."""

    def state(*verdicts):
        peers = tuple(BootstrapPeer(peer_id(number), (), verdict) for number, verdict in enumerate(verdicts))
        return swarm_state(snapshot(bootstrap_peers=peers))

    assert state(Verdict.UNREACHABLE, Verdict.UNREACHABLE) == "broken"
    assert state(Verdict.UNREACHABLE, Verdict.UNKNOWN) == state(Verdict.UNKNOWN) == state() == "healthy"


def test_a_bootstrap_peer_that_nobody_dialled_is_unknown():
    states = [bootstrap_state(BootstrapPeer(peer_id(1), (), verdict)) for verdict in Verdict]
    assert states == ["online", "unreachable", "unknown"]


def test_a_server_of_two_models_counts_once_where_it_is_online():
    """However the models are ordered; by state it counts in each model."""
    here, there = server(1, 0, 8), server(1, 0, 8, PeerState.JOINING)
    for one, two in ((here, there), (there, here)):
        models = (model("a", servers=(one,)), model("b", servers=(two,)))
        assert distinct_servers(snapshot(*models)) == [here]
        assert count_states(models) == {PeerState.ONLINE: 1, PeerState.JOINING: 1}
    assert [each.dht_prefix for each in judged_models(snapshot(*models))] == ["a", "b"]


def test_pings_to_a_server_are_what_others_announce():
    """Unanswered ones too; a server that announces none is left out."""
    answered = server(1, 0, 8, next_pings={peer_id(9): 0.1})
    unanswered = server(2, 0, 8, next_pings={peer_id(9): math.inf})
    report = model(servers=(answered, unanswered, server(3, 0, 8)))
    assert pings_to(report, peer_id(9)) == {peer_id(1): 0.1, peer_id(2): math.inf}


def test_what_the_crawler_found_outweighs_what_is_announced():
    assert uses_relay(server(1, 0, 8, using_relay=False, relayed=True)) is True
    assert uses_relay(server(1, 0, 8, using_relay=True)) is True
    assert uses_relay(server(1, 0, 8)) is None


def test_a_slow_crawl_makes_no_snapshot_stale():
    """The next snapshot comes after a period or a crawl, whichever is longer."""
    assert stale_after(snapshot(update_period=60.0, update_duration=5.0), 3) == 180.0
    assert stale_after(snapshot(update_period=60.0, update_duration=100.0), 3) == 300.0
    assert stale_after(None, 3) == 180.0


@pytest.mark.parametrize(
    ("age", "found"),
    [
        (0, Freshness(stale=False, at_least=0)),
        (119, Freshness(stale=False, at_least=60)),
        (180, Freshness(stale=False, at_least=180)),
        (181, Freshness(stale=True, at_least=180)),
    ],
)
def test_an_age_is_told_in_whole_periods(age, found):
    """So that a page with it stays true for a period."""
    here = snapshot(update_period=60.0, update_duration=5.0, taken_at=1000.0)
    assert freshness(here, 1000.0 + age, 180.0) == found
    often = snapshot(update_period=0.1, update_duration=0.1, taken_at=1000.0)
    assert freshness(often, 1002.5, 180.0).at_least == 2
    assert freshness(None, 1000.0 + age, 0.0) == Freshness(stale=False, at_least=0)


# --- Outages ---


def incident(prefix, *, end=None):
    return Incident(f"1-{prefix}", prefix, prefix, True, 1000.0, 8, 4, end=end)


def test_outages_are_open_incidents_and_models_that_are_broken_without_one():
    """In the order of the incidents; one that ended, and a model that nobody serves, is none."""
    here = snapshot(
        model("quiet"), model("healed", servers=WHOLE), model("whole", servers=WHOLE), model("gone"),
        model("half", servers=HALF), model("new", servers=HALF, name="New"), model("again", servers=HALF),
    )  # fmt: skip
    known = [incident(prefix) for prefix in ("half", "healed", "gone", "away", "half")]
    found = outages(here, [incident("again", end=2000.0), *known])
    assert [(one.dht_prefix, one.state, one.incident) for one in found] == [
        ("half", "broken", known[0]),
        ("healed", "recovering", known[1]),
        ("gone", "unserved", known[2]),
        ("away", "unserved", known[3]),
        ("new", "broken", None),
        ("again", "broken", None),
    ]
    assert [one.dht_prefix for one in found if one.is_broken] == ["half", "gone", "away", "new", "again"]
    assert found[0] == Outage("half", "half", True, "broken", known[0])
    assert found[4] == Outage("new", "New", False, "broken", None)
    assert outages(None, known[:1]) == (Outage("half", "half", True, "unknown", known[0]),)


def test_a_model_without_tokens_does_not_recover():
    """Its blocks have servers, and its incident stays open: until a computation proves it, it is not called healthy."""
    incidents = [replace(incident(name), unusable="NaN") for name in ("silent", "unseen", "mended", "unchecked")]
    states = zip(
        ("silent", "unseen", "mended"),
        (UsabilityState.UNUSABLE, UsabilityState.UNKNOWN, UsabilityState.USABLE),
        strict=True,
    )
    checked = [replace(model(name, servers=WHOLE), usability=Usability(state, 1000.0)) for name, state in states]
    lost = replace(model("lost", servers=WHOLE), usability=checked[0].usability)
    here = snapshot(*checked, model("unchecked", servers=WHOLE), lost)
    found = {one.dht_prefix: one.state for one in outages(here, [*incidents, incident("lost")])}
    assert found == {
        "silent": "broken", "unseen": "unknown", "mended": "recovering", "unchecked": "recovering", "lost": "broken",
    }  # fmt: skip


@given(st.lists(st.sampled_from(Verdict), min_size=1, max_size=5))
def test_anyone_who_reached_a_peer_decides(verdicts):
    """Reachable if anyone reached it, unreachable if anyone probed it, unknown only where nobody could."""
    answers = [
        Answer(peer_id(1), f"v{number}", 0.0, DialOutcome(verdict, CheckStage.DIAL, Cause.OTHER))
        for number, verdict in enumerate(verdicts)
    ]
    order = list(Verdict)
    assert decide(answers).outcome.verdict is min(verdicts, key=order.index)


def test_who_is_thanked():
    """Blocks of official models whose servers were reached, by the names that they show; in a private swarm of all."""

    def named(number, start, end, name="Ada", *, verdict=Verdict.REACHABLE, shown=True):
        return server(number, start, end, verdict=verdict, show_public_name=shown, public_name=name)

    official = model(
        "official", official=True, servers=(
            named(1, 0, 3, verdict=Verdict.UNREACHABLE), named(2, 0, 3, shown=False), named(3, 0, 3, name=None),
            named(4, 0, 3), named(5, 2, 8, "Bob"), named(6, 3, 8),
        ),
    )  # fmt: skip
    other = model("other", official=False, servers=(named(7, 0, 8),))
    here = snapshot(other, official, private_swarm=False)
    thanked = {
        "Ada": [Serving(peer_id(4), "official", 3), Serving(peer_id(6), "official", 5)],
        "Bob": [Serving(peer_id(5), "official", 6)],
    }
    assert serving(here) == thanked
    private = snapshot(other, official, private_swarm=True)
    assert serving(private) == {"Ada": [Serving(peer_id(7), "other", 8), *thanked["Ada"]], "Bob": thanked["Bob"]}
