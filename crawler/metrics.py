"""This module exports the metrics of the crawler's own process on its private port. The api exports the swarm's."""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from redis.exceptions import RedisError

from shared.inference import InferenceOutcome
from shared.process_metrics import ProcessRegistry
from shared.store import stored

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import Metric
    from redis.asyncio import Redis

    from crawler.observe.observation import Observation
    from shared.snapshot import Snapshot

PHASES = ("join", "look_up", "dial", "self_check", "publish", "record")
REDIS_EVERY = 10.0
"""Seconds between two reads of Redis's memory use."""


class CrawlerMetrics(ProcessRegistry, Collector):
    """One registry per crawler; `main` decides whether it is served."""

    def __init__(self) -> None:
        super().__init__()
        self.leading = self.gauge("petals_crawler_leading", "1 while this crawler holds the lease.")
        self.elections = self.counter("petals_crawler_elections", "Times that this crawler took the lead.")
        self._crawls = self.counter("petals_crawler_crawls", "Crawls by how they ended.", ["outcome"])
        self._duration = self.histogram(
            "petals_crawler_crawl_duration_seconds",
            "Duration of crawls that saw the swarm.",
            buckets=(0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300),
        )
        self._phase = self.histogram(
            "petals_crawler_phase_duration_seconds",
            "Duration of a crawl's phases. Dials begin during the lookups; the dial phase is the part after them.",
            ["phase"],
            buckets=(0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
        )
        self._last_success = self.gauge(
            "petals_crawler_last_success_timestamp_seconds", "When a crawl last saw the swarm."
        )
        self._refused = self.counter("petals_crawler_records_refused", "DHT records refused, by reason.", ["reason"])
        self._refused_addresses = self.counter(
            "petals_crawler_addresses_refused", "Addresses of servers that are not dialled, by reason.", ["reason"]
        )
        self._lookups = self.counter(
            "petals_crawler_lookups", "DHT keys looked up, by whether they answered.", ["outcome"]
        )
        self._dials = self.counter(
            "petals_crawler_dials", "Servers dialled, by verdict, stage and cause.", ["verdict", "stage", "cause"]
        )
        self._connect = self.histogram(
            "petals_crawler_connect_duration_seconds",
            "From the start of a connection to its first answer, for servers that were reached.",
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
        )
        self.notices = self.counter(
            "petals_crawler_incident_notices",
            "Deliveries to webhook and services by how they ended.",
            ["outcome"],
        )
        self.inference_checks = self.counter(
            "petals_inference_checks", "Inference checks of servers by how they ended.", ["outcome"]
        )
        self._redis_up = self.gauge("petals_redis_up", "1 while Redis answers the crawler.")
        self._memory: tuple[float, float] | None = None
        """Redis's used_memory and maxmemory; None until Redis has answered."""
        self.registry.register(self)
        for outcome in ("ok", "failed"):
            self._crawls.labels(outcome)
        for outcome in ("answered", "unanswered"):
            self._lookups.labels(outcome)
        for outcome in ("delivered", "failed", "given_up"):
            self.notices.labels(outcome)
        for outcome in InferenceOutcome:
            self.inference_checks.labels(outcome)
        for phase in PHASES:
            self._phase.labels(phase)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure how long the block takes, in seconds."""
        started = time.monotonic()
        try:
            yield
        finally:
            self._phase.labels(name).observe(time.monotonic() - started)

    def observed(self, observation: Observation) -> None:
        """Count what the crawl did, whether or not it is published."""
        for phase, seconds in observation.phases.items():
            self._phase.labels(phase).observe(seconds)
        self._lookups.labels("answered").inc(observation.answered_keys)
        self._lookups.labels("unanswered").inc(observation.unanswered_keys)
        for reason, count in observation.refused_addresses.items():
            self._refused_addresses.labels(reason).inc(count)
        for outcome in observation.dials.values():
            self._dials.labels(outcome.verdict, outcome.stage, outcome.cause or "none").inc()
            if outcome.rtt is not None:
                self._connect.observe(outcome.rtt)

    def crawled(self, snapshot: Snapshot) -> None:
        self._crawls.labels("ok").inc()
        self._duration.observe(snapshot.update_duration)
        self._last_success.set(snapshot.taken_at)
        for reason, count in snapshot.refused.by_reason.items():
            self._refused.labels(reason).inc(count)

    def failed(self) -> None:
        self._crawls.labels("failed").inc()

    async def watch_redis(self, redis: Redis) -> None:
        """Read Redis's memory use until cancelled. Crawler, api and workers fill it together."""
        while True:
            try:
                memory = await redis.info("memory")
                self._redis_up.set(1)
                self._memory = stored.read("info", _memory, memory)
            except (RedisError, OSError):
                self._redis_up.set(0)
            await asyncio.sleep(REDIS_EVERY)

    def collect(self) -> Iterator[Metric]:
        """Yield Redis's memory use, where it is known."""
        used = GaugeMetricFamily("petals_redis_memory_used_bytes", "Redis's used_memory.")
        limit = GaugeMetricFamily("petals_redis_memory_max_bytes", "Redis's maxmemory; 0 where it has no limit.")
        if self._memory is not None:
            used.add_metric([], self._memory[0])
            limit.add_metric([], self._memory[1])
        yield from (used, limit)


def _memory(info: dict[str, Any]) -> tuple[float, float]:
    return stored.number(info["used_memory"]), stored.number(info.get("maxmemory", 0))
