"""The app: its routes, and what lives as long as it does."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from api import (
    badges,
    events,
    health,
    history,
    incidents,
    metrics,
    models_api,
    openapi,
    probe,
    reachability,
    state,
    web,
)
from api.bodies import BodyTable
from api.cors import Cors
from api.desk import ReachabilityDesk
from api.history_cache import READS_AT_ONCE, HistoryCache
from api.on_demand import OnDemand
from api.pages import Pages
from api.pages.render import STATIC_DIR
from api.problems import on_failure, on_http_error
from api.request_id import RequestId
from api.request_rate import RequestRate
from api.request_spans import RequestSpans
from api.swarm import Swarm
from shared import tracing
from shared.store.clock import RedisClock
from shared.store.connection import connect
from shared.store.history import HistoryReader
from shared.store.snapshots import SnapshotReader
from shared.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import Receive, Scope, Send

    from api.settings import ApiSettings

FIRST_LOOK = 2.0
"""Seconds that a starting replica gives Redis to show what is there, before it serves without."""


class Monitor(Starlette):
    """Answers what stands ready in the table before anything else is asked."""

    def __init__(self, table: BodyTable, **options: Any) -> None:
        super().__init__(**options)
        self._table = table

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (answer := self._table.answer(scope)) is None:
            await super().__call__(scope, receive, send)
            return
        start, body = answer
        await send(start)
        await send(body)


def create_app(settings: ApiSettings) -> Starlette:
    """Build the app. Nothing is connected before its lifespan begins; it serves without waiting for Redis."""
    on_demand = OnDemand()
    table = BodyTable(on_demand.ready)
    own_metrics = metrics.ApiMetrics(table)
    app = Monitor(
        table,
        routes=[
            Route("/", web.overview),
            Route("/models/{dht_prefix:path}", web.model),
            Route("/servers/{peer_id}", web.server),
            Route("/check", web.check),
            Route("/check/{peer_id}", web.check),
            Route("/incidents", incidents.page),
            Route("/incidents.atom", incidents.atom),
            Route("/badge/{dht_prefix:path}.svg", badges.badge),
            Route("/swarm.txt", state.text),
            Route("/events", events.events),
            Route("/api/v1/state", state.state),
            Route("/api/v1/models", models_api.models),
            Route("/api/v1/models/{dht_prefix:path}", models_api.model),
            Route("/api/v1/servers/{peer_id}", models_api.server),
            Route("/api/v1/history/models/{dht_prefix:path}", history.model),
            Route("/api/v1/history/servers/{peer_id}", history.server),
            Route("/api/v1/incidents", incidents.as_json),
            Route("/api/v1/is_reachable/{peer_id:path}", reachability.is_reachable),
            Route("/api/v1/is_reachable", reachability.without_peer_id),
            Route("/metrics", metrics.swarm_metrics),
            Route("/api/prometheus", metrics.swarm_metrics),
            *([Route("/metrics/servers", metrics.server_metrics)] if settings.per_server_metrics == "on" else []),
            *([Route("/probe", probe.probe)] if settings.probe_endpoint == "on" else []),
            Route("/openapi.json", openapi.document),
            Route("/livez", health.livez),
            Route("/readyz", health.readyz),
            Mount("/static", StaticFiles(directory=STATIC_DIR)),
        ],
        middleware=[
            Middleware(metrics.RequestMetrics, metrics=own_metrics),
            Middleware(RequestId),
            Middleware(Cors),
            *([Middleware(RequestSpans, trusted=settings.trusted)] if settings.otel_exporter_otlp_endpoint else []),
        ],
        exception_handlers={HTTPException: on_http_error, Exception: on_failure},
        lifespan=_lifespan,
    )
    app.state.settings = settings
    app.state.table = table
    app.state.on_demand = on_demand
    app.state.metrics = own_metrics
    app.state.pages = Pages()
    return app


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    settings: ApiSettings = app.state.settings
    redis = connect(settings.redis_url, "api")
    tasks = app.state.tasks = Tasks()
    clock = app.state.clock = RedisClock(redis)
    app.state.swarm = Swarm(
        SnapshotReader(redis),
        clock,
        app.state.pages,
        settings,
        table=app.state.table,
        on_demand=app.state.on_demand,
    )
    # Apart, so that a crowd that reads the past never waits in front of a check.
    past = connect(settings.redis_url, "api history", max_connections=READS_AT_ONCE)
    app.state.history = HistoryCache(HistoryReader(past), now=clock.now)
    app.state.desk = ReachabilityDesk(redis, tasks, max_queued=settings.max_queued_checks)
    app.state.request_rate = RequestRate(redis)
    app.state.metrics.desk, app.state.metrics.swarm, app.state.metrics.now = app.state.desk, app.state.swarm, clock.now
    app.state.desk.on_reply = app.state.metrics.replied
    if settings.api_metrics_port:
        app.state.metrics.serve(settings.api_metrics_port, settings.metrics_host)
    app.state.swarm.start(tasks)
    app.state.desk.start()
    try:
        # It listens after this. Beside replicas that know the swarm, one that does not yet would answer wrongly.
        await app.state.swarm.first_look(FIRST_LOOK)
        yield
    finally:
        await tasks.close()
        with suppress(Exception):
            await redis.aclose()
            await past.aclose()
        app.state.on_demand.close()
        await asyncio.to_thread(tracing.stop)
