"""This module holds the metrics of one process, which it serves on its private port."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, start_http_server

from shared import tasks
from shared.store import stored

if TYPE_CHECKING:
    from collections.abc import Callable


class ProcessRegistry:
    """A registry with what every process counts. `counter`, `gauge` and `histogram` add a metric to it."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        for shared in (stored.REFUSED, tasks.FAILURES, tasks.UP):
            self.registry.register(shared)
        self.counter: Callable[..., Counter] = partial(Counter, registry=self.registry)
        self.gauge: Callable[..., Gauge] = partial(Gauge, registry=self.registry)
        self.histogram: Callable[..., Histogram] = partial(Histogram, registry=self.registry)

    def serve(self, port: int, host: str = "127.0.0.1") -> None:
        """Serve `/metrics` from a thread of its own."""
        start_http_server(port, host, registry=self.registry)
