"""Models: `/models/{dht_prefix}` for people, `/api/v1/models/{dht_prefix}` for programs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from api.pages.history import ModelPast
from api.pages.view import model_of
from api.responses import kinds
from api.responses.history_cache import in_time
from api.services import services_of
from shared.public.models import model_document
from shared.store.rings import Resolution

if TYPE_CHECKING:
    from starlette.requests import Request

    from api.pages import View
    from api.responses.history_cache import HistoryCache
    from api.responses.prepared import PreparedResponse


async def page(request: Request) -> PreparedResponse:
    """A model, all its servers, and its past where that can be read in time."""
    services = services_of(request)
    prefix: str = request.path_params["dht_prefix"]

    async def read() -> ModelPast | None:
        is_known = model_of(services.swarm.snapshot, prefix) is not None
        return await in_time(_past(services.history, prefix)) if is_known else None

    def draw(view: View, past: ModelPast | None) -> PreparedResponse:
        html = services.pages.model(view, prefix, history=past)
        if html is None:
            raise services.unknown("model", prefix, f"The latest snapshot has no model {prefix[:100]!r}.")
        return kinds.page(html)

    return await services.read_and_draw(request, read, draw)


async def _past(history: HistoryCache, prefix: str) -> ModelPast:
    hours, minutes, days, incidents = await asyncio.gather(
        history.model(prefix),
        history.model(prefix, Resolution.MINUTE),
        history.model(prefix, Resolution.DAY),
        history.incidents(),
    )
    return ModelPast(hours, minutes, days, tuple(incident for incident in incidents if incident.dht_prefix == prefix))


async def model(request: Request) -> PreparedResponse:
    """One model with its servers."""
    services = services_of(request)
    snapshot, freshness = services.snapshot(), services.swarm.view().freshness
    prefix: str = request.path_params["dht_prefix"]

    def draw(_: View) -> PreparedResponse:
        model = services.known_model(snapshot, prefix)
        return kinds.document(model_document(snapshot, model, freshness, show_addresses=True))

    return await services.draw(request, draw)
