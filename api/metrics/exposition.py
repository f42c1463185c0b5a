"""This module writes metrics in Prometheus's text formats."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from prometheus_client import Metric


class Collected(Collector):
    """Collects from other collectors once, so that the result can be written in several formats."""

    def __init__(self, *collectors: Collector) -> None:
        self._families = [family for collector in collectors for family in collector.collect()]

    def collect(self) -> list[Metric]:
        return self._families


def exposition(collector: Collector, *, openmetrics: bool) -> bytes:
    """Return what a collector collects, as OpenMetrics or in the classic text format."""
    return generate_openmetrics(collector) if openmetrics else generate_latest(collector)
