"""This module judges how old a snapshot is, and whether it is stale, for pages, JSON, text and metrics alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shared.snapshot import Snapshot

_PERIOD_WITHOUT_SNAPSHOT = 60.0
_LEAST_PERIOD = 1.0
"""Seconds. A record in Redis may hold any period."""


@dataclass(frozen=True, slots=True)
class Freshness:
    """How old a snapshot is. What is `stale` is shown in the past tense, and never as good news."""

    stale: bool = False
    at_least: int = 0
    """A lower bound of the age in seconds, in whole periods: a document with it stays true while caches keep it, and is
    rendered once per period only."""


FRESH = Freshness()
"""Of a snapshot that was made just now."""


def freshness(snapshot: Snapshot | None, now: float, stale_after: float) -> Freshness:
    """Return how old the snapshot is at `now` (Unix seconds). Without one there is nothing that could be stale."""
    if snapshot is None:
        return FRESH
    age, period = snapshot.age(now), max(_LEAST_PERIOD, snapshot_period(snapshot))
    return Freshness(stale=age > stale_after, at_least=int(age // period * period))


def snapshot_period(snapshot: Snapshot | None) -> float:
    """Return the seconds from one snapshot to the next, which waits for a crawl longer than its period."""
    if snapshot is None:
        return _PERIOD_WITHOUT_SNAPSHOT
    return max(snapshot.update_period, snapshot.update_duration)


def stale_after(snapshot: Snapshot | None, periods: float) -> float:
    """Return the seconds after which a snapshot is stale."""
    return snapshot_period(snapshot) * periods
