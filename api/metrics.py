"""`/metrics` of the swarm, and the metrics of this process, which stand on its private port."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector

from api.bodies import Body
from api.server_metrics import ServerCollector
from shared import tasks
from shared.store import stored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client import Metric
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from api.bodies import BodyTable
    from api.desk import ReachabilityDesk
    from api.on_demand import OnDemand
    from api.swarm import Swarm
    from shared.reachability import Answer

UNROUTED = "(none)"
TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


async def swarm_metrics(request: Request) -> Response:
    """For methods that the table of ready bodies does not answer."""
    body: Response = request.app.state.table.find(request.scope)
    return body


async def server_metrics(request: Request) -> Body:
    """`/metrics/servers`, where the operator asked for it: made once for each snapshot that is scraped."""
    swarm: Swarm = request.app.state.swarm
    demand: OnDemand = request.app.state.on_demand
    openmetrics = "application/openmetrics-text" in request.headers.get("accept", "")
    view = swarm.view()

    def draw() -> Body:
        registry = CollectorRegistry()
        if view.snapshot is not None and not view.stale:
            registry.register(ServerCollector(view.snapshot))
        return exposition(registry, openmetrics=openmetrics)

    async def make() -> Body:
        return await demand.draw(draw)

    return await demand.get(f"/metrics/servers#{openmetrics}", make)  # not under its path: it has two forms


def exposition(registry: CollectorRegistry, *, openmetrics: bool) -> Body:
    """Return what a registry collects, in the text format that the scraper asked for, compressed as it likes."""
    return Body.make(
        generate_openmetrics(registry) if openmetrics else generate_latest(registry),
        OPENMETRICS if openmetrics else TEXT,
        headers={"cache-control": "no-store"},
        vary="Accept, Accept-Encoding",
    )


class ApiMetrics(Collector):
    """What this process says of itself."""

    def __init__(self, table: BodyTable) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        for shared in (stored.REFUSED, tasks.FAILURES, tasks.UP):
            self.registry.register(shared)
        self._table = table
        self.desk: ReachabilityDesk | None = None
        self.swarm: Swarm | None = None
        self.now: Callable[[], float] = time.time
        """Unix seconds by the clock that the monitor's processes share."""
        self.subscribers = 0
        self.requests = Counter(
            "petals_api_requests",
            "Requests that went through the router, by route and status.",
            ["route", "status"],
            registry=self.registry,
        )
        self.in_flight = Gauge("petals_api_requests_in_flight", "Requests being answered.", registry=self.registry)
        self.duration = Histogram(
            "petals_api_request_duration_seconds",
            "From request to the start of its answer, by route.",
            ["route"],
            buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 9, 10),
            registry=self.registry,
        )
        self._reply_lag = Histogram(
            "petals_api_reply_lag_seconds",
            "From a worker's verdict to its arrival here, for all replies.",
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
            registry=self.registry,
        )
        self.registry.register(self)

    def replied(self, answer: Answer) -> None:
        self._reply_lag.observe(max(0.0, self.now() - answer.checked_at))

    def collect(self) -> Iterator[Metric]:
        cached = CounterMetricFamily(
            "petals_api_cached_responses", "Requests answered from ready bodies, by path.", labels=["path"]
        )
        for path, count in tuple(self._table.served.items()):
            cached.add_metric([path], count)
        yield cached
        yield GaugeMetricFamily("petals_api_event_subscribers", "Open event streams.", value=self.subscribers)
        if self.desk is not None:
            yield GaugeMetricFamily("petals_api_checks_waiting", "Callers that wait now.", value=self.desk.waiting)
        if self.swarm is not None:
            yield GaugeMetricFamily("petals_api_redis_connected", "1 while Redis answers.", value=self.swarm.connected)
            if self.swarm.snapshot is not None:
                yield GaugeMetricFamily(
                    "petals_api_snapshot_age_seconds",
                    "Age of the snapshot that this replica shows; the swarm's own metrics are on the public port.",
                    value=self.swarm.snapshot.age(self.now()),
                )

    def serve(self, port: int, host: str = "127.0.0.1") -> None:
        """Serve `/metrics` on a private port from a thread of its own."""
        start_http_server(port, host, registry=self.registry)


class RequestMetrics:
    """Counts and times what goes through the router, by route, so that no client can add series."""

    def __init__(self, app: ASGIApp, metrics: ApiMetrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def observe(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self.metrics.duration.labels(_route(scope)).observe(time.perf_counter() - started)
            await send(message)

        with self.metrics.in_flight.track_inprogress():
            try:
                await self.app(scope, receive, observe)
            finally:
                self.metrics.requests.labels(_route(scope), status).inc()


def _route(scope: Scope) -> str:
    """The matched route's template: `/servers/{peer_id}`."""
    path: str | None = getattr(scope.get("route"), "path", None)
    if path is not None:
        return path
    return "/static" if scope["path"].startswith("/static/") and scope.get("endpoint") else UNROUTED
