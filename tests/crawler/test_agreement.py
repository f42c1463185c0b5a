"""Servers are compared by what they add to the same input, as exactly as they say that they compute."""

import math
import random
from array import array

import pytest

from crawler.inference.agreement import (
    COMPARED_SERVERS,
    COMPARED_VALUES,
    LOWEST,
    Group,
    Numbers,
    cosine,
    lowest_allowed,
    numbers,
    precision_of,
)
from crawler.inference.plan import choose_step, slot_of
from shared.inference import Agreement, AgreementOutcome
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
    assert compared({"a": made(1)}) == {"a": Agreement(AgreementOutcome.ALONE, blocks=BLOCKS)}


def test_the_fewer_of_a_kind_disagree():
    """Also where they agree with each other."""
    found = outcomes(a=made(1), b=made(1), c=made(2), d=made(2), e=made(2))
    assert found == {"a": ODD, "b": ODD, "c": AGREES, "d": AGREES, "e": AGREES}


def test_servers_are_compared_over_the_same_tokens():
    """One that gave fewer has not computed: it is not among them."""
    with pytest.raises(ValueError, match="longer|shorter"):
        compared({"a": made(1), "b": made(1)._replace(added=())})


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


def test_of_two_the_less_exact_decides_the_tolerance():
    """In either order; two that round to nf4 round alike."""
    exact_first = list(LOWEST)
    for place, one in enumerate(exact_first):
        for other in exact_first[place:]:
            expected = LOWEST["half"] if one == "nf4" else LOWEST[other]
            assert lowest_allowed(one, other) == lowest_allowed(other, one) == expected
    assert precision_of("float32", None) == "float32"


def test_what_was_added_is_kept_of_each_token():
    """Output less input; of a wide state evenly spread values, of a narrow one all; as many inputs as outputs."""
    narrow = numbers([array("f", [1, 2]), array("f", [0, 0])], [array("f", [4, 8]), array("f", [5, 6])], "int8")
    assert narrow == Numbers((array("f", [3, 6]), array("f", [5, 6])), "int8")
    full = array("f", range(COMPARED_VALUES))
    zeros = array("f", [0] * 2 * COMPARED_VALUES)
    assert numbers([zeros[:COMPARED_VALUES]], [full], "half").added[0] == full
    wide = array("f", range(COMPARED_VALUES + 1))
    assert numbers([zeros[: len(wide)]], [wide], "half").added[0] == wide[::2]
    with pytest.raises(ValueError, match="longer|shorter"):
        numbers([full], [full, full], "half")


def test_a_comparison_says_with_whom_and_how_alike():
    """The least alike token of the least alike server that is shown, and the blocks that were computed."""
    found = compared({"a": made(1), "b": made(1), "c": made(2)})
    assert (found["a"].peers, found["c"].peers) == (("b",), ("a", "b"))
    assert {one.blocks for one in found.values()} == {BLOCKS}
    assert found["a"].lowest_cosine == pytest.approx(1)
    x, y = array("f", [1, 0]), array("f", [0, 1])
    half = {"a": Numbers((x, x), "half"), "b": Numbers((x, y), "half"), "c": Numbers((x, array("f", [-1, 0])), "half")}
    found = compared(half)
    assert (found["a"].lowest_cosine, found["b"].lowest_cosine) == (-1, 0)
    assert compared({"a": Numbers((), "half"), "b": Numbers((), "half")})["a"].lowest_cosine == 0


def test_a_cosine_that_is_just_allowed_agrees():
    """So do lengths that rounding brings above one."""
    lowest = lowest_allowed("nf4", "half")
    one, other = array("d", [1, 0]), array("d", [lowest, math.sqrt(1 - lowest**2)])
    assert cosine(one, other) == lowest
    assert outcomes(a=Numbers((one,), "nf4"), b=Numbers((other,), "half")) == {"a": AGREES, "b": AGREES}
    for scale in (2, -2):
        vectors = array("d", [8, 5]), array("d", [8 * scale, 5 * scale])
        assert abs(cosine(*vectors)) > 1
        found = compared({name: Numbers((each,), "half") for name, each in zip("ab", vectors, strict=True)})
        assert found["a"].lowest_cosine == math.copysign(1, scale)


def test_a_cosine_of_anything_is_a_number():
    huge = array("f", [3e38] * 8)
    assert cosine(huge, huge) == pytest.approx(1)
    assert cosine([0.0], [0.0]) == cosine([1e200], [1e200]) == 1
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


def test_adapters_take_turns():
    """In every second round one of them; the plain model in the others."""
    one = server(1, 0, 4, adapters=("a", "b"))
    assert [choose_step(one, (), number).adapter for number in range(6)] == [None, "a", None, "b", None, "a"]
