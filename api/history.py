"""`GET /api/v1/history/…`: what is kept of a model and of a server, and their uptimes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from api.documents import (
    ModelHistoryDocument,
    ModelPoint,
    ServerCounts,
    ServerHistoryDocument,
    ServerPoint,
)
from api.headers import CORS
from api.history_cache import HistoryAwayError, history_is_away
from api.models_api import checked_peer_id, unknown
from api.on_demand import document
from api.problems import Problem
from api.queries import resource
from shared.store.rings import HOUR, Resolution

if TYPE_CHECKING:
    from starlette.requests import Request

    from api.bodies import Body
    from api.history_cache import HistoryCache
    from api.on_demand import OnDemand
    from shared.store.history import ModelHistory, ServerHistory
    from shared.store.rings import ModelSlot


async def model(request: Request) -> Body:
    """A model's slots at `?resolution=minute` (a day), `hour` (30 days, the default) or `day` (a year)."""
    cache: HistoryCache = request.app.state.history
    demand: OnDemand = request.app.state.on_demand
    prefix: str = request.path_params["dht_prefix"]
    given = request.query_params.get("resolution", Resolution.HOUR.value)
    if given not in tuple(Resolution):
        allowed = ", ".join(Resolution)
        raise Problem(400, f"Bad resolution {given[:50]!r}: expected one of {allowed}.", headers=CORS)
    resolution = Resolution(given)

    async def make() -> Body:
        found = await cache.model(prefix, resolution)
        hours = found if resolution is Resolution.HOUR else await cache.model(prefix)
        swarm = request.app.state.swarm
        known = swarm.snapshot is not None and any(model.dht_prefix == prefix for model in swarm.snapshot.models)
        if not found.slots and not hours.slots and not known:
            raise await unknown(request, "model", prefix)
        return await demand.draw(
            lambda: document(msgspec.json.encode(model_document(found, hours)), "/api/v1/history/models/{dht_prefix}")
        )

    try:
        return await demand.get(resource(request.scope), make)
    except HistoryAwayError:
        raise history_is_away() from None


async def server(request: Request) -> Body:
    """A server's sessions and its uptime by the hour, for 30 days."""
    cache: HistoryCache = request.app.state.history
    demand: OnDemand = request.app.state.on_demand
    peer_id = await checked_peer_id(request)

    async def make() -> Body:
        found = await cache.server(peer_id)
        if found is None:
            raise await unknown(request, "server", peer_id)
        return await demand.draw(
            lambda: document(msgspec.json.encode(server_document(found)), "/api/v1/history/servers/{peer_id}")
        )

    try:
        return await demand.get(resource(request.scope), make)
    except HistoryAwayError:
        raise history_is_away() from None


def model_document(history: ModelHistory, hours: ModelHistory) -> ModelHistoryDocument:
    """`hours` is the same model's history at that resolution: uptimes are reckoned of it."""
    ring = history.resolution.ring
    return ModelHistoryDocument(
        dht_prefix=history.dht_prefix,
        resolution=history.resolution.value,
        step=ring.step,
        slots=ring.slots,
        read_at=history.read_at,
        uptime=hours.uptimes(),
        points=tuple(_point(slot, ring.step) for slot in history.slots),
    )


def _point(slot: ModelSlot, step: int) -> ModelPoint:
    return ModelPoint(
        start=slot.slot * step,
        crawls=slot.looks,
        healthy_share=round(slot.healthy / slot.looks, 4),
        num_blocks=slot.num_blocks,
        covered_blocks=slot.covered_blocks,
        min_redundancy=slot.min_redundancy,
        slowest_block_throughput=round(slot.slowest_block, 2),
        servers=ServerCounts(
            online=round(slot.online, 2),
            joining=round(slot.joining, 2),
            unreachable=round(slot.unreachable, 2),
            offline=round(slot.offline, 2),
        ),
    )


def server_document(history: ServerHistory) -> ServerHistoryDocument:
    record = history.record
    return ServerHistoryDocument(
        peer_id=history.peer_id,
        read_at=history.read_at,
        first_seen=record.first_seen,
        last_seen=record.last_seen,
        last_online=record.last_online or None,
        online_since=record.online_since if history.online else None,
        sessions=record.sessions,
        uptime=history.uptimes(),
        points=tuple(
            ServerPoint(start=hour.hour * HOUR, looked_minutes=hour.looked, online_minutes=hour.online)
            for hour in history.hours
        ),
    )
