"""Models: `/models/{dht_prefix}` for people, `/api/v1/models/{dht_prefix}` for programs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from api.http.resources import resource
from api.pages.history import ModelPast
from api.responses import kinds
from api.responses.history_cache import in_time
from api.services import services_of
from shared.public.models import model_document
from shared.store.rings import Resolution

if TYPE_CHECKING:
    from starlette.requests import Request

    from api.responses.history_cache import HistoryCache
    from api.responses.prepared import PreparedResponse


async def page(request: Request) -> PreparedResponse:
    """A model, all its servers, and its past where that can be read in time."""
    services = services_of(request)
    prefix: str = request.path_params["dht_prefix"]

    async def make() -> PreparedResponse:
        view = services.swarm.view()
        if services.model(prefix) is None:
            detail = f"The latest snapshot has no model {prefix[:100]!r}."
            raise await services.unknown("model", prefix, detail)
        past = await in_time(_past(services.history, prefix))

        def render() -> PreparedResponse:
            return kinds.page(services.pages.model(view, prefix, history=past) or "", "/models/{dht_prefix}")

        return await services.on_demand.render(render)

    return await services.on_demand.get(resource(request.scope), make)


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
    report = services.model(prefix)
    if report is None:
        raise await services.unknown("model", prefix, f"No model {prefix[:100]!r} is known.")

    def draw() -> PreparedResponse:
        document = model_document(snapshot, report, freshness, show_addresses=services.settings.show_addresses)
        return kinds.document(document, "/api/v1/models/{dht_prefix}")

    return await services.on_demand.draw(resource(request.scope), draw)
