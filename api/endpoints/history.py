"""The past: `/api/v1/history/models/{dht_prefix}` and `/api/v1/history/servers/{peer_id}`, with uptimes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.http.problems import Problem
from api.http.resources import resource
from api.responses import kinds
from api.services import services_of
from shared.public.history import model_history_document, server_history_document
from shared.store.rings import Resolution

if TYPE_CHECKING:
    from starlette.requests import Request

    from api.responses.prepared import PreparedResponse


async def model(request: Request) -> PreparedResponse:
    """A model's slots at `?resolution=minute` (a day), `hour` (30 days, the default) or `day` (five years)."""
    services = services_of(request)
    prefix: str = request.path_params["dht_prefix"]
    given = request.query_params.get("resolution", Resolution.HOUR.value)
    if given not in tuple(Resolution):
        raise Problem(400, f"Bad resolution {given[:50]!r}: expected one of {', '.join(Resolution)}.")
    resolution = Resolution(given)

    async def make() -> PreparedResponse:
        found = await services.history.model(prefix, resolution)
        hours = found if resolution is Resolution.HOUR else await services.history.model(prefix)
        minutes = await services.history.model(prefix, Resolution.MINUTE)
        if not found.slots and not hours.slots and services.model(prefix) is None:
            raise await services.unknown("model", prefix, f"No model {prefix[:100]!r} is known.")
        return await services.on_demand.render(
            lambda: kinds.document(model_history_document(found, hours, minutes), "/api/v1/history/models/{dht_prefix}")
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
            lambda: kinds.document(server_history_document(found), "/api/v1/history/servers/{peer_id}")
        )

    return await services.on_demand.get(resource(request.scope), make)
