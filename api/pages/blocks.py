"""Blocks and their servers in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.judgement.coverage import Coverage


def block_range(start: int, end: int) -> str:
    """Both ends counted in, with an en dash: blocks 37 to 40; one block is its number alone."""
    return f"{start}" if end - start == 1 else f"{start}–{end - 1}"


def in_words(spans: Sequence[tuple[int, int]], limit: int = 4) -> str:
    """Blocks 3 to 7, 12 and 40 to 41, shorter; of many spans the first, and how many more there are."""
    names = [block_range(start, end) for start, end in spans[:limit]]
    if len(spans) > limit:
        names.append(f"{len(spans) - limit} more ranges" if len(spans) - limit > 1 else "1 more range")
    listed = names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
    single = len(spans) == 1 and spans[0][1] - spans[0][0] == 1
    return ("block " if single else "blocks ") + listed


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
