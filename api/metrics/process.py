"""This module holds the metrics of an api process (requests, checks, age of its snapshot), for its private port."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from shared.process_metrics import ProcessRegistry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from prometheus_client import Metric
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from shared.reachability import Answer

UNROUTED = "(none)"


class ProcessMetrics(ProcessRegistry, Collector):
    """Counters and histograms, and gauges that are read from their owners at each scrape."""

    def __init__(
        self,
        *,
        prepared: Callable[[], Mapping[str, int]],
        checks_waiting: Callable[[], int],
        redis_connected: Callable[[], bool],
        snapshot_age: Callable[[], float | None],
        now: Callable[[], float],
    ) -> None:
        """`now` returns Unix seconds by the clock that the monitor's processes share."""
        super().__init__()
        self._prepared = prepared
        self._checks_waiting = checks_waiting
        self._redis_connected = redis_connected
        self._snapshot_age = snapshot_age
        self._now = now
        self.subscribers = 0
        self.requests = self.counter(
            "petals_api_requests", "Requests that went through the router, by route and status.", ["route", "status"]
        )
        self.in_flight = self.gauge("petals_api_requests_in_flight", "Requests being answered.")
        self.duration = self.histogram(
            "petals_api_request_duration_seconds",
            "From request to the start of its answer, by route.",
            ["route"],
            buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 9, 10),
        )
        self._reply_lag = self.histogram(
            "petals_api_reply_lag_seconds",
            "From a worker's verdict to its arrival here, for all replies.",
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
        )
        self.registry.register(self)

    def replied(self, answer: Answer) -> None:
        """Observe how long a worker's reply took to arrive."""
        self._reply_lag.observe(max(0.0, self._now() - answer.checked_at))

    def collect(self) -> Iterator[Metric]:
        cached = CounterMetricFamily(
            "petals_api_cached_responses", "Requests answered with a prepared response, by path.", labels=["path"]
        )
        for path, count in tuple(self._prepared().items()):
            cached.add_metric([path], count)
        yield cached
        yield GaugeMetricFamily("petals_api_event_subscribers", "Open event streams.", value=self.subscribers)
        yield GaugeMetricFamily(
            "petals_api_checks_waiting", "Clients that wait for a check now.", value=self._checks_waiting()
        )
        yield GaugeMetricFamily("petals_api_redis_connected", "1 while Redis answers.", value=self._redis_connected())
        if (age := self._snapshot_age()) is not None:
            yield GaugeMetricFamily(
                "petals_api_snapshot_age_seconds",
                "Age of the snapshot that this replica shows; the swarm's own metrics are on the public port.",
                value=age,
            )


class RequestMetrics:
    """ASGI middleware: counts and times requests by route, not by path, so that clients cannot add series."""

    def __init__(self, app: ASGIApp, metrics: ProcessMetrics) -> None:
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
