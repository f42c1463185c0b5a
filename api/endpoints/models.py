"""Models: `/models/{dht_prefix}` for people, `/api/v1/models` and `/api/v1/models/{dht_prefix}` for programs."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec

from api.documents import ModelDocument, ModelsDocument, ModelSummary, ServerCounts
from api.http.resources import resource
from api.pages.history import ModelPast, model_history_html
from api.responses import kinds
from api.responses.history_cache import in_time
from api.services import services_of
from shared.history import Resolution, slowest_block
from shared.state_document import state_document

if TYPE_CHECKING:
    from starlette.requests import Request

    from api.responses.history_cache import HistoryCache
    from api.responses.prepared import PreparedResponse
    from shared.snapshot import ModelReport, Snapshot


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
            history = None if past is None else model_history_html(past)
            return kinds.page(services.pages.model(view, prefix, history=history) or "", "/models/{dht_prefix}")

        return await services.on_demand.render(render)

    return await services.on_demand.get(resource(request.scope), make)


async def _past(history: HistoryCache, prefix: str) -> ModelPast:
    hours, minutes, incidents = await asyncio.gather(
        history.model(prefix), history.model(prefix, Resolution.MINUTE), history.incidents()
    )
    return ModelPast(hours, minutes, tuple(incident for incident in incidents if incident.dht_prefix == prefix))


async def models(request: Request) -> PreparedResponse:
    """All models without their servers."""
    services = services_of(request)
    snapshot = services.snapshot()

    async def make() -> PreparedResponse:
        return await services.on_demand.render(lambda: kinds.document(models_document(snapshot), "/api/v1/models"))

    return await services.on_demand.get(resource(request.scope), make)


async def model(request: Request) -> PreparedResponse:
    """One model with its servers."""
    services = services_of(request)
    snapshot, prefix = services.snapshot(), request.path_params["dht_prefix"]
    report = services.model(prefix)
    if report is None:
        raise await services.unknown("model", prefix, f"No model {prefix[:100]!r} is known.")

    def render() -> PreparedResponse:
        document = model_document(snapshot, report, show_addresses=services.settings.show_addresses)
        return kinds.document(document, "/api/v1/models/{dht_prefix}")

    async def make() -> PreparedResponse:
        return await services.on_demand.render(render)

    return await services.on_demand.get(resource(request.scope), make)


def models_document(snapshot: Snapshot) -> ModelsDocument:
    return ModelsDocument(
        last_updated=snapshot.taken_at,
        update_period=snapshot.update_period,
        models=tuple(ModelSummary(**_summary(report)) for report in snapshot.models),
    )


def model_document(snapshot: Snapshot, report: ModelReport, *, show_addresses: bool) -> ModelDocument:
    alone = msgspec.structs.replace(snapshot, models=(report,))
    shown = state_document(alone, show_addresses=show_addresses)["model_reports"][0]
    return ModelDocument(
        last_updated=snapshot.taken_at,
        update_period=snapshot.update_period,
        redundancy=tuple(report.redundancy()),
        server_rows=tuple(shown["server_rows"]),
        **_summary(report),
    )


def _summary(report: ModelReport) -> dict[str, Any]:
    redundancy = report.redundancy()
    states = Counter(str(server.state) for server in report.servers)
    return {
        "dht_prefix": report.dht_prefix,
        "name": report.name,
        "short_name": report.short_name,
        "repository": report.repository,
        "official": report.official,
        "limited": report.limited,
        "state": report.state,
        "num_blocks": report.num_blocks,
        "covered_blocks": sum(map(bool, redundancy)),
        "min_redundancy": min(redundancy, default=0),
        "slowest_block_throughput": round(slowest_block(report), 2),
        "servers": ServerCounts(**states),
    }
