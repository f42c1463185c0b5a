"""The past: `/api/v1/history/models/{dht_prefix}` and `/api/v1/history/servers/{peer_id}`, with uptimes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.documents import (
    ModelHistoryDocument,
    ModelPoint,
    ServerCounts,
    ServerHistoryDocument,
    ServerPoint,
)
from api.http.problems import Problem
from api.http.resources import resource
from api.responses import kinds
from api.services import services_of
from shared.history import HOUR, Resolution

if TYPE_CHECKING:
    from starlette.requests import Request

    from api.responses.prepared import PreparedResponse
    from shared.history import ModelSlot
    from shared.history_store import ModelHistory, ServerHistory


async def model(request: Request) -> PreparedResponse:
    """A model's slots at `?resolution=minute` (a day), `hour` (30 days, the default) or `day` (a year)."""
    services = services_of(request)
    prefix: str = request.path_params["dht_prefix"]
    given = request.query_params.get("resolution", Resolution.HOUR.value)
    if given not in tuple(Resolution):
        raise Problem(400, f"Bad resolution {given[:50]!r}: expected one of {', '.join(Resolution)}.")
    resolution = Resolution(given)

    async def make() -> PreparedResponse:
        found = await services.history.model(prefix, resolution)
        hours = found if resolution is Resolution.HOUR else await services.history.model(prefix)
        if not found.slots and not hours.slots and services.model(prefix) is None:
            raise await services.unknown("model", prefix, f"No model {prefix[:100]!r} is known.")
        return await services.on_demand.render(
            lambda: kinds.document(model_document(found, hours), "/api/v1/history/models/{dht_prefix}")
        )

    return await services.on_demand.get(resource(request.scope), make)


async def server(request: Request) -> PreparedResponse:
    """A server's sessions and its uptime by the hour, for 30 days."""
    services = services_of(request)
    peer_id = await services.peer_id(request.path_params["peer_id"])

    async def make() -> PreparedResponse:
        found = await services.history.server(peer_id)
        if found is None:
            raise await services.unknown("server", peer_id, f"No server {peer_id[:100]!r} is known.")
        return await services.on_demand.render(
            lambda: kinds.document(server_document(found), "/api/v1/history/servers/{peer_id}")
        )

    return await services.on_demand.get(resource(request.scope), make)


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
