"""This module ranks where one more server counts most, and estimates how many blocks a GPU holds.

Missing blocks come first: without them a model is of no use. Then blocks that depend on one server, then the slowest
stage.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

from shared import words
from shared.advice.commands import initial_peers, run_server
from shared.advice.models import joining_over
from shared.judgement.coverage import coverage, weakest_stage
from shared.snapshot import PeerState
from shared.spans import longest, size, without

if TYPE_CHECKING:
    from shared.snapshot import ModelReport, Snapshot
    from shared.spans import Spans


class Need(StrEnum):
    """Why a server is wanted, the most urgent first."""

    MISSING = "missing"
    """Blocks that no server holds: the model cannot be used."""
    SINGLE = "single"
    """Blocks that one server holds: the model breaks when it stops."""
    SLOWEST = "slowest"
    """Blocks whose servers together claim the least throughput."""


_URGENCY = tuple(Need)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Blocks of one model that want a server."""

    need: Need
    dht_prefix: str
    name: str
    official: bool
    spans: tuple[tuple[int, int], ...]
    """Stretches `start <= block < end`."""
    sentence: str
    blocks: tuple[int, int]
    """The stretch `(start, end)` that the command serves."""
    command: str

    @property
    def completes(self) -> bool:
        """Whether the command alone serves all that is wanted."""
        return self.spans == (self.blocks,)


def wanted(snapshot: Snapshot, *, gpu_gb: float | None = None) -> list[Wanted]:
    """Rank what is wanted of all models that somebody serves, or that are official; one line for each model.

    With `gpu_gb` (memory of a GPU in GB) a command serves no more blocks than are estimated to fit.
    """
    lines = (_wanted(model, snapshot, gpu_gb) for model in snapshot.models if model.servers or model.official)
    return sorted((line for line in lines if line is not None), key=_rank)


def _rank(line: Wanted) -> tuple[int, bool, int, str]:
    """Rank the fewest missing blocks first, since they make a model usable; elsewhere the most blocks first."""
    count = size(line.spans)
    first = count if line.need is Need.MISSING else -count
    return _URGENCY.index(line.need), not line.official, first, line.dht_prefix


def _wanted(model: ModelReport, snapshot: Snapshot, gpu_gb: float | None) -> Wanted | None:
    if (found := _most_urgent(model)) is None:
        return None
    need, spans, sentence = found
    start, end = longest(spans)
    if gpu_gb is not None and (estimate := gpu_blocks(model, gpu_gb)) is not None:
        if not estimate.blocks:
            return None
        end = min(end, start + estimate.blocks)
    command = run_server(model, blocks=(start, end), peers=initial_peers(snapshot))
    return Wanted(need, model.dht_prefix, model.name, model.official, tuple(spans), sentence, (start, end), command)


def _most_urgent(model: ModelReport) -> tuple[Need, Spans, str] | None:
    """Return what the model needs most, for which blocks, and a sentence; None where nothing can be said."""
    covered = coverage(model)
    missing = covered.gaps()
    if missing:
        unattended = without(missing, joining_over(model, missing))
        if not unattended:
            return None  # servers are loading all that is missing
        if not model.servers:
            return Need.MISSING, unattended, f"None of its {words.count(model.num_blocks, 'block')} has a server."
        need = words.plural(size(unattended), "needs", "need")
        rest = f"{need} a server: without it nobody can use the model."
        return Need.MISSING, unattended, words.sentence(f"{words.blocks(unattended)} {rest}")
    if single := covered.spans(1, 1):
        have = words.plural(size(single), "has one server: when it", "have one server each: when one of them")
        return Need.SINGLE, single, words.sentence(f"{words.blocks(single)} {have} stops, nobody can use the model.")
    if (stage := weakest_stage(model)) is None:
        return None
    slowest = [(stage.start, stage.end)]
    are, claimed = words.plural(size(slowest), "is", "are"), words.throughput(stage.throughput)
    rest = f"{are} the slowest stage: its servers claim {claimed} together."
    return Need.SLOWEST, slowest, words.sentence(f"{words.blocks(slowest)} {rest}")


