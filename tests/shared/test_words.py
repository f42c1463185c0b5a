"""Amounts in words: the same everywhere, and never nonsense, whatever the number."""

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shared import words

ANY = st.floats(allow_nan=True, allow_infinity=True) | st.integers(-(10**20), 10**20)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (words.count(1, "server"), "1 server"),
        (words.count(0, "server"), "0 servers"),
        (words.count(2000, "server"), "2,000 servers"),
        (words.count(2, "entry", "entries"), "2 entries"),
        (words.listed(["a"]), "a"),
        (words.listed(["a", "b"]), "a and b"),
        (words.listed(["a", "b", "c", "d"], 2, "server"), "a, b and 2 more servers"),
        (words.listed([]), ""),
        (words.duration(59), "59 seconds"),
        (words.duration(117), "1 minute"),
        (words.duration(7200), "2 hours"),
        (words.duration(-5), "0 seconds"),
        (words.ago(100, 100 + 86400), "1 day ago"),
        (words.ago(100, 130), "less than a minute ago"),
        (words.ago(200, 100), "just now"),
        (words.period(60), "minute"),
        (words.period(90), "90 seconds"),
        (words.number(3688.4), "3,688"),
        (words.number(2.34), "2.3"),
        (words.number(math.inf), "∞"),
        (words.throughput(58), "58 tokens/s"),
        (words.throughput(None), ""),
        (words.milliseconds(0.0123), "12 ms"),
        (words.milliseconds(math.inf), "no answer"),
        (words.percent(1, 3), "33.3 %"),
        (words.percent(9999, 10000), "over 99.9 %"),
        (words.percent(1, 10000), "under 0.1 %"),
        (words.percent(1, 0), ""),
        (words.block_range(37, 41), "37–40"),
        (words.block_range(12, 13), "12"),
        (words.blocks([(12, 13)]), "block 12"),
        (words.blocks([(3, 8), (12, 13), (40, 42)]), "blocks 3–7, 12 and 40–41"),
        (words.blocks([(n, n + 1) for n in range(0, 12, 2)]), "blocks 0, 2, 4, 6 and 2 more ranges"),
        (words.blocks([]), "no blocks"),
        (words.sentence("no server"), "No server."),
    ],
)  # fmt: skip
def test_how_it_is_said(said, expected):
    assert said == expected


@given(ANY)
@example(math.inf)
def test_any_number_can_be_said(value):
    """NaN, infinity and the far past included: records and clocks hold such."""
    for say in (words.duration, words.about, words.period, words.number, words.throughput, words.milliseconds):
        assert say(value).isprintable()
    assert words.utc(value).year >= 1970
    assert words.ago(value, 0.0)
    assert words.ago(0.0, value)


@given(st.integers(0, 10**6), st.integers(1, 10**6))
def test_all_and_none_are_said_only_of_all_and_none(part, whole):
    """99.99 % is not 100 %: a reader takes that for "never failed"."""
    part = min(part, whole)
    assert (words.percent(part, whole) == "100 %") == (part == whole)
    assert (words.percent(part, whole) == "0 %") == (part == 0)


@given(st.text(), st.integers(1, 80))
def test_text_is_cut_and_cleaned(text, limit):
    shown = words.cut(text, limit)
    assert len(shown) <= limit
    assert shown.isprintable()
