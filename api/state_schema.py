"""The shapes of `/api/v1/state` and `/api/v1/is_reachable`, as types, for `/openapi.json`: nothing is made of them.

`shared.state_document` and `api.endpoints.checks` make the documents; the tests hold both against these.
"""

from __future__ import annotations

from typing import Literal

from api.documents import Document

ServerState = Literal["online", "joining", "offline", "unreachable"]
Verdict = Literal["reachable", "unreachable", "unknown"]


class ServerInfo(Document):
    """What the server announces, as in petals' `ServerInfo`."""

    state: Literal["online", "joining", "offline"]
    throughput: float | None
    start_block: int
    end_block: int
    public_name: str | None
    version: str | None
    network_rps: float | None
    forward_rps: float | None
    inference_rps: float | None
    adapters: list[str]
    torch_dtype: str | None
    quant_type: str | None
    using_relay: bool | None
    cache_tokens_left: int | None
    next_pings: dict[str, float | None] | None
    """Seconds by peer id; null where the peer did not answer."""


class ServerSpan(Document):
    """Blocks `start <= block < end`."""

    peer_id: str
    start: int
    end: int
    server_info: ServerInfo


class Adapter(Document):
    name: str
    short_name: str


class PeerLocation(Document):
    country: str | None = None
    region: str | None = None
    city: str | None = None


class PeerIpInfo(Document):
    location: PeerLocation
    multiaddrs: list[str]


class Reachability(Document):
    verdict: Verdict
    error: str | None
    dialled_at: None
    """Kept for readers of earlier versions: every verdict is from this crawl."""
    relayed: bool | None
    """Whether the crawler reached the server through a relay; null where it did not reach it."""
    relay: str | None
    """Peer id of that relay, or of the one that failed."""
    rtt: float | None
    """Seconds from the start of the connection to the moment at which it stood."""


class ServerRow(Document):
    short_peer_id: str
    peer_id: str
    peer_ip_info: PeerIpInfo | Literal["unknown"]
    show_public_name: bool
    state: ServerState
    span: ServerSpan
    adapters: list[Adapter]
    pings_to_me: dict[str, float | None]
    reachability: Reachability
    conflict: str | None
    cache_tokens_left_per_block: int | None = None


class ModelReport(Document):
    name: str
    short_name: str
    state: Literal["healthy", "broken"]
    num_blocks: int
    repository: str | None
    dht_prefix: str
    official: bool
    limited: bool
    server_rows: list[ServerRow]


class StateIssue(Document):
    peer_id: str
    err: str
    advice: str


class StateBootstrapPeer(Document):
    peer_id: str
    state: Literal["online", "unreachable", "unknown"]
    error: str | None


class StateDocument(Document):
    """The whole swarm."""

    bootstrap_states: list[Literal["online", "unreachable"]]
    top_contributors: dict[str, int]
    model_reports: list[ModelReport]
    reachability_issues: list[StateIssue]
    last_updated: float
    update_period: float
    update_duration: float
    schema: int
    bootstrap_peers: list[StateBootstrapPeer]
    refused_records: dict[str, int]
    undialled_servers: int
    unanswered_keys: int


class Evidence(Document):
    """What one vantage point found."""

    peer_id: str
    vantage: str
    verdict: Verdict
    stage: str
    cause: str | None
    advice: str | None
    addresses: list[str]
    reached_at: str | None
    """Remote multiaddr of the connection that worked."""
    relayed: bool | None
    relay: str | None
    """Peer id of the relay that the way led over, or that failed."""
    rtt_ms: float | None
    protocol_ok: bool | None
    checked_at: float | None


class ReachabilityDocument(Evidence):
    """The decisive evidence and, in `vantages`, all of it. `ok` and `success` are always equal."""

    ok: bool
    success: bool
    message: str | None
    your_ip: str
    hints: list[str]
    """What the peer's operator can mend, where what is announced differs from where the caller asks from."""
    disagreement: bool
    vantages: list[Evidence]


class Liveness(Document):
    status: str


class Readiness(Liveness):
    redis: bool
    snapshot_age: float | None
    failing: tuple[str, ...]
    """Loops of this process that do not run now."""
