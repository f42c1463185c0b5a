"""This module holds what pages, badges and metrics are made of: the swarm, or a check, as this process knows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.judgement.freshness import freshness
from shared.reachability import decide
from shared.snapshot import Verdict

if TYPE_CHECKING:
    from shared.judgement.freshness import Freshness
    from shared.reachability import Answer
    from shared.snapshot import CrawlStatus, Snapshot


@dataclass(frozen=True, slots=True)
class View:
    """The swarm as this process knows it at `now` (Unix seconds)."""

    snapshot: Snapshot | None
    status: CrawlStatus | None
    now: float
    redis_connected: bool
    snapshot_id: str | None
    """The id that `/events` sends for this snapshot: a page that is open knows by it whether it is up to date."""
    show_addresses: bool
    """Whether IP addresses and locations of servers may stand on a page."""
    stale_after: float
    """Seconds after which a snapshot counts as old."""

    @property
    def age(self) -> float | None:
        """Seconds since the snapshot was taken; None without one."""
        return None if self.snapshot is None else self.snapshot.age(self.now)

    @property
    def freshness(self) -> Freshness:
        """How old the snapshot is, as JSON and text tell it."""
        return freshness(self.snapshot, self.now, self.stale_after)

    @property
    def last_seen(self) -> float | None:
        """When the swarm was last seen (Unix seconds), where that is too long ago for the present tense; else None."""
        return self.snapshot.taken_at if self.snapshot is not None and self.stale else None

    @property
    def stale(self) -> bool:
        """Whether the snapshot is too old to be told in the present tense."""
        return self.freshness.stale


@dataclass(frozen=True, slots=True)
class CheckView:
    """What the workers of each vantage point answered about one peer."""

    answers: tuple[Answer, ...]
    show_addresses: bool = True

    @property
    def verdict(self) -> Verdict:
        """What the JSON endpoint says of the same answers."""
        return decide(self.answers).outcome.verdict if self.answers else Verdict.UNKNOWN
