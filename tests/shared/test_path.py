"""Paths are those that Petals' client would choose: found by trying all of them."""

import itertools
import random

import pytest

from shared import routing
from shared.routing import route
from tests.fakes import peer_id, server

pytestmark = pytest.mark.fast


def spans(legs):
    return [(leg.server.peer_id, leg.start, leg.end) for leg in legs]


def seconds(path, end):
    """The client's own sum for a path `[(server, entered block)]`."""
    total = routing._delay(path[0][0].rtt) + routing._delay(path[-1][0].rtt)
    for place, (one, entered) in enumerate(path):
        leaves = path[place + 1][1] if place + 1 < len(path) else end
        total += routing._entry(one) + (leaves - entered) * routing._block_seconds(one)
        if place:
            before = path[place - 1][0]
            total += routing._delay((before.next_pings or {}).get(one.peer_id))
    return total


def all_paths(servers, block, end):
    """Every path from a block on: a server is followed to the end of its span."""
    for one in servers:
        if one.span.start <= block < one.span.end:
            if one.span.end >= end:
                yield [(one, block)]
            else:
                yield from ([(one, block), *rest] for rest in all_paths(servers, one.span.end, end))


@pytest.mark.parametrize("seed", range(60))
def test_no_path_is_faster(seed):
    """Over random servers, speeds, pings and caches."""
    source = random.Random(seed)
    blocks = 8
    servers = []
    for number in range(source.randint(2, 7)):
        start = source.randrange(blocks)
        servers.append(
            server(
                number, start, source.randint(start + 1, blocks),
                inference_rps=source.choice((None, source.uniform(1, 500))), rtt=source.choice((None, source.random())),
                cache_tokens_left=source.choice((None, 0, 10**6)),
                next_pings={peer_id(other): source.random() for other in range(7) if source.random() < 0.6} or None,
            )
        )  # fmt: skip
    paths = list(all_paths(servers, 0, blocks))
    legs = route(servers, 0, blocks)
    assert (legs is None) == (not paths)
    if legs is not None:
        chosen = [(leg.server, leg.start) for leg in legs]
        assert seconds(chosen, blocks) == pytest.approx(min(seconds(path, blocks) for path in paths))
        assert [leg.start for leg in legs] == [0, *(leg.end for leg in legs[:-1])]
        assert legs[-1].end == blocks
        assert all(one.server.span.end == one.end for one in legs[:-1])


def test_a_part_of_a_model_is_routed_too():
    """As where a hop failed: to the end of what it had, not to the end of the model."""
    one, other = server(1, 0, 3), server(2, 3, 9)
    assert spans(route([one, other], 2, 5)) == [(one.peer_id, 2, 3), (other.peer_id, 3, 5)]
    assert route([one], 2, 5) is None


def test_hostile_pings_and_speeds_break_nothing():
    """Infinite, negative, not a number, zero."""
    for value in (float("inf"), float("nan"), -1.0, 0.0):
        servers = [
            server(1, 0, 2, inference_rps=value, rtt=value, next_pings={peer_id(2): value}),
            server(2, 2, 4, inference_rps=value),
        ]
        assert len(route(servers, 0, 4)) == 2


def test_a_thousand_servers_are_routed():
    """Each of some blocks of eighty."""
    servers = [server(number, number % 71, number % 71 + 10) for number in range(1000)]
    legs = route(servers, 0, 80)
    assert [leg.end for leg in legs][-1] == 80
    assert all(a.end == b.start for a, b in itertools.pairwise(legs))
