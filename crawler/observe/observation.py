"""This module defines what one observation of the swarm returns: facts only, which `crawler.judge` judges."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from crawler.models import Model
    from crawler.observe.records import ServerRecord
    from shared.reachability import DialOutcome
    from shared.snapshot import BootstrapPeer, Refusals


class SwarmUnavailableError(Exception):
    """Nothing credible was observed. The message is for readers of the status page."""

    def __init__(self, message: str, bootstrap_peers: tuple[BootstrapPeer, ...] = ()) -> None:
        super().__init__(message)
        self.bootstrap_peers = bootstrap_peers


@dataclass(frozen=True, slots=True)
class ObservedModel:
    """A model, and the servers that announce its blocks: `{peer_id: {block: record}}`, all validated."""

    model: Model
    announcements: dict[str, dict[int, ServerRecord]]


@dataclass(frozen=True, slots=True)
class Observation:
    """What one crawl observed. Times are by this machine's own clock."""

    bootstrap_peers: tuple[BootstrapPeer, ...]
    models: tuple[ObservedModel, ...]
    dials: Mapping[str, DialOutcome]
    """Outcome of each server's probe, by peer id."""
    addresses: Mapping[str, tuple[str, ...]]
    """Remote multiaddrs of the connections that were open at the end, by peer id."""
    refused: Refusals
    unanswered_keys: int
    """DHT keys that did not answer in time. Their blocks may have servers that nobody could see."""
    crawler_peer_id: str
    phases: Mapping[str, float] = field(default_factory=dict)
    """Duration of each phase in seconds: join, look_up, dial (only what remained after look_up), self_check."""
    answered_keys: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    """Petals version that each reached server reported in `rpc_info`, by peer id."""
    undialled: int = 0
    """Servers that announce they are online but were not probed for lack of time."""
    refused_addresses: Mapping[str, int] = field(default_factory=dict)
    """Number of servers' addresses that were not dialled, by reason."""
    private_swarm: bool = False
    ended_at: float = 0.0
    """Unix seconds."""
    duration: float = 0.0
    """Seconds."""
