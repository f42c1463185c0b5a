"""Blocks and their servers in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.words import block_range
from shared.words import blocks as in_words

if TYPE_CHECKING:
    from shared.judgement.coverage import Coverage

__all__ = ["block_range", "bottleneck", "in_words"]


def bottleneck(held: Coverage) -> str:
    """What stands in the way of using the model, or where it is thinnest: one clause, no full stop."""
    if not held.covered_blocks:
        return "no block has an online, reachable server"
    lowest = held.min_redundancy
    blocks = in_words(held.spans(lowest, lowest))
    one_block = held.redundancy.count(lowest) == 1
    if lowest == 0:
        return f"{blocks} {'has' if one_block else 'have'} no server"
    if lowest > 1 or max(held.redundancy) == lowest:
        return "every block has " + ("exactly one server" if lowest == 1 else f"at least {lowest} servers")
    return f"{blocks} {'depends' if one_block else 'depend'} on a single server"
