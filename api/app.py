"""This module builds the app: its routes, its middleware, and its lifespan."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from api.endpoints import (
    badges,
    changes,
    check_stages,
    checks,
    contributors,
    data,
    events,
    guides,
    health,
    history,
    incidents,
    lists,
    metrics,
    models,
    openapi,
    overview,
    places,
    reports,
    search,
    servers,
    share,
)
from api.http.cors import Cors
from api.http.private import PrivateAnswers
from api.http.problems import exception_handlers
from api.http.request_id import RequestId
from api.http.request_spans import RequestSpans
from api.metrics.process import RequestMetrics
from api.pages.templating import STATIC_DIR
from api.responses.prepared import AnswerPrepared
from api.services import Services

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.routing import BaseRoute

    from api.settings import ApiSettings


def create_app(settings: ApiSettings) -> Starlette:
    """Build the app. Nothing is connected before its lifespan begins; it serves without waiting for Redis."""
    services = Services(settings)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        try:
            await services.start()
            yield
        finally:
            await services.close()

    app = Starlette(
        routes=_routes(settings),
        middleware=[
            # It answers most requests; the middleware after it sees only requests that a handler answers.
            Middleware(AnswerPrepared, prepared=services.prepared),
            Middleware(RequestMetrics, metrics=services.metrics),
            Middleware(RequestId),
            Middleware(Cors),
            *([Middleware(PrivateAnswers)] if settings.public_pages == "private" else []),
            *([Middleware(RequestSpans, trusted=settings.trusted)] if settings.otel_exporter_otlp_endpoint else []),
        ],
        exception_handlers=exception_handlers(services.pages.problem),
        lifespan=lifespan,
    )
    app.state.services = services
    return app


def _routes(settings: ApiSettings) -> list[BaseRoute]:
    return [
        Route("/", overview.text),  # the page itself is always prepared
        Route("/models/{dht_prefix:path}", models.page),
        Route("/servers/{peer_id}", servers.page),
        Route("/help", guides.page),
        Route("/glossary", guides.glossary),
        Route("/search", search.page),
        Route("/check", checks.page),
        Route("/check/{peer_id}", checks.page),
        Route("/check/{peer_id}/stages", check_stages.stages),
        Route("/incidents", incidents.page),
        Route("/incidents.atom", incidents.atom),
        Route("/changes.atom", changes.atom),
        Route("/contributors", contributors.page),
        Route("/contributors/{name:path}", contributors.contributor_page),
        Route("/data", data.page),
        Route("/data/{name}", data.file),
        Route("/reports", reports.page),
        Route("/reports/{week}", reports.week_page),
        Route("/reports.atom", reports.atom),
        Route("/badge/{dht_prefix:path}.svg", badges.badge),
        Route("/places", places.page),
        Route("/og.png", share.picture),
        Route("/og/models/{dht_prefix:path}.png", share.picture),
        Route("/embed/models/{dht_prefix:path}", share.embed),
        Route("/share/models/{dht_prefix:path}", share.page),
        Route("/i/{incident_id}", share.incident),
        Route("/favicon.ico", share.favicon),
        Route("/robots.txt", share.robots),
        Route("/swarm.txt", overview.text),
        Route("/events", events.events),
        Route("/api/v1/state", overview.state),
        Route("/api/v1/search", search.search),
        *(Route(f"/api/v1/servers{suffix}", lists.servers) for suffix in lists.SUFFIXES),
        *(Route(f"/api/v1/models{suffix}", lists.models) for suffix in lists.SUFFIXES),
        Route("/api/v1/models/{dht_prefix:path}", models.model),
        Route("/api/v1/servers/{peer_id}", servers.server),
        Route("/api/v1/history/models/{dht_prefix:path}", history.model),
        Route("/api/v1/history/servers/{peer_id}", history.server),
        Route("/api/v1/incidents", incidents.incidents),
        Route("/api/v1/changes", changes.changes),
        Route("/api/v1/contributors", contributors.contributors),
        Route("/api/v1/contributors/{name:path}", contributors.contributor),
        Route("/api/v1/data", data.files),
        Route("/api/v1/reports", reports.reports),
        Route("/api/v1/reports/{week}", reports.report),
        Route("/api/v1/is_reachable/{peer_id:path}", checks.is_reachable),
        Route("/api/v1/is_reachable", checks.without_peer_id),
        Route("/metrics", metrics.swarm),
        Route("/api/prometheus", metrics.swarm),
        *([Route("/metrics/servers", metrics.servers)] if settings.per_server_metrics == "on" else []),
        *([Route("/probe", checks.probe)] if settings.probe_endpoint == "on" else []),
        Route("/openapi.json", openapi.document),
        Route("/docs", openapi.page),
        Route("/livez", health.livez),
        Route("/readyz", health.readyz),
        Mount("/static", StaticFiles(directory=STATIC_DIR)),
    ]
