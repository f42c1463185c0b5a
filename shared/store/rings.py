"""This module defines the history's ring buffers: fixed-width records in Redis strings of a fixed size.

A ring has one record per slot of time, at index `slot % slots`. Each record carries the number of its slot, so that a
record of an earlier lap reads as a gap. A gap means that no crawl judged the model, never that it was broken.
Sizes, formulas and bounds: docs/history.md.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from shared.judgement.coverage import MAX_SPEED, coverage, slowest_block_throughput
from shared.judgement.swarm import count_states
from shared.snapshot import ModelState, PeerState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shared.snapshot import ModelReport

MINUTE, HOUR, DAY = 60, 3600, 86400
HOURS_KEPT = 720
"""30 days."""
DAYS_KEPT = 1_830
"""Five years and a few days."""
_U16 = 0xFFFF


class Resolution(StrEnum):
    """The length of a slot: minutes are kept for a day, hours for 30 days, days for five years."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"

    @property
    def ring(self) -> Ring:
        return RINGS[self]


@dataclass(frozen=True, slots=True)
class Ring:
    """A ring of `slots` records, each of `width` bytes for `step` seconds."""

    step: int
    slots: int
    width: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.slots * self.width

    @property
    def life(self) -> int:
        """Seconds after the last write until every record has expired."""
        return self.slots * self.step

    def slot(self, time: float) -> int:
        """Return the slot that a time (Unix seconds) falls into."""
        return int(time // self.step)

    def offset(self, slot: int) -> int:
        """Return where a slot's record begins, in bytes."""
        return slot % self.slots * self.width

    def current(self, slot: int, now: float) -> bool:
        """Whether a record of this slot belongs to the current lap. `now` is Unix seconds."""
        return self.slot(now) - self.slots < slot <= self.slot(now)


class ModelSlot(msgspec.Struct, frozen=True, array_like=True):
    """One model in one slot: counts of crawls, the worst coverage, and means over the crawls."""

    slot: int
    crawls: int
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
        """Return both as one record; the later one alone where it is of another slot."""
        if self.slot != later.slot:
            return later
        crawls = self.crawls + later.crawls
        share = later.crawls / crawls

        def mean(before: float, after: float) -> float:
            return before + (after - before) * share

        return ModelSlot(
            later.slot,
            min(crawls, _U16),
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
    Resolution.DAY: Ring(DAY, DAYS_KEPT, _MODEL.size),
}


def sample(model: ModelReport, slot: int) -> ModelSlot:
    """Return a slot's record of one crawl."""
    held, states = coverage(model), count_states([model])
    return ModelSlot(
        slot,
        1,
        int(model.state is ModelState.HEALTHY),
        min(model.num_blocks, _U16),
        min(held.covered_blocks, _U16),
        min(held.min_redundancy, _U16),
        states[PeerState.ONLINE],
        states[PeerState.JOINING],
        states[PeerState.UNREACHABLE],
        states[PeerState.OFFLINE],
        slowest_block_throughput(model),
    )


def pack_model(record: ModelSlot) -> bytes:
    return _MODEL.pack(*msgspec.structs.astuple(record))


def unpack_model(data: bytes) -> ModelSlot | None:
    """Return the record, or None where none was written or it is invalid."""
    if len(data) < _MODEL.size:
        return None
    record = ModelSlot(*_MODEL.unpack(data[: _MODEL.size]))
    return record if record.crawls and _is_valid(record) else None


def _is_valid(record: ModelSlot) -> bool:
    """Whether `pack_model` can have written it; anything else reads as a gap."""
    means = (record.online, record.joining, record.unreachable, record.offline, record.slowest_block)
    return (
        record.healthy <= record.crawls
        and record.covered_blocks <= record.num_blocks
        and all(0.0 <= mean <= MAX_SPEED for mean in means)
    )


def unpack_model_ring(data: bytes, ring: Ring, now: float) -> list[ModelSlot]:
    """Return the slots that have a crawl, oldest first. `now` is Unix seconds.

    Where a record stands does not matter: a ring that was shorter once has some at other places, and the slot in which
    it became longer at two.
    """
    whole = data[: len(data) // ring.width * ring.width]
    records = (ModelSlot(*fields) for fields in _MODEL.iter_unpack(whole))
    there = (record for record in records if record.crawls and ring.current(record.slot, now))
    found: dict[int, ModelSlot] = {}
    for record in filter(_is_valid, there):
        before = found.get(record.slot)
        found[record.slot] = record if before is None else before.merge(record)
    return [found[slot] for slot in sorted(found)]


_CRAWLED = struct.Struct("<IB")
CRAWLED = Ring(HOUR, HOURS_KEPT, _CRAWLED.size)


def pack_crawled(hour: int, minutes: int) -> bytes:
    return _CRAWLED.pack(hour, min(minutes, 60))


def unpack_crawled(data: bytes, hour: int) -> int:
    """Return the number of minutes of this hour in which a crawl saw the swarm."""
    if len(data) < _CRAWLED.size:
        return 0
    stored, minutes = _CRAWLED.unpack(data[: _CRAWLED.size])
    return min(int(minutes), 60) if stored == hour else 0


def unpack_crawled_ring(data: bytes, now: float) -> dict[int, int]:
    """Return `{hour: minutes in which a crawl saw the swarm}`, without hours that have none."""
    whole: Iterable[tuple[int, int]] = _CRAWLED.iter_unpack(data[: len(data) // _CRAWLED.size * _CRAWLED.size])
    return {hour: min(minutes, 60) for hour, minutes in whole if minutes and CRAWLED.current(hour, now)}
