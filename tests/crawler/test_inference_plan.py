"""Which servers are checked when in a round, and what each computes."""

import pytest

from crawler.inference.plan import Step, choose_adapter, choose_step, slot_of
from shared.judgement.path import Leg
from shared.p2p.chain import Link
from tests.fakes import peer_id, server

pytestmark = pytest.mark.fast


def hop(start, end):
    return Link(Leg(server(9, start, end), start, end, seconds=1.0))


FIRST, SECOND, THIRD = hop(0, 3), hop(3, 6), hop(6, 9)
CHAIN = (FIRST, SECOND, THIRD)


def test_servers_are_spread_evenly_over_a_round():
    """Each always in the same slot."""
    slots = [slot_of(peer_id(number), 9) for number in range(900)]
    assert slots == [slot_of(peer_id(number), 9) for number in range(900)]
    assert all(60 < slots.count(slot) < 140 for slot in range(9))


def test_adapters_take_turns():
    """In every second round one of them; the plain model in the others."""
    one = server(1, 0, 4, adapters=("a", "b"))
    assert [choose_adapter(one, number) for number in range(6)] == [None, "a", None, "b", None, "a"]
    assert [choose_step(one, (), number) for number in (2, 3)] == [Step((0, 4), None, None), Step((0, 4), None, "b")]
    assert choose_adapter(server(1, 0, 4), 1) is None


def test_who_holds_the_blocks_of_a_hop_computes_that_hop():
    """In every round, with the adapter whose turn it is."""
    one = server(1, 3, 6, adapters=("a",))
    assert [choose_step(one, CHAIN, number) for number in range(3)] == [
        Step((3, 6), SECOND, None), Step((3, 6), SECOND, "a"), Step((3, 6), SECOND, None),
    ]  # fmt: skip


def test_who_holds_more_than_a_hop_computes_it_in_every_second_round():
    """The hops that it holds in turn; in the other rounds all its blocks, from the round's random input."""
    one = server(1, 3, 10, adapters=("a",))
    assert [choose_step(one, CHAIN, number) for number in range(5)] == [
        Step((3, 6), SECOND, None), Step((3, 10), None, "a"), Step((6, 9), THIRD, None), Step((3, 10), None, "a"),
        Step((3, 6), SECOND, None),
    ]  # fmt: skip


@pytest.mark.parametrize("span", [(1, 5), (4, 8), (0, 2), (1, 3), (7, 9)])
def test_who_holds_a_part_of_a_hop_computes_its_own_blocks(span):
    assert choose_step(server(1, *span), CHAIN, 0) == Step(span, None, None)
