"""`GET /api/v1/state`: the whole swarm, with the names and shapes of the predecessor, which clients rely on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from shared.inference import ServerInference, Usability  # noqa: TC001 - msgspec reads the annotations
from shared.judgement.freshness import FRESH, Freshness
from shared.judgement.swarm import BootstrapState, bootstrap_state
from shared.peer_id import short_peer_id
from shared.public.document import Document, as_of
from shared.snapshot import SCHEMA_VERSION, ModelState, PeerState, Verdict

if TYPE_CHECKING:
    from shared import snapshot as domain

T = TypeVar("T")
Pings = dict[str, float | None]
"""Seconds by peer id; null where a ping was not answered."""
AnnouncedState = Annotated[PeerState, Meta(extra_json_schema={"enum": ["online", "joining", "offline"]})]


class ServerInfo(Document):
    """What the server announces, as in petals' `ServerInfo`."""

    state: AnnouncedState
    throughput: float | None
    """Claimed for one block or the whole span: Petals does not say which."""
    start_block: int
    end_block: int
    public_name: str | None
    version: str | None
    network_rps: float | None
    forward_rps: float | None
    inference_rps: float | None
    adapters: tuple[str, ...]
    torch_dtype: str | None
    quant_type: str | None
    using_relay: bool | None
    cache_tokens_left: int | None
    next_pings: Pings | None
    """Seconds by peer id; null where that peer did not answer."""


class ServerSpan(Document):
    """Blocks `start <= block < end`, and what is announced with them."""

    peer_id: str
    start: int
    end: int
    server_info: ServerInfo


class Adapter(Document):
    """A LoRA adapter."""

    name: str
    short_name: str
    """The name without its owner."""


class PeerLocation(Document):
    """Where the server is, by its IP address, under the names that ip-api.com uses; empty where that is not known."""

    status: Literal["success"] | UnsetType = UNSET
    country: str | UnsetType | None = UNSET
    """Its name; its code where the database has no name."""
    region: str | UnsetType | None = UNSET
    city: str | UnsetType | None = UNSET
    countryCode: str | UnsetType | None = UNSET  # noqa: N815 - the name that readers expect
    """ISO 3166."""
    lat: float | UnsetType = UNSET
    """Degrees, to a tenth; absent where not known, as the two that follow."""
    lon: float | UnsetType = UNSET
    isp: str | UnsetType = UNSET


class PeerIpInfo(Document):
    """Where the server is on the network and on Earth."""

    location: PeerLocation
    multiaddrs: tuple[str, ...]


class Reachability(Document):
    """What the crawler found when it dialled the server."""

    verdict: Verdict
    error: str | None
    """Why the dial failed; null where it did not or was not made."""
    dialled_at: None
    """Kept for readers of earlier versions: every verdict is from this crawl."""
    relayed: bool | None
    """Whether the crawler reached the server through a relay; null where it did not reach it."""
    relay: str | None
    """Peer id of that relay, or of the one that failed."""
    rtt: float | None
    """Seconds from the start of the connection to the moment at which it stood."""


class ServerRow(Document):
    """One server's part in one model."""

    short_peer_id: str
    """`...` and the last six characters."""
    peer_id: str
    peer_ip_info: PeerIpInfo | Literal["unknown"]
    show_public_name: bool
    """Whether the server has earned to be named: it is online with 10 or more blocks."""
    state: PeerState
    span: ServerSpan
    adapters: tuple[Adapter, ...]
    pings_to_me: Pings
    """Seconds by the peer id of the server that pinged; null where this one did not answer."""
    reachability: Reachability
    conflict: str | None
    """What the peer itself says against its record, which anyone can write; null where nothing does."""
    inference: ServerInference | None
    """What its latest inference check proved, with its own age; null where there was none."""
    adapter_inference: ServerInference | None
    """The same of the latest check with one of its adapters, which `adapter` names."""
    cache_tokens_left_per_block: int | UnsetType = UNSET
    """Absent where the server does not tell how much cache it has."""


class ModelReport(Document):
    """One model and the servers that announce blocks of it, by peer id."""

    name: str
    short_name: str
    state: ModelState
    num_blocks: int
    repository: str | None
    dht_prefix: str
    official: bool
    limited: bool
    usability: Usability | None
    """Whether a client gets tokens, by the latest chain; null where there was none."""
    server_rows: tuple[ServerRow, ...]


