"""This module defines a snapshot: what one crawl found, judged. The crawler publishes it; everything else shows it.

Start reading here. A `Snapshot` is immutable and versioned; it holds facts and verdicts, no display text.
Times are Unix seconds, durations and pings are seconds, throughputs are tokens per second. `gc=False`: it cannot
contain itself, and a large swarm's would lengthen every walk of the garbage collector.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

import msgspec
from backports import zstd

from shared.inference import ServerInference, Usability  # noqa: TC001 - msgspec reads the annotations

SCHEMA_VERSION = 1
"""Raised only when an older reader would misread the document. New fields have defaults instead."""

MAX_ENCODED_BYTES = 64 * 1024**2
"""A snapshot of 10,000 servers takes about 1 MB packed and 10 MB unpacked; anything near this is not ours."""

MAX_BLOCKS = 65_536
"""Of one model. The crawler takes fewer (`crawler.models`)."""
MAX_SECONDS = 30 * 86400.0
MAX_UNIX_SECONDS = 1e11
"""The year 5138."""
Blocks = Annotated[int, msgspec.Meta(ge=0, le=MAX_BLOCKS)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=MAX_SECONDS)]
UnixSeconds = Annotated[float, msgspec.Meta(ge=0, le=MAX_UNIX_SECONDS)]
"""Decoding refuses numbers out of these ranges, and what is no number."""


class UnknownSchemaError(Exception):
    """The document was written by a version of the monitor that this one cannot read."""


class PeerState(StrEnum):
    """What the page shows for a server on its blocks."""

    ONLINE = "online"
    JOINING = "joining"
    OFFLINE = "offline"
    UNREACHABLE = "unreachable"
    """Announced as online, dialled, and not reached. Never used where nobody could probe it."""


class Verdict(StrEnum):
    """The outcome of probing one peer. The order matters: of several verdicts on one peer, the first one counts."""

    REACHABLE = "reachable"
    UNREACHABLE = "unreachable"
    UNKNOWN = "unknown"
    """Nobody probed it, or nobody could: never shown as unreachable."""


class Span(msgspec.Struct, frozen=True, gc=False):
    """Blocks `start <= block < end` of one model."""

    start: int
    end: int

    @property
    def length(self) -> int:
        return self.end - self.start


class Location(msgspec.Struct, frozen=True, gc=False):
    """Where an IP address is, by the operator's own database."""

    country: str | None = None
    """ISO 3166 code."""
    region: str | None = None
    city: str | None = None
    country_name: str | None = None
    lat: float | None = None
    """Degrees, to a tenth: no finer than a city."""
    lon: float | None = None
    isp: str | None = None
    """Who runs the network, where the database tells."""


