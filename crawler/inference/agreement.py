"""This module compares servers' outputs for the same input, to find servers with different weights.

It takes the cosine of what the blocks *added* to the input (output − input): each block adds to its input, so whole
outputs are similar whatever the weights. How low the cosine of two honest servers may be depends on the less precise of
the two. Measured on random Llamas of 4 to 32 blocks (docs/inference.md), where different weights in all blocks gave at
most 0.11, and different weights in the MLP of one of 32 blocks 0.95:

    float32 against float32         1.000000
    against bfloat16, float16       0.9995
    against int8                    0.998
    against nf4                     0.75; nf4 against nf4 0.9995, as both round alike

Dtype and quantisation are as the server announces them: one that announces a coarse one is compared less strictly.
"""

from __future__ import annotations

import math
from array import array
from operator import mul, sub
from typing import TYPE_CHECKING, NamedTuple

from shared.inference import Agreement, AgreementOutcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LOWEST = {"float32": 0.999, "half": 0.998, "int8": 0.99, "nf4": 0.6}
"""The lowest cosine at which two servers agree, by the less exact one's precision, the most exact first."""
COMPARED_VALUES = 512
"""Of each output: evenly spread over the hidden state. A round of 1,000 servers keeps 4 MB at most."""
COMPARED_SERVERS = 16
"""Of a group that all others of it are compared with: those that computed first."""
MAJORITY_OF = 3


class Numbers(NamedTuple):
    """What a server's blocks added to the input of one round, and how exactly it says that it computes."""

    added: tuple[array[float], ...]
    """For each token, `COMPARED_VALUES` at most."""
    precision: str


def precision_of(torch_dtype: str | None, quant_type: str | None) -> str:
    """Return the key of `LOWEST` for what a server announces."""
    quantised = quant_type.lower() if quant_type else "none"
    if quantised == "none":
        return "float32" if torch_dtype == "float32" else "half"
    return "int8" if quantised == "int8" else "nf4"  # one that a later Petals brings is compared loosely


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


def _lowest_cosine(one: Numbers, other: Numbers) -> float:
    lowest = min((cosine(a, b) for a, b in zip(one.added, other.added, strict=True)), default=0.0)
    return max(-1.0, min(1.0, lowest))


def lowest_allowed(one: str, other: str) -> float:
    """Return the lowest cosine at which servers of these precisions agree."""
    if one == other == "nf4":
        return LOWEST["half"]
    return min(LOWEST[one], LOWEST[other])


class Group:
    """Servers that were given the same input for the same blocks in one round."""

    def __init__(self, blocks: tuple[int, int]) -> None:
        self._blocks = blocks
        self._peers: list[str] = []
        self._numbers: list[Numbers] = []
        self._cosines: list[list[float]] = []
        """Of each server with each one before it."""

    def add(self, peer_id: str, made: Numbers) -> dict[str, Agreement]:
        """Add a server, and return how each one compares with the others, by peer id."""
        self._cosines.append([_lowest_cosine(made, other) for other in self._numbers])
        self._peers.append(peer_id)
        self._numbers.append(made)
        found = {peer: self._judge(place) for place, peer in enumerate(self._peers)}
        if len(self._peers) > COMPARED_SERVERS:
            for kept in (self._cosines, self._peers, self._numbers):
                kept.pop()
        return found

    def _cosine(self, one: int, other: int) -> float:
        return self._cosines[max(one, other)][min(one, other)]

    def _agree(self, one: int, other: int) -> bool:
        lowest = lowest_allowed(self._numbers[one].precision, self._numbers[other].precision)
        return self._cosine(one, other) >= lowest

    def _agreeing_with(self, place: int) -> list[int]:
        """Return the places of the other servers that a server agrees with."""
        return [other for other in range(len(self._peers)) if other != place and self._agree(place, other)]

    def _judge(self, place: int) -> Agreement:
        if len(self._peers) == 1:
            return Agreement(AgreementOutcome.ALONE, blocks=self._blocks)
        agreeing = self._agreeing_with(place)
        differing = [other for other in range(len(self._peers)) if other not in (place, *agreeing)]
        outcome = AgreementOutcome.AGREES
        if len(agreeing) < len(differing):
            outcome = AgreementOutcome.DISAGREES
        shown = agreeing if outcome is AgreementOutcome.AGREES else differing
        return Agreement(
            outcome,
            tuple(self._peers[other] for other in shown),
            self._blocks,
            min(self._cosine(place, other) for other in shown),
            against_majority=outcome is AgreementOutcome.DISAGREES and self._majority_among(differing),
        )

    def _majority_among(self, differing: list[int]) -> bool:
        """Whether some of these agree with one another and are more than half of all servers."""
        if len(self._peers) < MAJORITY_OF:
            return False
        return any(
            2 * (1 + len(set(self._agreeing_with(one)) & set(differing))) > len(self._peers) for one in differing
        )
