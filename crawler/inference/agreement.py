"""This module compares what servers made of the same input: whoever holds other weights stands out.

Compared is the cosine of what the blocks *added* to the input: a block adds to the state that it is given, so whole
states resemble each other whatever the weights. How low the cosine of two honest servers may be depends on the less
exact of the two. Measured on random Llamas of 4 to 32 blocks (docs/inference.md), where other weights in all blocks
came to at most 0.11, and other weights in the MLP of one of 32 blocks to 0.95:

    float32 against float32         1.000000
    against bfloat16, float16       0.9995
    against int8                    0.998
    against nf4                     0.75; nf4 against nf4 0.9995, as both round alike

The dtype and quantisation are the server's own words: one that claims a coarse one is compared more loosely.
"""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass
from operator import mul, sub
from typing import TYPE_CHECKING, NamedTuple

from shared.inference import Agreement, AgreementOutcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

LOWEST = {"float32": 0.999, "half": 0.998, "int8": 0.99, "nf4": 0.6}
"""The lowest cosine at which two servers agree, by the less exact one's precision, the most exact first."""
_RANK = list(LOWEST)
COMPARED_VALUES = 512
"""Of each output: evenly spread over the hidden state. A round of 1,000 servers keeps 4 MB."""
COMPARED_SERVERS = 16
"""That computed the same blocks in one round; the others of them are not compared."""
MAJORITY_OF = 3


class Numbers(NamedTuple):
    """What a server's blocks added to the input of one round, and how exactly it says that it computes."""

    added: tuple[array[float], ...]
    """For each token, `COMPARED_VALUES` at most."""
    precision: str


def precision_of(torch_dtype: str | None, quant_type: str | None) -> str:
    """Return the key of `LOWEST` for what a server announces."""
    quantised = (quant_type or "none").lower()
    if quantised in ("int8", "nf4"):
        return quantised
    if quantised != "none":
        return "nf4"  # one that a later Petals brings: compared loosely
    return "float32" if torch_dtype == "float32" else "half"


def numbers(inputs: Iterable[array[float]], outputs: Iterable[array[float]], precision: str) -> Numbers:
    """Return what is kept of a session for the comparison."""
    added = []
    for before, after in zip(inputs, outputs, strict=True):
        stride = max(1, math.ceil(len(after) / COMPARED_VALUES))
        added.append(array("f", map(sub, after[::stride], before[::stride])))
    return Numbers(tuple(added), precision)


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the cosine of two vectors of finite numbers; 0 where one of them has no length, or they differ in it."""
    if len(one) != len(other):
        return 0.0
    lengths = math.sqrt(sum(map(mul, one, one))) * math.sqrt(sum(map(mul, other, other)))
    if not 0 < lengths < math.inf:
        return 1.0 if list(one) == list(other) else 0.0
    return float(sum(map(mul, one, other))) / lengths


def lowest_allowed(one: str, other: str) -> float:
    """Return the lowest cosine at which servers of these precisions agree."""
    if one == other == "nf4":
        return LOWEST["half"]
    return LOWEST[max(one, other, key=_RANK.index)]


def compare(
    computed: Mapping[str, Numbers],
    blocks: tuple[int, int],
    known: dict[tuple[str, str], tuple[float, bool]] | None = None,
) -> dict[str, Agreement]:
    """Return how each of the servers (`{peer_id: numbers}`) stands to the others, all of the same input and blocks.

    `known` keeps what was compared, for the next call with one server more.
    """
    peers = list(computed)[:COMPARED_SERVERS]
    table = _Table(peers, {} if known is None else known)
    for place, one in enumerate(peers):
        for other in peers[:place]:
            table.add(one, computed[one], other, computed[other])
    found = {peer: table.judge(peer, blocks) for peer in peers}
    return {peer: found.get(peer, Agreement(blocks=blocks)) for peer in computed}


@dataclass
class _Table:
    peers: list[str]
    cosines: dict[tuple[str, str], tuple[float, bool]]
    """For each ordered pair, and whether it is high enough."""

    def add(self, one: str, its: Numbers, other: str, others: Numbers) -> None:
        if (one, other) in self.cosines:
            return
        lowest = min((cosine(a, b) for a, b in zip(its.added, others.added, strict=True)), default=0.0)
        lowest = max(-1.0, min(1.0, lowest))
        self.cosines[one, other] = self.cosines[other, one] = (
            lowest,
            lowest >= lowest_allowed(its.precision, others.precision),
        )

    def with_whom(self, peer: str, *, agreeing: bool) -> list[str]:
        return [other for other in self.peers if other != peer and self.cosines[peer, other][1] is agreeing]

    def judge(self, peer: str, blocks: tuple[int, int]) -> Agreement:
        others = len(self.peers) - 1
        if not others:
            return Agreement(AgreementOutcome.ALONE, blocks=blocks)
        agreeing, differing = self.with_whom(peer, agreeing=True), self.with_whom(peer, agreeing=False)
        outcome = AgreementOutcome.AGREES
        if len(agreeing) < len(differing):
            outcome = AgreementOutcome.DISAGREES
        shown = agreeing if outcome is AgreementOutcome.AGREES else differing
        return Agreement(
            outcome,
            tuple(shown),
            blocks,
            min(self.cosines[peer, other][0] for other in shown),
            against_majority=outcome is AgreementOutcome.DISAGREES and self._majority_without(peer),
        )

    def _majority_without(self, peer: str) -> bool:
        """Whether more than half of all are of one mind that is not this server's."""
        if len(self.peers) < MAJORITY_OF:
            return False
        differing = self.with_whom(peer, agreeing=False)
        return any(
            2 * (1 + len(set(self.with_whom(one, agreeing=True)) & set(differing))) > len(self.peers)
            for one in differing
        )