class StateIssue(Document):
    """A peer that the crawler could not reach."""

    peer_id: str
    err: str
    advice: str
    """What its operator can do."""


class StateBootstrapPeer(Document):
    """A peer through which nodes join the swarm."""

    peer_id: str
    state: BootstrapState
    error: str | None


class StateDocument(Document):
    """The whole swarm."""

    bootstrap_states: tuple[Literal["online", "unreachable"], ...]
    top_contributors: dict[str, int]
    """Blocks of official models served under each shown public name, most first."""
    model_reports: tuple[ModelReport, ...]
    reachability_issues: tuple[StateIssue, ...]
    last_updated: float
    """When the crawl ended."""
    update_period: float
    update_duration: float
    # Added since the predecessor:
    schema: int
    bootstrap_peers: tuple[StateBootstrapPeer, ...]
    refused_records: dict[str, int]
    """DHT records that could not be used, by reason."""
    undialled_servers: int
    """Servers that say they are online and that there was no time to dial."""
    unanswered_keys: int
    """DHT keys that did not answer in time: their blocks may have servers that nobody could see."""
    inference_peer_id: str | None
    """The peer that makes the inference checks: what servers see in their logs."""
    stale: bool
    """Whether this is too old to be taken for the present: the crawler has brought nothing newer for some periods."""
    age_seconds: int
    """Seconds that this is old at least, in whole update periods; `last_updated` tells the age to the second."""


def state_document(snapshot: domain.Snapshot, freshness: Freshness = FRESH) -> StateDocument:
    return StateDocument.of(
        snapshot,
        **as_of(snapshot, freshness),
        schema=SCHEMA_VERSION,
        bootstrap_states=tuple(
            "unreachable" if peer.verdict is Verdict.UNREACHABLE else "online" for peer in snapshot.bootstrap_peers
        ),
        model_reports=tuple(ModelReport.of(model, server_rows=server_rows(model)) for model in snapshot.models),
        reachability_issues=tuple(StateIssue.of(issue, err=issue.error) for issue in snapshot.reachability_issues),
        bootstrap_peers=tuple(
            StateBootstrapPeer.of(peer, state=bootstrap_state(peer)) for peer in snapshot.bootstrap_peers
        ),
        refused_records=snapshot.refused.by_reason,
    )


def server_rows(model: domain.ModelReport) -> tuple[msgspec.Raw, ...]:
    """Return the model's `ServerRow`s as JSON, for a document that is written as JSON, too.

    Each is encoded as soon as it is made: thousands at once would take more memory, and no other thread runs while
    msgspec encodes them.
    """
    pings: dict[str, Pings] = {}
    for origin in model.servers:
        for target, seconds in (origin.next_pings or {}).items():
            pings.setdefault(target, {})[origin.peer_id] = seconds
    rows = (server_row(server, pings.get(server.peer_id, {})) for server in model.servers)
    return tuple(msgspec.Raw(msgspec.json.encode(row)) for row in rows)


def server_row(server: domain.ServerReport, pings_to_me: Pings) -> ServerRow:
    span, left = server.span, server.cache_tokens_left_per_block
    return ServerRow.of(
        server,
        short_peer_id=short_peer_id(server.peer_id),
        peer_ip_info=_peer_ip_info(server) if server.multiaddrs else "unknown",
        span=ServerSpan(
            peer_id=server.peer_id,
            start=span.start,
            end=span.end,
            server_info=ServerInfo.of(server, state=server.announced, start_block=span.start, end_block=span.end),
        ),
        adapters=tuple(Adapter(name=name, short_name=name.rpartition("/")[2]) for name in server.adapters),
        pings_to_me=pings_to_me,
        reachability=Reachability.of(server, dialled_at=None),
        cache_tokens_left_per_block=UNSET if left is None else left,
    )


def _told(value: T | None) -> T | UnsetType:
    return UNSET if value is None else value


def _peer_ip_info(server: domain.ServerReport) -> PeerIpInfo:
    place = server.location
    if place is None:
        return PeerIpInfo(location=PeerLocation(), multiaddrs=server.multiaddrs)
    location = PeerLocation(
        status="success",
        country=place.country_name or place.country,
        region=place.region,
        city=place.city,
        countryCode=place.country,
        lat=_told(place.lat),
        lon=_told(place.lon),
        isp=_told(place.isp),
    )
    return PeerIpInfo(location=location, multiaddrs=server.multiaddrs)
