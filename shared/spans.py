"""This module computes with spans: stretches of blocks `(start, end)` with `start <= block < end`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

Spans = list[tuple[int, int]]
"""In order; they neither touch nor overlap."""


def merged(spans: Iterable[tuple[int, int]]) -> Spans:
    """Join spans, in any order, that touch or overlap."""
    joined: Spans = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def blocks_of(spans: Iterable[tuple[int, int]]) -> set[int]:
    return {block for start, end in spans for block in range(start, end)}


def common(some: Spans, others: Spans) -> Spans:
    """Return the blocks that are in both."""
    return _spans_of(blocks_of(some) & blocks_of(others))


def without(some: Spans, others: Spans) -> Spans:
    """Return the blocks of the first that are not in the second."""
    return _spans_of(blocks_of(some) - blocks_of(others))


def size(spans: Iterable[tuple[int, int]]) -> int:
    """Count the blocks."""
    return sum(end - start for start, end in spans)


def longest(spans: Spans) -> tuple[int, int]:
    """Return the longest span, the first of equals."""
    return max(spans, key=lambda span: span[1] - span[0])


def _spans_of(blocks: set[int]) -> Spans:
    return merged((block, block + 1) for block in blocks)
