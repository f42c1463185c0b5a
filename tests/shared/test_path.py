"""Paths are those that Petals' client would choose: found by trying all of them."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from shared.judgement import path
from shared.judgement.path import find_path, tokens_per_second
from tests.fakes import peer_id, server

BLOCKS = 8
PINGS = st.sampled_from([0.0, 0.002, 0.1, 0.4, 60.0, math.inf, math.nan, -1.0])
SPEEDS = st.sampled_from([None, 0.0, -1.0, math.nan, math.inf, 5e-324, 2.0, 50.0, 400.0])


@st.composite
def swarms(draw):
    """Servers of one model whose speeds, pings and caches may be missing or absurd."""
    servers = []
    for number in range(draw(st.integers(0, 6))):
        start = draw(st.integers(0, BLOCKS - 1))
        servers.append(
            server(
                number, start, draw(st.integers(start + 1, BLOCKS)), inference_rps=draw(SPEEDS),
                rtt=draw(st.none() | PINGS), cache_tokens_left=draw(st.sampled_from([None, 0, 1024, 10**6])),
                next_pings=draw(st.none() | st.dictionaries(st.integers(0, 7).map(peer_id), PINGS, max_size=3)),
            )
        )  # fmt: skip
    return servers


def all_paths(servers, block, end):
    """Every path from a block on, as [(server, first block)]: a server is followed to the end of its span."""
    for one in servers:
        if one.span.start <= block < one.span.end:
            if one.span.end >= end:
                yield [(one, block)]
            else:
                yield from ([(one, block), *rest] for rest in all_paths(servers, one.span.end, end))


def seconds(way, end, *, waiting):
    """The client's own sum for a path, with or without waiting for cache."""

    def delay(ping):
        return 0.15 if ping is None or math.isnan(ping) or ping < 0 else min(ping / 2, 5)

    total, pings = delay(way[-1][0].rtt), {way[0][0].peer_id: way[0][0].rtt}
    for place, (one, entered) in enumerate(way):
        leaves = way[place + 1][1] if place + 1 < len(way) else end
        total += delay(pings.get(one.peer_id)) + 0.018 + (leaves - entered) / (one.inference_rps if told(one) else 300)
        if waiting and one.cache_tokens_left is not None and one.cache_tokens_left < 2 * 128 * one.span.length:
            total += 10
        pings = one.next_pings or {}
    return total


def told(one):
    return one.inference_rps in {2.0, 50.0, 400.0}


def entered(legs):
    return [(leg.server, leg.start) for leg in legs]


def spans(legs):
    return [(leg.server.peer_id, leg.start, leg.end) for leg in legs]


def check_path(legs, start, end):
    """Its legs tile the blocks, each within its server's span and, but for the last one, to the end of it."""
    assert [leg.start for leg in legs] == [start, *(leg.end for leg in legs[:-1])]
    assert legs[-1].end == end
    assert all(one.server.span.start <= one.start < one.end <= one.server.span.end for one in legs)
    assert all(one.server.span.end == one.end for one in legs[:-1])


@given(swarms(), st.integers(0, BLOCKS - 1), st.integers(1, BLOCKS))
def test_no_path_is_faster(servers, start, length):
    """A path is found where there is one; it is the fastest. Its tokens/s wait for no cache, and need all speeds."""
    end = min(BLOCKS, start + length)
    ways = list(all_paths(servers, start, end))
    legs = find_path(servers, start, end)
    assert (legs is None) == (not ways)
    if legs is None:
        return
    check_path(legs, start, end)
    chosen = entered(legs)
    assert seconds(chosen, end, waiting=True) == pytest.approx(min(seconds(way, end, waiting=True) for way in ways))
    speed = tokens_per_second(legs)
    assert (speed is None) == (not all(told(one) for one, _ in chosen))
    assert speed is None or speed == pytest.approx(1 / seconds(chosen, end, waiting=False))


@pytest.mark.fast
def test_estimate_by_hand():
    """Two servers, 100 ms between them, 40 ms to the first: 10/100 + 10/200 + 2 x 0.018 + 0.02 + 0.05 + 0.15 s."""
    first = server(1, 0, 10, inference_rps=100.0, rtt=0.04, next_pings={peer_id(2): 0.1})
    second = server(2, 10, 20, inference_rps=200.0, cache_tokens_left=0)
    legs = find_path([first, second], 0, 20)
    assert [leg.seconds for leg in legs] == pytest.approx([0.02 + 0.018 + 0.1, 0.05 + 0.018 + 0.05])
    assert tokens_per_second(legs) == pytest.approx(1 / (0.1 + 0.05 + 2 * 0.018 + 0.02 + 0.05 + 0.15))


@pytest.mark.fast
def test_a_hop_that_does_not_answer_is_avoided():
    """Of two ways, the one over a connection that does not answer is not chosen, be its server twice as fast."""
    good, bad = server(2, 5, 10, inference_rps=100.0), server(3, 5, 10, inference_rps=200.0)
    first = server(1, 0, 5, next_pings={good.peer_id: 0.01, bad.peer_id: math.inf})
    assert find_path([first, bad, good], 0, 10)[1].server is good


