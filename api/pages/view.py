"""This module defines the input of pages, badges and metrics: the swarm, or a check, as this process knows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.judgement.freshness import freshness
from shared.reachability import decide
from shared.snapshot import Verdict

if TYPE_CHECKING:
    from shared.advice.servers import Server
    from shared.given import GivenDial
    from shared.inference import ServerInference
    from shared.judgement.freshness import Freshness
    from shared.reachability import Answer
    from shared.snapshot import CrawlStatus, ModelReport, Snapshot


@dataclass(frozen=True, slots=True)
class View:
    """The swarm as this process knows it at `now` (Unix seconds)."""

    snapshot: Snapshot | None
    status: CrawlStatus | None
    now: float
    redis_connected: bool
    snapshot_id: str | None
    """The id that `/events` sends for this snapshot: a page that is open knows by it whether it is up to date."""
    stale_after: float
    """Seconds after which a snapshot counts as old."""

    @property
    def unreadable(self) -> bool:
        """Whether there is nothing to show although a crawler has published a snapshot: one of another version."""
        return self.snapshot is None and self.status is not None and self.status.snapshot_taken_at is not None

    @property
    def located(self) -> bool:
        """Whether the place of a server is known."""
        models = self.snapshot.models if self.snapshot is not None else ()
        return any(server.location for model in models for server in model.servers)

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
        """Whether the snapshot is too old to be described in the present tense."""
        return self.freshness.stale


def model_of(snapshot: Snapshot | None, dht_prefix: str) -> ModelReport | None:
    """Return a model of a snapshot; None where there is no such model, or no snapshot yet."""
    models = () if snapshot is None else snapshot.models
    return next((model for model in models if model.dht_prefix == dht_prefix), None)


@dataclass(frozen=True, slots=True)
class CheckView:
    """What the workers of each vantage point answered about one peer."""

    answers: tuple[Answer, ...]
    server: Server | None = None
    """What the newest snapshot knows of it."""
    your_ip: str = ""
    """The client's IP address, which is often the server's own."""
    given: tuple[GivenDial, ...] = ()
    """How the addresses answered that were given with the peer id."""
    inference: ServerInference | None = None
    """What it computed, where that was asked for."""
    may_compute: bool = False
    """Whether a reader may ask for that."""

    @property
    def known(self) -> bool:
        """Whether the snapshot has a page for it."""
        return self.server is not None and bool(self.server.shares or self.server.bootstrap)

    @property
    def verdict(self) -> Verdict:
        """What the JSON endpoint says of the same answers."""
        return decide(self.answers).outcome.verdict if self.answers else Verdict.UNKNOWN
