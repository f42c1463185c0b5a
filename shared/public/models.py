"""`GET /api/v1/models`, `/api/v1/models/{dht_prefix}`, `/api/v1/servers/{peer_id}`: parts of the state, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shared.judgement.coverage import coverage, slowest_block_throughput
from shared.judgement.freshness import FRESH, Freshness
from shared.judgement.swarm import BootstrapState, bootstrap_state, count_states, pings_to
from shared.public.document import Document, as_of
from shared.public.state import ServerRow, server_row, server_rows
from shared.snapshot import ModelState  # noqa: TC001 - msgspec reads the annotations

if TYPE_CHECKING:
    from shared.snapshot import ModelReport, Snapshot


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
    """Whether it comes from the monitor's settings."""
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
    """Models without their servers."""

    last_updated: float
    update_period: float
    models: tuple[ModelSummary, ...]
    total: int
    """Models that the filters leave, on all pages together."""
    next: str | None
    """Path and query of the next page; null on the last."""
    stale: bool
    """Whether this is too old to be taken for the present."""
    age_seconds: int
    """Seconds that this is old at least, in whole update periods."""


class ModelsPart(Document):
    """A page of the list of models where `fields` were chosen."""

    last_updated: float
    update_period: float
    models: tuple[dict[str, Any], ...]
    """Rows with the chosen fields alone."""
    total: int
    next: str | None
    stale: bool
    age_seconds: int


class ModelDocument(ModelSummary):
    """A model with its servers, in the shape of `/api/v1/state`."""

    last_updated: float
    update_period: float
    redundancy: tuple[int, ...]
    """Online, reachable servers of each block."""
    server_rows: tuple[ServerRow, ...]
    stale: bool
    """Whether this is too old to be taken for the present."""
    age_seconds: int
    """Seconds that this is old at least, in whole update periods."""


class ServerShare(Document):
    """What a server does for one model: its row of `/api/v1/state`."""

    dht_prefix: str
    name: str
    num_blocks: int
    row: ServerRow


class ServerIssue(Document):
    """Why the server could not be reached, and what its operator can do."""

    err: str
    advice: str


class ServerDocument(Document):
    """One server or bootstrap peer."""

    last_updated: float
    update_period: float
    peer_id: str
    bootstrap_state: BootstrapState | None
    """Null where it is no bootstrap peer."""
    shares: tuple[ServerShare, ...]
    issue: ServerIssue | None
    stale: bool
    """Whether this is too old to be taken for the present."""
    age_seconds: int
    """Seconds that this is old at least, in whole update periods."""


def model_summary(model: ModelReport) -> ModelSummary:
    return ModelSummary.of(model, **_summary(model))


def model_document(snapshot: Snapshot, model: ModelReport, freshness: Freshness = FRESH) -> ModelDocument:
    return ModelDocument.of(
        model,
        **_summary(model),
        **as_of(snapshot, freshness),
        redundancy=coverage(model).redundancy,
        server_rows=server_rows(model),
    )


def server_document(snapshot: Snapshot, peer_id: str, freshness: Freshness = FRESH) -> ServerDocument | None:
    """Return what is known of a peer; None where the snapshot does not know it."""
    shares = tuple(
        ServerShare.of(model, row=server_row(server, {**pings_to(model, peer_id)}))
        for model in snapshot.models
        for server in model.servers
        if server.peer_id == peer_id
    )
    bootstrap = next((peer for peer in snapshot.bootstrap_peers if peer.peer_id == peer_id), None)
    if not shares and bootstrap is None:
        return None
    issue = next((issue for issue in snapshot.reachability_issues if issue.peer_id == peer_id), None)
    return ServerDocument(
        **as_of(snapshot, freshness),
        peer_id=peer_id,
        bootstrap_state=None if bootstrap is None else bootstrap_state(bootstrap),
        shares=shares,
        issue=None if issue is None else ServerIssue(err=issue.error, advice=issue.advice),
    )


def _summary(model: ModelReport) -> dict[str, Any]:
    """Return the fields of `ModelSummary` that the model itself does not have."""
    held = coverage(model)
    return {
        "covered_blocks": held.covered_blocks,
        "min_redundancy": held.min_redundancy,
        "slowest_block_throughput": round(slowest_block_throughput(model), 2),
        "servers": ServerCounts(**{state.value: count for state, count in count_states([model]).items()}),
    }
