"""`GET /api/v1/history/…`: what is kept of a model and of a server, and their uptimes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from api.endpoints.models import checked_peer_id, unknown
from api.http.headers import CORS
from api.http.problems import Problem
from api.http.resources import resource
from api.responses.history_cache import HistoryAwayError, history_is_away
from api.responses.on_demand import document
from shared.public.history import model_history_document, server_history_document
from shared.store.rings import Resolution

if TYPE_CHECKING:
    from starlette.requests import Request

    from api.responses.history_cache import HistoryCache
    from api.responses.on_demand import OnDemand
    from api.responses.prepared import Body


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
            lambda: document(
                msgspec.json.encode(model_history_document(found, hours)), "/api/v1/history/models/{dht_prefix}"
            )
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
            lambda: document(msgspec.json.encode(server_history_document(found)), "/api/v1/history/servers/{peer_id}")
        )

    try:
        return await demand.get(resource(request.scope), make)
    except HistoryAwayError:
        raise history_is_away() from None