@dataclass(frozen=True, slots=True)
class GpuEstimate:
    """An estimate, and to be shown as one. `blocks` is 0 where not even one fits."""

    blocks: int
    torch_dtype: str
    quant_type: str


GIB = 1024**3
USABLE_SHARE = 0.95
"""Of a GPU's memory: the rest is the driver's and CUDA's own."""
CACHE_TOKENS = 4096
"""Tokens of attention cache that a Petals server keeps for each block, at the widest attention."""
BYTES_PER_VALUE = {"none": 2.0, "int8": 1.0, "nf4": 4.25 / 8}
"""By quantisation, as in petals/server/block_utils.py; `none` is that of a 16-bit dtype."""
OVERHEAD = 1.01
"""What descriptions of tensors and quantisation tables add (the same source)."""
BACKWARD_BYTES_PER_HIDDEN = 2 * GIB / 14336
"""Memory that a backward pass takes, by width of the model: petals/server/server.py."""
_SIZE = re.compile(r"(?:(?P<experts>\d{1,3})x)?(?P<billions>\d{1,4}(?:\.\d{1,2})?)b(?![a-z])", re.IGNORECASE | re.ASCII)
KNOWN_PARAMETERS = {"bloom": 176e9, "bloomz": 176e9, "stablebeluga2": 70e9}
"""Of models of the public swarm whose names do not tell."""
_EXPERTS_SHARE = 0.8
"""Of experts × size: the experts of a mixture share their attention."""


def gpu_blocks(model: ModelReport, gpu_gb: float) -> GpuEstimate | None:
    """Estimate how many blocks of a model a GPU of `gpu_gb` GB holds; None where the model's size is not known.

    The size is read from the model's name ("70b", "8x7B"); quantisation and dtype are those that most of its servers
    announce. The formula is Petals' own for choosing the number of blocks: (memory − that of a backward pass) /
    (weights + attention cache of a block), with √(weights of a block / 12) for the model's width.
    """
    parameters = model_parameters(model)
    if parameters is None or not model.num_blocks:
        return None
    quant_type = next((name for name in _announced(model, "quant_type") if name in BYTES_PER_VALUE), "nf4")
    torch_dtype = next(iter(_announced(model, "torch_dtype")), "bfloat16")
    value_bytes = 4.0 if torch_dtype == "float32" else 2.0
    weight_bytes = value_bytes if quant_type == "none" else BYTES_PER_VALUE[quant_type]
    weights = parameters / model.num_blocks
    width = math.sqrt(weights / 12)
    cache = 2 * CACHE_TOKENS * width * value_bytes
    free = gpu_gb * GIB * USABLE_SHARE - BACKWARD_BYTES_PER_HIDDEN * width
    fit = math.floor(free / (weights * weight_bytes * OVERHEAD + cache))
    return GpuEstimate(min(model.num_blocks, max(0, fit)), torch_dtype, quant_type)


def model_parameters(model: ModelReport) -> float | None:
    """Return the number of parameters in the model's name; None where it has none, or says that it has zero."""
    found = _SIZE.search(model.short_name) or _SIZE.search(model.dht_prefix)
    if found is None:
        return KNOWN_PARAMETERS.get(model.short_name.lower())
    experts = int(found["experts"] or 1)
    return float(found["billions"]) * 1e9 * (experts * _EXPERTS_SHARE if experts > 1 else 1) or None


def _announced(model: ModelReport, field: Literal["quant_type", "torch_dtype"]) -> list[str]:
    """Return what the online or joining servers of a model announce in a field of theirs, the most frequent first."""
    servers = (server for server in model.servers if server.state in (PeerState.ONLINE, PeerState.JOINING))
    return [value for value, _ in Counter(getattr(server, field) for server in servers).most_common() if value]
