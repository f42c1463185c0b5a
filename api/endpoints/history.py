"""The past: `/api/v1/history/models/{dht_prefix}` and `/api/v1/history/servers/{peer_id}`, with uptimes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from api.http.problems import Problem
from api.http.resources import parameters
from api.responses import kinds
from api.services import services_of
from shared.public.history import model_history_document, server_history_document
from shared.store.rings import Resolution

if TYPE_CHECKING:
    from starlette.requests import Request

    from api.pages import View
    from api.responses.prepared import PreparedResponse
    from shared.store.history import ModelHistory, ServerHistory


async def model(request: Request) -> PreparedResponse:
    """A model's slots at `?resolution=minute` (a day), `hour` (30 days, the default) or `day` (five years)."""
    services = services_of(request)
    prefix: str = request.path_params["dht_prefix"]
    given = parameters(request.scope).get("resolution", Resolution.HOUR.value)
    if given not in tuple(Resolution):
        raise Problem(400, f"Bad resolution {given[:50]!r}: expected one of {', '.join(Resolution)}.")
    resolution = Resolution(given)

    async def read() -> tuple[ModelHistory, ModelHistory, ModelHistory]:
        found = await services.history.model(prefix, resolution)
        hours = found if resolution is Resolution.HOUR else await services.history.model(prefix)
        return found, hours, await services.history.model(prefix, Resolution.MINUTE)

    def draw(view: View, read: tuple[ModelHistory, ModelHistory, ModelHistory]) -> PreparedResponse:
        found, hours, minutes = read
        if not found.slots and not hours.slots:
            services.known_model(view.snapshot, prefix)
        return kinds.document(model_history_document(found, hours, minutes))

    return await services.read_and_draw(request, read, draw)


async def server(request: Request) -> PreparedResponse:
    """A server's sessions and its uptime by the hour, for 30 days."""
    services = services_of(request)
    peer_id = await services.peer_id(request.path_params["peer_id"])

    def draw(_: View, found: ServerHistory | None) -> PreparedResponse:
        if found is None:
            raise services.unknown("server", peer_id)
        return kinds.document(server_history_document(found))

    return await services.read_and_draw(request, partial(services.history.server, peer_id), draw)
