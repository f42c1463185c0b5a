"""Metrics of the swarm: `/metrics`, its old address `/api/prometheus`, and `/metrics/servers`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from api.metrics.exposition import exposition
from api.metrics.servers import ServerCollector
from api.responses import kinds
from api.services import services_of

if TYPE_CHECKING:
    from starlette.requests import Request

    from api.pages import View
    from api.responses.prepared import PreparedResponse


async def swarm(request: Request) -> PreparedResponse:
    """The swarm's metrics. They are always prepared, so no GET comes here; the route exists for other methods."""
    prepared = services_of(request).prepared.find(request.scope)
    assert prepared is not None  # noqa: S101 - prepared before the app serves
    return prepared


async def servers(request: Request) -> PreparedResponse:
    """Series for each server, where PER_SERVER_METRICS=on: made once for each snapshot that is scraped."""
    services = services_of(request)
    openmetrics = "application/openmetrics-text" in request.headers.get("accept", "")

    def draw(view: View) -> PreparedResponse:
        current = view.snapshot if not view.stale else None
        collector = CollectorRegistry() if current is None else ServerCollector(current)
        return kinds.metrics(exposition(collector, openmetrics=openmetrics), openmetrics=openmetrics)

    return await services.draw(request, draw, key=f"metrics {openmetrics}")  # not its path: it has two forms