@pytest.mark.fast
def test_a_server_without_room_for_a_prompt_is_avoided():
    """Keys and values of 128 tokens in each of its blocks: with one token less, a slower server is chosen."""
    slow = server(1, 0, 4, inference_rps=10.0)
    for left, chosen in ((2 * 128 * 4, 2), (2 * 128 * 4 - 1, 1), (None, 2)):
        fast = server(2, 0, 4, inference_rps=100.0, cache_tokens_left=left)
        assert find_path([slow, fast], 0, 4)[0].server.peer_id == peer_id(chosen)


@pytest.mark.fast
def test_every_server_that_may_follow_is_tried():
    """Also where no ping is known to any of them; a ping of 0 s is known, and the best."""
    first, full = server(1, 0, 5), server(2, 5, 10, inference_rps=100.0, cache_tokens_left=0)
    slow, slower = server(3, 5, 10, inference_rps=20.0), server(4, 5, 10, inference_rps=15.0)
    assert find_path([first, full, slow], 0, 10)[1].server is slow
    near = replace(first, next_pings={slow.peer_id: 0.25, slower.peer_id: 0.0})
    assert find_path([near, slow, slower], 0, 10)[1].server is slower


@pytest.mark.fast
def test_only_the_blocks_that_are_left_count():
    """Entered at block 2, a near server that takes 0.1 s for each of 4 blocks is faster than one 0.5 s away."""
    near = server(1, 0, 6, inference_rps=10.0, rtt=0.02)
    far = server(2, 0, 6, inference_rps=100.0, rtt=0.5)
    assert find_path([near, far], 2, 6)[0].server is near


@pytest.mark.fast
@pytest.mark.parametrize(("room", "chosen"), [(4, 1), (5, 2)])
def test_the_blocks_of_all_spans_together_are_bounded(monkeypatch, room, chosen):
    """Servers are searched, the fastest first, until the room is used up; then those without which a block has none."""
    monkeypatch.setattr(path, "MAX_SEARCHED", room)
    fast, near = server(1, 2, 6, inference_rps=200.0, rtt=2.0), server(2, 2, 6, inference_rps=100.0, rtt=0.0)
    rest = server(3, 6, 8, inference_rps=50.0)
    assert spans(find_path([rest, near, fast], 2, 8)) == [(peer_id(chosen), 2, 6), (rest.peer_id, 6, 8)]


@pytest.mark.fast
def test_a_part_of_a_model_is_searched_too():
    """As where a hop failed: to the end of what it had, not to the end of the model."""
    one, other = server(1, 0, 3), server(2, 3, 9)
    assert spans(find_path([one, other], 2, 5)) == [(one.peer_id, 2, 3), (other.peer_id, 3, 5)]
    assert find_path([one], 2, 5) is None
    assert find_path([], 0, 0) is None


@pytest.mark.fast
@pytest.mark.parametrize("seed", range(10))
def test_of_too_many_servers_the_fastest_are_searched(monkeypatch, seed):
    """A path is found all the same where only a slow server holds some block."""
    monkeypatch.setattr(path, "MAX_SEARCHED", 20)
    source = random.Random(seed)
    fast = []
    for number in range(10):
        start = source.randrange(10)
        fast.append(server(number, start, source.randint(start + 1, 12), inference_rps=source.uniform(200, 500)))
    slow = [server(20, 0, 15, inference_rps=1.0), server(21, 9, 20, inference_rps=2.0)]
    legs = find_path([*slow, *fast], 0, 20)
    check_path(legs, 0, 20)
    assert find_path([slow[1], *fast], 12, 20)[0].server is slow[1]
    assert find_path(fast, 0, 20) is None


def unequal(rng, number):
    start = rng.randrange(0, 120)
    return start, min(126, start + rng.randrange(1, 126))


SHAPES = {"unequal spans": unequal, "equal spans": lambda _rng, number: (0, 63) if number % 2 else (63, 126)}


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_ten_thousand_servers_are_searched_fast(monkeypatch, shape):
    """Through 126 blocks held by 10,000 servers: in as many steps as their spans have blocks and pings, not pairs."""
    rng = random.Random(1)
    bare = [server(number, *SHAPES[shape](rng, number), inference_rps=rng.uniform(50, 60)) for number in range(10_000)]
    servers = [replace(one, next_pings={rng.choice(bare).peer_id: 0.05 for _ in range(4)}) for one in bare]
    moves, steps = path._moves, []

    def counted(*args):
        for move in moves(*args):
            steps.append(None)
            yield move

    monkeypatch.setattr(path, "_moves", counted)
    check_path(find_path(servers, 0, 126), 0, 126)
    assert len(steps) <= path.MAX_SEARCHED + 4 * len(servers)