class Announcement(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What a server announces about itself, beside its state and its blocks; None where it does not tell.

    A field that Petals adds goes here, is read in `crawler.observe.records.read_server`, and is shown by
    `shared.public.state.ServerInfo`.
    """

    throughput: float
    """Tokens/s that the server claims for one block or its whole span (Petals does not say which)."""
    public_name: str | None = None
    version: str | None = None
    network_rps: float | None = None
    forward_rps: float | None = None
    inference_rps: float | None = None
    adapters: tuple[str, ...] = ()
    torch_dtype: str | None = None
    quant_type: str | None = None
    using_relay: bool | None = None
    cache_tokens_left: int | None = None
    next_pings: dict[str, float] | None = None
    """Seconds to the servers that hold the following blocks, by peer id; `inf` where one did not answer."""

    def fields(self) -> dict[str, Any]:
        """Return these fields by name, for a struct that adds to them."""
        return {name: getattr(self, name) for name in Announcement.__struct_fields__}


class ServerReport(Announcement, frozen=True, gc=False, kw_only=True):
    """One server's span in one model: what it announces, and what the crawler found."""

    peer_id: str
    state: PeerState
    announced: PeerState
    """The state that the server announces: never unreachable."""
    span: Span
    show_public_name: bool
    verdict: Verdict = Verdict.UNKNOWN
    error: str | None = None
    """Why the dial failed; None when it did not or was not made."""
    cause: str | None = None
    """The same as a `shared.reachability.Cause`; a newer crawler may know others."""
    relayed: bool | None = None
    """Whether the crawler reached the server through a relay; None where it did not reach it."""
    relay: str | None = None
    """Peer id of that relay, or of the one that failed."""
    rtt: Seconds | None = None
    """From the start of the connection to the moment at which it stood."""
    conflict: str | None = None
    """How the peer itself contradicts its record, which anyone can write; None where it does not."""
    multiaddrs: tuple[str, ...] = ()
    location: Location | None = None
    inference: ServerInference | None = None
    """What its latest inference check proved, which may be older than the crawl; None where there was none."""
    adapter_inference: ServerInference | None = None
    """The same of the latest one with an adapter, which says nothing about the model without it."""

    def __post_init__(self) -> None:
        """Let other threads run after each server of a snapshot that is decoded, which C code alone does not do."""

    @property
    def reached(self) -> bool:
        """Whether it announces that it is online, and the crawler reached it."""
        return self.state is PeerState.ONLINE and self.verdict is Verdict.REACHABLE

    @property
    def cache_tokens_left_per_block(self) -> int | None:
        """Attention cache left for each block: half of the tokens are keys, half are values."""
        if self.cache_tokens_left is None:
            return None
        return self.cache_tokens_left // (2 * self.span.length)


class ModelState(StrEnum):
    """Whether every block of a model has an online, reachable server."""

    HEALTHY = "healthy"
    BROKEN = "broken"


class ModelReport(msgspec.Struct, frozen=True, gc=False):
    """One model of the swarm and the servers that announce blocks of it, by peer id."""

    dht_prefix: str
    num_blocks: Blocks
    state: ModelState
    name: str
    short_name: str
    repository: str | None = None
    official: bool = False
    limited: bool = False
    servers: tuple[ServerReport, ...] = ()
    usability: Usability | None = None
    """Whether a client gets tokens, by the latest chain through its servers; None where there was none."""
    since: UnixSeconds | None = None
    """When a crawl first found it as it is now: usable, fragile, broken, …; None is not known."""


class BootstrapPeer(msgspec.Struct, frozen=True, gc=False):
    """A peer through which nodes join the swarm, and whether the crawler could connect to it."""

    peer_id: str
    addresses: tuple[str, ...]
    verdict: Verdict
    error: str | None = None


class ReachabilityIssue(msgspec.Struct, frozen=True):
    peer_id: str
    error: str
    advice: str


class Refusals(msgspec.Struct, frozen=True):
    """DHT records that the validating edge refused, by reason, with a few keys as examples."""

    by_reason: dict[str, int] = {}
    examples: dict[str, str] = {}

    @property
    def total(self) -> int:
        return sum(self.by_reason.values())


class Snapshot(msgspec.Struct, frozen=True, gc=False):
    """The whole swarm at one moment."""

    schema: int
    taken_at: UnixSeconds
    """When the crawl ended. The public name is `last_updated`."""
    update_period: Seconds
    update_duration: Seconds
    bootstrap_peers: tuple[BootstrapPeer, ...]
    models: tuple[ModelReport, ...]
    reachability_issues: tuple[ReachabilityIssue, ...] = ()
    top_contributors: dict[str, int] = {}
    """Blocks of official models served under each shown public name, most first."""
    refused: Refusals = Refusals()
    unanswered_keys: int = 0
    """DHT keys that did not answer in time: their blocks may have servers that nobody could see."""
    undialled_servers: int = 0
    """Servers that say they are online and that there was no time to dial: nobody probed them."""
    private_swarm: bool = False
    crawler_peer_id: str | None = None
    inference_peer_id: str | None = None
    """The peer that makes the inference checks: what servers see in their logs."""

    def age(self, now: float) -> float:
        """Seconds since the crawl ended; never negative, whatever the clocks say."""
        return max(0.0, now - self.taken_at)

    @property
    def num_servers(self) -> int:
        """Distinct peers; one that serves two models counts once."""
        return len({server.peer_id for model in self.models for server in model.servers})

    @property
    def num_conflicts(self) -> int:
        """Distinct peers that differ from a record under their name."""
        return len({server.peer_id for model in self.models for server in model.servers if server.conflict})


class CrawlProgress(msgspec.Struct, frozen=True):
    """How far a crawl has come that has not ended: what it does now, and counts so far."""

    doing: Literal["joining", "reading", "dialling"]
    servers: int = 0
    """Servers that are announced, as far as was read."""
    dialled: int = 0
    """Servers of which it is known whether they answer."""
    to_dial: int = 0
    """Servers that say they are online, as far as was read."""


class CrawlStatus(msgspec.Struct, frozen=True):
    """How the latest attempt to crawl went. Published beside the snapshot, also when the crawl failed."""

    attempted_at: UnixSeconds
    ok: bool
    error: str | None = None
    """In words for a reader: "no bootstrap peer answered"."""
    bootstrap_peers: tuple[BootstrapPeer, ...] = ()
    snapshot_taken_at: UnixSeconds | None = None
    progress: CrawlProgress | None = None
    """Given where the attempt has not ended: while a crawler that found no snapshot crawls for the first time."""


_snapshot_encoder = msgspec.msgpack.Encoder()
_snapshot_decoder = msgspec.msgpack.Decoder(Snapshot)
_status_decoder = msgspec.json.Decoder(CrawlStatus)


class _Header(msgspec.Struct):
    """The one field that every schema has."""

    schema: int


def encode(snapshot: Snapshot) -> bytes:
    """Return the snapshot as zstd-compressed msgpack."""
    return zstd.compress(_snapshot_encoder.encode(snapshot))


def decode(data: bytes) -> Snapshot:
    """Return the snapshot that `encode` packed.

    Raises `UnknownSchemaError` for a document of another schema, `ValueError` for what is no snapshot.
    """
    try:
        unpacker = zstd.ZstdDecompressor()
        document = unpacker.decompress(data, max_length=MAX_ENCODED_BYTES)
        if not unpacker.eof:
            raise ValueError(f"not a snapshot: cut short, or longer than {MAX_ENCODED_BYTES} bytes")
        schema = msgspec.msgpack.decode(document, type=_Header).schema
        if schema != SCHEMA_VERSION:
            raise UnknownSchemaError(f"snapshot schema {schema}, this version reads {SCHEMA_VERSION}")
        snapshot = _snapshot_decoder.decode(document)
    except (zstd.ZstdError, msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"not a snapshot: {error}") from error
    for model in snapshot.models:
        for server in model.servers:
            if not 0 <= server.span.start < server.span.end <= model.num_blocks:
                raise ValueError(f"not a snapshot: span {server.span.start}:{server.span.end} of {model.num_blocks}")
    return snapshot


def decode_status(data: bytes) -> CrawlStatus:
    """Return the status that was published. Whatever this raises, `stored.read` refuses the entry."""
    return _status_decoder.decode(data)


def check_times(*times: float | None) -> None:
    """Raise `ValueError` where one of these Unix seconds or durations is out of range; None is not.

    For structs that are public too: `UnixSeconds` would add its limits to the JSON's schema.
    """
    for seconds in times:
        if seconds is not None and not 0 <= seconds <= MAX_UNIX_SECONDS:  # also where it is not a number
            raise ValueError(f"time {seconds} is out of range")
