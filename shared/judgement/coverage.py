"""This module counts the servers of each block of a model, and sums their throughput. Linear in servers + blocks."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Literal

from shared.snapshot import ModelState, PeerState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shared.snapshot import ModelReport, ServerReport, Span

Speed = Literal["throughput", "network_rps", "forward_rps", "inference_rps"]
"""A field of `Announcement` in tokens/s."""
MAX_SPEED = 3.0e38
"""Tokens/s that one server can claim: what a float of 32 bits in the history holds. The crawler lets pass 1e9."""
_MILLIONTHS = 10**6


@dataclass(frozen=True, slots=True)
class Run:
    """Blocks `start <= block < end`, each held by `redundancy` online, reachable servers."""

    start: int
    end: int
    redundancy: int


@dataclass(frozen=True, slots=True)
class Coverage:
    """How many online, reachable servers hold each block of a model."""

    redundancy: tuple[int, ...]
    """By block."""

    @property
    def missing_blocks(self) -> int:
        """Blocks without any server."""
        return self.redundancy.count(0)

    @property
    def covered_blocks(self) -> int:
        """Blocks with at least one server."""
        return len(self.redundancy) - self.missing_blocks

    @property
    def covered_share(self) -> float:
        """Between 0 and 1; 0 for a model without blocks."""
        return self.covered_blocks / len(self.redundancy) if self.redundancy else 0.0

    @property
    def min_redundancy(self) -> int:
        """Servers of the block with the fewest; 0 for a model without blocks."""
        return min(self.redundancy, default=0)

    @property
    def has_path(self) -> bool:
        """Whether a client finds servers for all blocks in a row: where each block has one, it does."""
        return self.min_redundancy > 0

    @property
    def state(self) -> ModelState:
        return ModelState.HEALTHY if all(self.redundancy) else ModelState.BROKEN

    def runs(self) -> list[Run]:
        """Return neighbouring blocks of equal redundancy joined; the runs tile the model."""
        runs, start = [], 0
        for value, blocks in groupby(self.redundancy):
            end = start + sum(1 for _ in blocks)
            runs.append(Run(start, end, value))
            start = end
        return runs

    def spans(self, least: int, most: int) -> list[tuple[int, int]]:
        """Return `(start, end)` of each stretch of blocks that `least` to `most` servers hold."""
        edges = groupby(enumerate(self.redundancy), key=lambda block: least <= block[1] <= most)
        stretches = [[block for block, _ in blocks] for within, blocks in edges if within]
        return [(blocks[0], blocks[-1] + 1) for blocks in stretches]

    def gaps(self) -> list[tuple[int, int]]:
        """Return `(start, end)` of each stretch of blocks that no server holds."""
        return self.spans(0, 0)


@dataclass(frozen=True, slots=True)
class Stage:
    """Blocks `start <= block < end` whose servers together claim `throughput` tokens/s."""

    start: int
    end: int
    throughput: float


def coverage(model: ModelReport) -> Coverage:
    """Count the servers of each block that are online: those that the crawler did not find unreachable."""
    return Coverage(tuple(_sums(model.num_blocks, ((server.span, 1) for server in online(model)))))


def online(model: ModelReport) -> Iterable[ServerReport]:
    """Return the servers that a client may use, in the model's order."""
    return (server for server in model.servers if server.state is PeerState.ONLINE)


def speed_by_block(num_blocks: int, servers: Iterable[ServerReport], speed: Speed) -> list[float]:
    """Return the sum of the servers' claims for each block, in tokens/s, rounded to a millionth.

    A server without a claim, or with an impossible one such as infinity, counts as 0.
    """
    claimed = attrgetter(speed)
    millionths = (
        (server.span, round(claim * _MILLIONTHS))
        for server in servers
        if (claim := claimed(server)) is not None and 0 <= claim <= MAX_SPEED
    )
    return [total / _MILLIONTHS for total in _sums(num_blocks, millionths)]


def weakest_stage(model: ModelReport) -> Stage | None:
    """Return the first blocks for which the online servers claim the least throughput; None where a block has none.

    This bounds what many clients get together; it says little about one stream.
    """
    claimed = speed_by_block(model.num_blocks, online(model), "throughput")
    least = min(claimed, default=0.0)
    if least <= 0:
        return None
    start = claimed.index(least)
    end = next((block for block in range(start, len(claimed)) if claimed[block] != least), len(claimed))
    return Stage(start, end, least)


def slowest_block_throughput(model: ModelReport) -> float:
    """Return the tokens/s that the servers of the weakest block claim together; 0 where a block has none."""
    stage = weakest_stage(model)
    return 0.0 if stage is None else min(stage.throughput, MAX_SPEED)


def _sums(num_blocks: int, held: Iterable[tuple[Span, int]]) -> list[int]:
    """Sum over each block the amounts of the spans that hold it."""
    # Differences at the ends of the spans, then a running sum; of integers, because floats would not cancel exactly.
    steps = [0] * (num_blocks + 1)
    for span, amount in held:
        steps[span.start] += amount
        steps[span.end] -= amount
    return list(accumulate(steps[:-1]))
