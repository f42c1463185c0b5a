"""This module defines the input of pages, badges and metrics: the swarm, or a check, as this process knows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec.structs import replace

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
    show_addresses: bool
    """Whether IP addresses and locations of servers may stand on a page."""
    stale_after: float
    """Seconds after which a snapshot counts as old."""

    @property
    def shown(self) -> Snapshot | None:
        """The snapshot without addresses that may not be shown: advice and commands are made from this."""
        return self.snapshot if self.show_addresses or self.snapshot is None else without_addresses(self.snapshot)

    @property
    def located(self) -> bool:
        """Whether the place of a server is known and may be shown."""
        models = self.snapshot.models if self.snapshot is not None and self.show_addresses else ()
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


def without_addresses(snapshot: Snapshot) -> Snapshot:
    """Return a snapshot that does not tell where servers and bootstrap peers are."""

    def bare(model: ModelReport) -> ModelReport:
        servers = (replace(server, multiaddrs=(), location=None) for server in model.servers)
        return replace(model, servers=tuple(servers))

    return replace(
        snapshot,
        models=tuple(map(bare, snapshot.models)),
        bootstrap_peers=tuple(replace(peer, addresses=()) for peer in snapshot.bootstrap_peers),
    )


@dataclass(frozen=True, slots=True)
class CheckView:
    """What the workers of each vantage point answered about one peer."""

    answers: tuple[Answer, ...]
    show_addresses: bool = True
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
