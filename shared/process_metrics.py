"""This module holds the metrics of one process, which it serves on its private port."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from shared import tasks
from shared.store import stored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from prometheus_client import Metric


class ProcessRegistry:
    """A registry with what every process counts. `counter`, `gauge` and `histogram` add a metric to it."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        for shared in (stored.REFUSED, _BackgroundTasks()):
            self.registry.register(shared)
        self.counter: Callable[..., Counter] = partial(Counter, registry=self.registry)
        self.gauge: Callable[..., Gauge] = partial(Gauge, registry=self.registry)
        self.histogram: Callable[..., Histogram] = partial(Histogram, registry=self.registry)

    def serve(self, port: int, host: str = "127.0.0.1") -> None:
        """Serve `/metrics` from a thread of its own. Raises `OSError`."""
        try:
            start_http_server(port, host, registry=self.registry)
        except OSError as error:
            error.add_note(f"This is the port of the process's own metrics, {host}:{port}.")
            raise


class _BackgroundTasks(Collector):
    """What `shared.tasks` has recorded."""

    def collect(self) -> Iterable[Metric]:
        failures = CounterMetricFamily(
            "petals_background_task_failures",
            "Background tasks that ended with an error, or that ended where they should go on.",
            labels=["task"],
        )
        up = GaugeMetricFamily(
            "petals_background_task_up",
            "1 while a loop of this process runs; 0 from its failure until it has run for two seconds again.",
            labels=["task"],
        )
        for name, record in tuple(tasks.records.items()):  # a copy: this is another thread
            failures.add_metric([name], record.failures, created=record.since)
            if record.up is not None:
                up.add_metric([name], record.up)
        return failures, up
