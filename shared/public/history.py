"""`GET /api/v1/history/…`: what is kept of a model and of a server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.public.document import Document
from shared.public.models import ServerCounts
from shared.store.history import ServerOutage  # noqa: TC001 - msgspec reads the annotations
from shared.store.rings import HOUR, Resolution

if TYPE_CHECKING:
    from shared.store.history import ModelHistory, ServerHistory
    from shared.store.inference_history import Proof
    from shared.store.rings import ModelSlot


class ModelPoint(Document):
    """One slot of time in which somebody looked."""

    start: int
    crawls: int
    healthy_share: float
    num_blocks: int
    covered_blocks: int
    """The fewest that any crawl of the slot found."""
    min_redundancy: int
    """Servers of the block with the fewest, at the worst crawl."""
    slowest_block_throughput: float
    """Mean of what the servers of the weakest block claimed together."""
    servers: ServerCounts


class InferencePoint(Document):
    """One hour in which inference checks were made; those that nobody could make are not counted."""

    start: int
    checks: int
    computed: int
    """Those that gave numbers: of a model, tokens."""
    outcome: str
    """Of the latest: a `state` of `usability`, or an `outcome` of `inference`."""
    seconds_per_token: float | None
    """Mean, measured by the crawler; null where none gave numbers."""
    checked_at: int
    """When the latest began."""


class ModelHistoryDocument(Document):
    """Slots that are not among the points were not looked at: nothing is known of them."""

    dht_prefix: str
    resolution: Resolution
    step: int
    """Seconds between slots."""
    slots: int
    """How many slots are kept."""
    read_at: float
    uptime: dict[str, float | None]
    """Share of crawls that found the model healthy in the last 24h, 7d, 30d; null where nobody looked."""
    watched_seconds: dict[str, float]
    """How much of the last 24h, 7d, 30d was watched: the uptimes are shares of that."""
    points: tuple[ModelPoint, ...]
    """The oldest first."""
    inference: tuple[InferencePoint, ...]
    """Hours of the last 30 days in which a chain through its blocks was tried, whatever the resolution."""


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
    uptime: dict[str, float | None]
    """Share of the watched minutes in which it was online, since it was first seen."""
    watched_seconds: dict[str, float]
    """How much of the last 24h, 7d, 30d was watched, since it was first seen: the uptimes are shares of that."""
    outages: tuple[ServerOutage, ...]
    """When it was not online, the oldest first, to the hour."""
    points: tuple[ServerPoint, ...]
    """The oldest first."""
    inference: tuple[InferencePoint, ...]
    """Hours of the last 7 days in which it was asked to compute."""


def model_history_document(history: ModelHistory, hours: ModelHistory, minutes: ModelHistory) -> ModelHistoryDocument:
    """Return a model's history; `hours` and `minutes` are the same model's, of which uptimes are reckoned."""
    ring = history.resolution.ring
    return ModelHistoryDocument.of(
        history,
        step=ring.step,
        slots=ring.slots,
        uptime=hours.uptimes(),
        watched_seconds=hours.watched(minutes),
        points=tuple(_point(slot, ring.step) for slot in history.slots),
        inference=tuple(map(_proof, history.proofs)),
    )


def server_history_document(history: ServerHistory) -> ServerHistoryDocument:
    record = history.record
    return ServerHistoryDocument.of(
        record,
        peer_id=history.peer_id,
        read_at=history.read_at,
        last_online=record.last_online or None,
        online_since=record.online_since if history.online else None,
        uptime=history.uptimes(),
        watched_seconds=history.watched(),
        outages=tuple(history.outages()),
        points=tuple(
            ServerPoint(start=hour.hour * HOUR, looked_minutes=hour.crawled, online_minutes=hour.online)
            for hour in history.hours
        ),
        inference=tuple(map(_proof, history.proofs)),
    )


def _proof(proof: Proof) -> InferencePoint:
    seconds = round(proof.seconds, 6) if proof.computed else None
    return InferencePoint.of(proof, start=proof.hour * HOUR, seconds_per_token=seconds)


def _point(slot: ModelSlot, step: int) -> ModelPoint:
    return ModelPoint.of(
        slot,
        start=slot.slot * step,
        crawls=slot.crawls,
        healthy_share=round(slot.healthy / slot.crawls, 4),
        slowest_block_throughput=round(slot.slowest_block, 2),
        servers=ServerCounts(
            online=round(slot.online, 2),
            joining=round(slot.joining, 2),
            unreachable=round(slot.unreachable, 2),
            offline=round(slot.offline, 2),
        ),
    )
