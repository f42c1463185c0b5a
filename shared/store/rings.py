"""What is kept of the past: fixed-width records in ring buffers, each a Redis string of a fixed size.

A ring has a record for each slot of time; a record's place is `slot % slots`, and it carries the number of its
slot, so that what is left of an earlier lap reads as a gap. A gap is "nobody looked", never "broken".
Sizes, formulas and bounds: docs/history.md.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate
from typing import TYPE_CHECKING

import msgspec

from shared.snapshot import ModelState, PeerState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shared.snapshot import ModelReport

MINUTE, HOUR, DAY = 60, 3600, 86400
HOURS_KEPT = 720
"""30 days, of which uptimes are reckoned."""
_U16 = 0xFFFF
_MAX_FLOAT = 3.0e38


class Resolution(StrEnum):
    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"

    @property
    def ring(self) -> Ring:
        return RINGS[self]


@dataclass(frozen=True, slots=True)
class Ring:
    """`slots` slots of `step` seconds, each of `width` bytes."""

    step: int
    slots: int
    width: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.slots * self.width

    @property
    def life(self) -> int:
        """Seconds after the last write until nothing in it is of use."""
        return self.slots * self.step

    def slot(self, time: float) -> int:
        return int(time // self.step)

    def offset(self, slot: int) -> int:
        return slot % self.slots * self.width

    def current(self, slot: int, now: float) -> bool:
        """Whether a record of this slot belongs to the lap that ends now."""
        return self.slot(now) - self.slots < slot <= self.slot(now)


class ModelSlot(msgspec.Struct, frozen=True, array_like=True):
    """One model in one slot of time: counts of crawls, the worst coverage, and means over the crawls."""

    slot: int
    looks: int
    """Crawls that could judge the model."""
    healthy: int
    """Those of them that found it healthy."""
    num_blocks: int
    covered_blocks: int
    """The fewest that any of the crawls found."""
    min_redundancy: int
    """Servers of the block with the fewest, at the worst crawl."""
    online: float = 0.0
    joining: float = 0.0
    unreachable: float = 0.0
    offline: float = 0.0
    slowest_block: float = 0.0
    """Mean of the least throughput (tokens/s) that any block's online servers claim together."""

    def merge(self, later: ModelSlot) -> ModelSlot:
        """Return both as one record of the later one's slot. Of another slot, nothing is left."""
        if self.slot != later.slot:
            return later
        looks = self.looks + later.looks
        share = later.looks / looks

        def mean(before: float, after: float) -> float:
            return before + (after - before) * share

        return ModelSlot(
            later.slot,
            min(looks, _U16),
            min(self.healthy + later.healthy, _U16),
            later.num_blocks,
            min(self.covered_blocks, later.covered_blocks),
            min(self.min_redundancy, later.min_redundancy),
            mean(self.online, later.online),
            mean(self.joining, later.joining),
            mean(self.unreachable, later.unreachable),
            mean(self.offline, later.offline),
            mean(self.slowest_block, later.slowest_block),
        )


_MODEL = struct.Struct("<I5H5f")
RINGS = {
    Resolution.MINUTE: Ring(MINUTE, 1440, _MODEL.size),
    Resolution.HOUR: Ring(HOUR, HOURS_KEPT, _MODEL.size),
    Resolution.DAY: Ring(DAY, 366, _MODEL.size),
}


def sample(model: ModelReport, slot: int) -> ModelSlot:
    """Return what one crawl saw of a model, as the record of a slot."""
    redundancy = model.redundancy()
    states = Counter(server.state for server in model.servers)
    return ModelSlot(
        slot,
        1,
        int(model.state is ModelState.HEALTHY),
        min(model.num_blocks, _U16),
        min(sum(map(bool, redundancy)), _U16),
        min(min(redundancy, default=0), _U16),
        states[PeerState.ONLINE],
        states[PeerState.JOINING],
        states[PeerState.UNREACHABLE],
        states[PeerState.OFFLINE],
        slowest_block(model),
    )


def slowest_block(model: ModelReport) -> float:
    """Tokens/s that the servers of the weakest block claim together; 0 where a block has none."""
    if not all(model.redundancy()):
        return 0.0
    steps = [0.0] * (model.num_blocks + 1)
    for server in model.servers:
        if server.state is PeerState.ONLINE and math.isfinite(server.throughput):
            steps[server.span.start] += server.throughput
            steps[server.span.end] -= server.throughput
    return min(max(min(accumulate(steps[:-1])), 0.0), _MAX_FLOAT)


def pack_model(record: ModelSlot) -> bytes:
    return _MODEL.pack(*msgspec.structs.astuple(record))


def unpack_model(data: bytes) -> ModelSlot | None:
    """Return the record, or None for a place that was never written."""
    if len(data) < _MODEL.size:
        return None
    record = ModelSlot(*_MODEL.unpack(data[: _MODEL.size]))
    return record if record.looks and _is_sound(record) else None


def _is_sound(record: ModelSlot) -> bool:
    """Whether it can have been written by `pack_model`: anything else was not, and is a gap."""
    means = (record.online, record.joining, record.unreachable, record.offline, record.slowest_block)
    return (
        record.healthy <= record.looks
        and record.covered_blocks <= record.num_blocks
        and all(0.0 <= mean <= _MAX_FLOAT for mean in means)
    )


def unpack_model_ring(data: bytes, ring: Ring, now: float) -> list[ModelSlot]:
    """Return the slots in which somebody looked, oldest first."""
    whole = data[: len(data) // ring.width * ring.width]
    records = (ModelSlot(*fields) for fields in _MODEL.iter_unpack(whole))
    there = (record for record in records if record.looks and ring.current(record.slot, now))
    return sorted(filter(_is_sound, there), key=_slot)


def _slot(record: ModelSlot) -> int:
    return record.slot


_LOOK = struct.Struct("<IB")
LOOKS = Ring(HOUR, HOURS_KEPT, _LOOK.size)


def pack_look(hour: int, minutes: int) -> bytes:
    return _LOOK.pack(hour, min(minutes, 60))


def unpack_look(data: bytes, hour: int) -> int:
    """Return the minutes of this hour in which a crawl saw the swarm."""
    if len(data) < _LOOK.size:
        return 0
    stored, minutes = _LOOK.unpack(data[: _LOOK.size])
    return min(int(minutes), 60) if stored == hour else 0


def unpack_looks(data: bytes, now: float) -> dict[int, int]:
    """Return those minutes of each hour that has any."""
    whole: Iterable[tuple[int, int]] = _LOOK.iter_unpack(data[: len(data) // _LOOK.size * _LOOK.size])
    return {hour: min(minutes, 60) for hour, minutes in whole if minutes and LOOKS.current(hour, now)}
