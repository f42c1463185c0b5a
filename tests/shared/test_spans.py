"""Spans stand for the blocks in them: each function is held against plain sets of blocks."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.spans import common, longest, merged, size, without

SPANS = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 9)).map(lambda made: (made[0], sum(made))), max_size=8)


def blocks(spans):
    return {block for start, end in spans for block in range(start, end)}


def in_order(spans):
    """Neither touching nor overlapping."""
    return all(one[1] < two[0] for one, two in pairwise(spans))


@given(SPANS)
def test_merged_spans_hold_the_same_blocks_in_order(spans):
    joined = merged(spans)
    assert blocks(joined) == blocks(spans)
    assert in_order(joined)
    assert size(joined) == len(blocks(spans))


@given(SPANS, SPANS)
def test_blocks_that_are_in_both_and_in_the_first_alone(some, others):
    one, two = merged(some), merged(others)
    assert blocks(common(one, two)) == blocks(one) & blocks(two)
    assert blocks(without(one, two)) == blocks(one) - blocks(two)
    assert in_order(common(one, two))
    assert in_order(without(one, two))


@pytest.mark.parametrize(
    ("spans", "joined"),
    [
        ([(4, 6), (0, 2), (2, 5)], [(0, 6)]),
        ([(0, 9), (2, 5)], [(0, 9)]),
        ([(0, 2), (3, 4)], [(0, 2), (3, 4)]),
        ([], []),
    ],
)
def test_spans_that_touch_or_overlap_are_one(spans, joined):
    assert merged(spans) == joined


def test_the_first_of_the_longest_spans_is_taken():
    assert longest([(0, 2), (4, 8), (9, 13)]) == (4, 8)
    assert size([(0, 2), (4, 8)]) == 6
