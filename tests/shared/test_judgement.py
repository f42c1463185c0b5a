"""What is judged of a snapshot, against brute force: coverage, paths, the swarm as a whole."""

from __future__ import annotations

import math
import random
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from shared.judgement.freshness import stale_after
from shared.judgement.path import HOP_OVERHEAD, RIVALS, UNKNOWN_DELAY, chain_seconds, find_path, typical_delay
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
from tests import page_snapshots as made
from tests.fakes import model, peer_id, server, snapshot


def path_through(report):
    return find_path(report, coverage(report))


@st.composite
def models(draw, max_servers=7):
    """Small models whose servers are in any state, with speeds and pings that may be missing or absurd."""
    blocks = draw(st.integers(1, 8))
    speeds = st.sampled_from([None, 0.0, math.nan, 50.0, 100.0, 250.0, 400.0])
    servers = []
    for n in range(draw(st.integers(0, max_servers))):
        start = draw(st.integers(0, blocks - 1))
        end = draw(st.integers(start + 1, blocks))
        state = draw(st.sampled_from([PeerState.ONLINE] * 4 + [PeerState.JOINING, PeerState.UNREACHABLE]))
        targets = draw(st.lists(st.integers(0, max_servers), max_size=3, unique=True))
        pings = {made.peer_id(f"p{m}"): draw(st.sampled_from([0.002, 0.1, 0.4, math.inf, math.nan])) for m in targets}
        servers.append(
            made.make_server(f"p{n}", start, end, state, inference_rps=draw(speeds), next_pings=pings or None)
        )
    return made.make_model("m", blocks, servers)


def brute_force_chains(servers, blocks):
    """Every chain in which each server works to the end of its span, as (server, start, end) steps."""

    def extend(position):
        if position == blocks:
            yield []
        for each in servers:
            if each.span.start <= position < each.span.end:
                for rest in extend(each.span.end):
                    yield [(each, position, each.span.end), *rest]

    return list(extend(0))


def seconds(chain, delay):
    """The formula of `find_path`, written down once more."""
    total, before = delay, None
    for each, start, end in chain:
        ping = (before.next_pings or {}).get(each.peer_id) if before else None
        hop = delay if ping is None or math.isnan(ping) else min(ping / 2, 5.0)
        total += hop + HOP_OVERHEAD + (end - start) / each.inference_rps
        before = each
    return total


@given(models())
def test_path_exists_exactly_when_a_chain_does(model):
    """A path is found where brute force finds one; and it is a real chain; coverage says whether there is one."""
    online = [server for server in model.servers if server.state is PeerState.ONLINE]
    path = path_through(model)
    assert (path is not None) == bool(brute_force_chains(online, model.num_blocks)) == coverage(model).has_path
    if path is None:
        return
    position = 0
    for hop in path.hops:
        assert hop.server in online
        assert hop.start == position
        assert hop.server.span.start <= position < hop.end == hop.server.span.end
        position = hop.end
    assert position == model.num_blocks


@given(models())
def test_estimate_is_that_of_the_fastest_chain(model):
    """The estimate is brute force's best where few servers share an end, never above it, None without speeds."""
    path = path_through(model)
    if path is None:
        return
    online = [server for server in model.servers if server.state is PeerState.ONLINE]
    rated = [server for server in online if server.inference_rps and not math.isnan(server.inference_rps)]
    delay = typical_delay(online)
    chains = brute_force_chains(rated, model.num_blocks)
    if not chains:
        assert path.tokens_per_second is None
        return
    best = 1 / min(seconds(chain, delay) for chain in chains)
    assert path.tokens_per_second == pytest.approx(1 / chain_seconds(path.hops, delay))
    assert path.tokens_per_second <= best * (1 + 1e-9)
    shared_ends = [sum(server.span.end == end for server in rated) for end in range(model.num_blocks + 1)]
    if max(shared_ends) <= RIVALS:
        assert path.tokens_per_second == pytest.approx(best)


