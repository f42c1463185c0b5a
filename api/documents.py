"""The JSON documents beside `/api/v1/state`: made of these types, and described by them in `/openapi.json`.

Times are Unix seconds, throughputs are tokens per second, shares are between 0 and 1.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from shared.incidents import Incident
from shared.snapshot import ModelState  # noqa: TC001 - msgspec reads the annotations

Share = float
Resolution = Literal["minute", "hour", "day"]


class Document(msgspec.Struct, kw_only=True):
    """Base of all."""


class ServerCounts(Document):
    """Servers by state; in a history, means over the crawls."""

    online: float = 0
    joining: float = 0
    unreachable: float = 0
    offline: float = 0


class ModelSummary(Document):
    """A model without its servers."""

    dht_prefix: str
    name: str
    short_name: str
    repository: str | None
    official: bool
    limited: bool
    state: ModelState
    num_blocks: int
    covered_blocks: int
    """Blocks with at least one online, reachable server."""
    min_redundancy: int
    """Servers of the block with the fewest."""
    slowest_block_throughput: float
    """What the servers of the weakest block claim together; 0 where a block has none."""
    servers: ServerCounts


class ModelsDocument(Document):
    last_updated: float
    update_period: float
    models: tuple[ModelSummary, ...]


class ModelDocument(ModelSummary):
    """A model with its servers, in the shape of `/api/v1/state`."""

    last_updated: float
    update_period: float
    redundancy: tuple[int, ...]
    """Online, reachable servers of each block."""
    server_rows: tuple[dict[str, Any], ...]


class ServerShare(Document):
    """What a server does for one model: its row of `/api/v1/state`."""

    dht_prefix: str
    name: str
    num_blocks: int
    row: dict[str, Any]


class ServerIssue(Document):
    err: str
    advice: str


class ServerDocument(Document):
    last_updated: float
    update_period: float
    peer_id: str
    bootstrap_state: str | None
    """`online`, `unreachable` or `unknown` where it is a bootstrap peer, else null."""
    shares: tuple[ServerShare, ...]
    issue: ServerIssue | None


class ModelPoint(Document):
    """One slot of time in which somebody looked."""

    start: int
    crawls: int
    healthy_share: Share
    num_blocks: int
    covered_blocks: int
    """The fewest that any crawl of the slot found."""
    min_redundancy: int
    slowest_block_throughput: float
    servers: ServerCounts


class ModelHistoryDocument(Document):
    """Slots that are not among the points were not looked at: nothing is known of them."""

    dht_prefix: str
    resolution: Resolution
    step: int
    """Seconds between slots."""
    slots: int
    """How many slots are kept."""
    read_at: float
    uptime: dict[str, Share | None]
    """Share of crawls that found the model healthy in the last 24h, 7d, 30d; null where nobody looked."""
    points: tuple[ModelPoint, ...]


class ServerPoint(Document):
    """One hour: the minutes in which a crawl ended, and those of them that found the server online."""

    start: int
    looked_minutes: int
    online_minutes: int


class ServerHistoryDocument(Document):
    """Hours that are not among the points were not looked at, or the server was not known yet."""

    peer_id: str
    read_at: float
    first_seen: float
    last_seen: float
    last_online: float | None
    online_since: float | None
    """When its present session began; null where it is not online."""
    sessions: int
    """Times that it came online."""
    uptime: dict[str, Share | None]
    """Share of the minutes with a crawl in which it was online, since it was first seen."""
    points: tuple[ServerPoint, ...]


class IncidentEntry(Incident, frozen=True, kw_only=True):
    """An incident with its cause in words."""

    summary: str


class IncidentsDocument(Document):
    ongoing: int
    incidents: tuple[IncidentEntry, ...]
    """The newest first."""


class ProblemDocument(Document):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    near_matches: tuple[str, ...] = ()
