"""Servers are compared by what they add to the same input, as exactly as they say that they compute."""

import random
from array import array

import pytest

from crawler.inference.agreement import (
    COMPARED_SERVERS,
    COMPARED_VALUES,
    Group,
    Numbers,
    cosine,
    lowest_allowed,
    numbers,
    precision_of,
)
from crawler.inference.plan import choose_step, slot_of
from shared.inference import AgreementOutcome
from shared.judgement.usability import OPT_OUT, not_asked
from tests.fakes import peer_id, server

pytestmark = pytest.mark.fast

BLOCKS = (0, 4)


def vector(seed):
    source = random.Random(seed)
    return array("f", (source.gauss(0, 1) for _ in range(256)))


def made(seed, precision="float32", noise=0.0):
    source = random.Random(99)
    added = tuple(array("f", (one + noise * source.gauss(0, 1) for one in vector(f"{seed}{n}"))) for n in range(2))
    return Numbers(added, precision)


def compared(computed):
    group, found = Group(BLOCKS), {}
    for name, made_by_it in computed.items():
        found |= group.add(name, made_by_it)
    return found


def outcomes(**computed):
    found = compared(computed)
    return {name: (found[name].outcome, found[name].against_majority) for name in computed}


AGREES, DISAGREES = (AgreementOutcome.AGREES, False), (AgreementOutcome.DISAGREES, False)
ODD = (AgreementOutcome.DISAGREES, True)


def test_the_odd_one_of_three_is_named():
    assert outcomes(a=made(1), b=made(1), c=made(2)) == {"a": AGREES, "b": AGREES, "c": ODD}


def test_of_two_nobody_is_blamed():
    assert outcomes(a=made(1), b=made(2)) == {"a": DISAGREES, "b": DISAGREES}


def test_where_all_differ_nobody_is_blamed():
    assert set(outcomes(a=made(1), b=made(2), c=made(3)).values()) == {DISAGREES}


def test_two_against_two_blames_nobody():
    found = outcomes(a=made(1), b=made(1), c=made(2), d=made(2))
    assert {against for _, against in found.values()} == {False}


def test_one_alone_is_compared_with_nobody():
    assert outcomes(a=made(1)) == {"a": (AgreementOutcome.ALONE, False)}


def test_a_coarse_server_agrees_within_its_own_tolerance():
    """One that rounds to nf4 beside float32; with the same noise two of float32 disagree."""
    assert outcomes(a=made(1), b=made(1, "nf4", noise=0.6))["b"] == AGREES
    assert outcomes(a=made(1), b=made(1, "float32", noise=0.6))["b"] == DISAGREES
    assert lowest_allowed("nf4", "nf4") > lowest_allowed("nf4", "int8")
    assert lowest_allowed("float32", "half") == lowest_allowed("half", "float32")


def test_what_servers_announce_decides_the_tolerance():
    assert precision_of("float32", "none") == "float32"
    assert precision_of("bfloat16", None) == "half"
    assert precision_of(None, None) == "half"
    assert precision_of("float16", "INT8") == "int8"
    assert precision_of("bfloat16", "nf4") == "nf4"
    assert precision_of("bfloat16", "a new one") == "nf4"


def test_a_cosine_of_anything_is_a_number():
    huge = array("f", [3e38] * 8)
    assert cosine(huge, huge) == pytest.approx(1)
    assert cosine([0.0], [0.0]) == 1
    assert cosine([0.0], [1.0]) == 0
    assert cosine([1.0], [1.0, 2.0]) == 0


def test_what_is_kept_and_compared_is_bounded():
    """However large the hidden state; of many servers each is compared with the first ones."""
    wide = array("f", [0.5] * 32_768)
    assert len(numbers([wide], [wide], "half").added[0]) <= COMPARED_VALUES
    many = {peer_id(number): made(1) for number in range(COMPARED_SERVERS + 4)} | {"odd": made(2)}
    found = compared(many)
    assert found.keys() == many.keys()
    assert [name for name, one in found.items() if one.outcome is not AgreementOutcome.AGREES] == ["odd"]
    assert found["odd"].against_majority
    assert max(len(one.peers) for one in found.values()) == COMPARED_SERVERS


def test_servers_are_spread_evenly_over_a_round():
    """Each always in the same slot."""
    slots = [slot_of(peer_id(number), 9) for number in range(900)]
    assert slots == [slot_of(peer_id(number), 9) for number in range(900)]
    assert all(60 < slots.count(slot) < 140 for slot in range(9))


def test_who_is_not_asked():
    """An operator who opted out; a server without cache."""
    assert not_asked(server(1, 0, 4, cache_tokens_left=10_000), 0) is None
    assert not_asked(server(1, 0, 4), 0) is None
    assert "opted out" in not_asked(server(1, 0, 4, public_name=f"mine {OPT_OUT}"), 0).detail
    assert not_asked(server(1, 0, 4, cache_tokens_left=8), 0).outcome == "busy"


def test_adapters_take_turns():
    """In every second round one of them; the plain model in the others."""
    one = server(1, 0, 4, adapters=("a", "b"))
    assert [choose_step(one, (), number).adapter for number in range(6)] == [None, "a", None, "b", None, "a"]