def test_without_speeds_the_chain_has_the_fewest_servers():
    """Where nobody tells a speed the chain is the shortest one, and there is no estimate."""
    spans = [(0, 4), (0, 6), (4, 8), (5, 10), (8, 12), (9, 12)]
    servers = [made.make_server(n, *span, inference_rps=None) for n, span in enumerate(spans)]
    path = path_through(made.make_model("m", 12, servers))
    assert path is not None
    assert [(hop.start, hop.end) for hop in path.hops] == [(0, 6), (6, 10), (10, 12)]
    assert path.tokens_per_second is None


def test_estimate_by_hand():
    """Two servers, 100 ms between them: 1 / (10/100 + 10/200 + 2 x 0.018 + three one-way delays of 50 ms)."""
    second = made.make_server("second", 10, 20, inference_rps=200.0)
    first = made.make_server("first", 0, 10, inference_rps=100.0, next_pings={second.peer_id: 0.1})
    path = path_through(made.make_model("m", 20, [first, second]))
    assert path is not None
    assert path.tokens_per_second == pytest.approx(1 / (0.1 + 0.05 + 2 * 0.018 + 3 * 0.05))
    assert typical_delay([second]) == UNKNOWN_DELAY


def test_a_hop_that_does_not_answer_is_avoided():
    """Of two ways, the one over a connection that does not answer is not the one that is estimated."""
    good, bad = (
        made.make_server("good", 5, 10, inference_rps=100.0),
        made.make_server("bad", 5, 10, inference_rps=200.0),
    )
    first = made.make_server("1", 0, 5, inference_rps=100.0, next_pings={good.peer_id: 0.01, bad.peer_id: math.inf})
    path = path_through(made.make_model("m", 10, [first, good, bad]))
    assert path is not None
    assert path.hops[1].server is good


@pytest.mark.parametrize(
    ("ping", "one_way"), [(math.inf, 5.0), (60.0, 5.0), (math.nan, UNKNOWN_DELAY), (-1.0, UNKNOWN_DELAY), (0.0, 0.0)]
)
def test_absurd_pings_do_not_break_the_estimate(ping, one_way):
    """The only way over a hop that did not answer counts 5 s, as Petals reckons; nonsense counts as unknown."""
    second = made.make_server("second", 5, 10, inference_rps=100.0)
    first = made.make_server("first", 0, 5, inference_rps=100.0, next_pings={second.peer_id: ping})
    path = path_through(made.make_model("m", 10, [first, second]))
    assert path is not None
    ends = 2 * typical_delay([first])
    assert path.tokens_per_second == pytest.approx(1 / (0.1 + 2 * 0.018 + ends + one_way))


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


@pytest.mark.slow
def test_ten_thousand_servers_are_searched_fast():
    """A path through 126 blocks held by 10,000 servers, each with pings, is found within a second of a core."""
    rng = random.Random(1)
    ids = [made.peer_id(f"big{n}") for n in range(200)]
    servers = []
    for n in range(10_000):
        start = rng.randrange(0, 120)
        end = min(126, start + rng.randrange(1, 40))
        pings = {rng.choice(ids): 0.05 for _ in range(4)}
        servers.append(made.make_server(f"big{n}", start, end, next_pings=pings))
    model = made.make_model("big", 126, [*servers, made.make_server("whole", 0, 126)])
    spent = []
    for _ in range(3):
        start = time.process_time()
        assert path_through(model) is not None
        spent.append(time.process_time() - start)
    assert min(spent) < 1
    assert coverage(model).covered_blocks == 126


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


@given(st.lists(st.sampled_from(Verdict), min_size=1, max_size=5))
def test_anyone_who_reached_a_peer_decides(verdicts):
    """Reachable if anyone reached it, unreachable if anyone probed it, unknown only where nobody could."""
    answers = [
        Answer(peer_id(1), f"v{number}", 0.0, DialOutcome(verdict, CheckStage.DIAL, Cause.OTHER))
        for number, verdict in enumerate(verdicts)
    ]
    order = list(Verdict)
    assert decide(answers).outcome.verdict is min(verdicts, key=order.index)
