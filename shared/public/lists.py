"""`GET /api/v1/servers`: the swarm's servers as flat rows, one for each server's part in a model."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from shared.inference import InferenceOutcome
from shared.judgement.swarm import uses_relay
from shared.peer_id import short_peer_id
from shared.public.document import Document
from shared.public.state import AnnouncedState  # noqa: TC001 - msgspec reads the annotations
from shared.snapshot import PeerState, Verdict  # noqa: TC001 - msgspec reads the annotations

if TYPE_CHECKING:
    from shared.snapshot import ModelReport, ServerReport

_UNDECIDED = (InferenceOutcome.UNKNOWN, InferenceOutcome.BUSY)


class ServerEntry(Document):
    """One server's part in one model. What only the server says is a claim; what a probe found is marked so."""

    model: str
    """The model's DHT prefix."""
    peer_id: str
    short_peer_id: str
    """`...` and the last six characters."""
    state: PeerState
    """Found: `unreachable` where it announces that it is online and the crawler could not reach it."""
    announced_state: AnnouncedState
    """Claimed."""
    verdict: Verdict
    """Found: the outcome of the crawler's probe; `unknown` where nobody looked."""
    error: str | None
    """Found: why the probe failed."""
    relayed: bool | None
    """Whether clients reach it through a relay: as found, else as claimed; null where neither is known."""
    rtt: float | None
    """Found: seconds from the start of the crawler's connection to the moment at which it stood."""
    start_block: int
    end_block: int
    """Blocks `start_block <= block < end_block`, claimed."""
    num_blocks: int
    contributor: str | None
    """Claimed: the public name, where the server has earned to be named."""
    version: str | None
    """Claimed."""
    throughput: float | None
    """Claimed, tokens per second."""
    inference_rps: float | None
    """Claimed, tokens per second through one block."""
    forward_rps: float | None
    """Claimed, tokens per second through one block."""
    network_rps: float | None
    """Claimed, tokens per second."""
    cache_tokens_left: int | None
    """Claimed."""
    torch_dtype: str | None
    """Claimed."""
    quant_type: str | None
    """Claimed."""
    adapters: tuple[str, ...]
    """Claimed."""
    country: str | None
    """ISO 3166 code of the country that its IP address belongs to, by the operator's database."""
    city: str | None
    multiaddrs: tuple[str, ...]
    """Empty where the monitor shows no addresses."""
    computes: bool | None
    """Proved: whether its latest inference check brought numbers that most others do not contradict; null where it was
    not asked, was busy, or nobody could look."""
    inference_outcome: InferenceOutcome | None
    """Proved: how that check ended."""
    inference_checked_at: float | None
    seconds_per_step: float | None
    """Proved: of a later step of that check."""
    conflict: str | None
    """Found: what the peer itself says against its record."""


class ServersDocument(Document):
    """A page of the list of servers."""

    last_updated: float
    """When the crawl ended."""
    update_period: float
    total: int
    """Rows that the filters leave, on all pages together."""
    next: str | None
    """Path and query of the next page; null on the last."""
    servers: tuple[ServerEntry, ...]
    stale: bool
    """Whether this is too old to be taken for the present."""
    age_seconds: int
    """Seconds that this is old at least, in whole update periods."""


class ServersPart(Document):
    """A page of the list of servers where `fields` were chosen."""

    last_updated: float
    update_period: float
    total: int
    next: str | None
    servers: tuple[dict[str, Any], ...]
    """Rows with the chosen fields alone."""
    stale: bool
    age_seconds: int


def server_entry(model: ModelReport, server: ServerReport) -> ServerEntry:
    """Return the row of a server's part in a model."""
    check = server.inference
    place = server.location
    return ServerEntry.of(
        server,
        model=model.dht_prefix,
        short_peer_id=short_peer_id(server.peer_id),
        announced_state=server.announced,
        relayed=uses_relay(server),
        start_block=server.span.start,
        end_block=server.span.end,
        num_blocks=server.span.length,
        contributor=contributor(server),
        throughput=finite(server.throughput),
        inference_rps=finite(server.inference_rps),
        forward_rps=finite(server.forward_rps),
        network_rps=finite(server.network_rps),
        country=None if place is None else place.country,
        city=None if place is None else place.city,
        multiaddrs=server.multiaddrs,
        computes=computes(server),
        inference_outcome=None if check is None else check.outcome,
        inference_checked_at=None if check is None else check.checked_at,
        seconds_per_step=None if check is None else check.seconds_per_step,
    )


def computes(server: ServerReport) -> bool | None:
    """Return whether the latest inference check proved that the server computes; None where nothing is known."""
    check = server.inference
    if check is None or check.outcome in _UNDECIDED:
        return None
    return check.outcome is InferenceOutcome.COMPUTED and not check.agreement.against_majority


def contributor(server: ServerReport) -> str | None:
    """Return the server's public name where it has earned to be shown."""
    return server.public_name if server.show_public_name else None


def finite(value: float | None) -> float | None:
    """Return the number; None for infinity and the like, which JSON cannot say."""
    return value if value is not None and math.isfinite(value) else None
