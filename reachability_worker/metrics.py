"""This module exports the metrics of a worker's own process on its private port."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.process_metrics import ProcessRegistry

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shared.reachability import DialOutcome

DHT_NODE, PROBER_NODE = "guide", "dialler"
"""Label values of `petals_worker_nodes_opened{role}`, which have shipped."""
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 7.5, 10)


class WorkerMetrics(ProcessRegistry):
    """One registry per worker; `main` decides whether it is served."""

    def __init__(self, vantage: str = "default") -> None:
        super().__init__()
        self._vantage = vantage
        self.takes_checks = self.gauge(
            "petals_worker_looking",
            "1 while this worker's node is fit, all of its loops run, and it takes checks.",
            ["vantage"],
        ).labels(vantage)
        self.in_flight = self.gauge("petals_worker_checks_in_flight", "Checks that run now.")
        self._queue = self.gauge(
            "petals_worker_queue_checks",
            "Checks that wait in the vantage point's queue; all its workers see the same one.",
            ["vantage"],
        ).labels(vantage)
        self._oldest = self.gauge(
            "petals_worker_queue_oldest_age_seconds",
            "For how long the first check in the queue has waited; 0 where none waits.",
            ["vantage"],
        ).labels(vantage)
        self.refused = self.counter("petals_worker_jobs_refused", "Jobs that are not checks.")
        self._refused_addresses = self.counter(
            "petals_worker_addresses_refused", "Addresses of peers that are not dialled, by reason.", ["reason"]
        )
        self._checks = self.counter(
            "petals_worker_checks", "Checks by verdict, stage and cause.", ["vantage", "verdict", "stage", "cause"]
        )
        self._given = self.counter(
            "petals_worker_given_addresses",
            "Dials of addresses that clients gave, by verdict and cause: they are no checks of peers.",
            ["verdict", "cause"],
        )
        self._duration = self.histogram(
            "petals_worker_check_duration_seconds",
            "From the moment a check was taken to its outcome.",
            ["verdict"],
            buckets=BUCKETS,
        )
        self._stages = self.histogram(
            "petals_worker_stage_duration_seconds",
            "Duration of the stages of a probe: lookup, dial, protocol.",
            ["stage"],
            buckets=BUCKETS,
        )
        self.nodes_opened = self.counter(
            "petals_worker_nodes_opened",
            "libp2p daemons started, by role. A prober node (dialler) is replaced every 30 s of use; "
            "a DHT node (guide) is opened once, and again for each time that the node had lost the swarm.",
            ["role"],
        )
        for role in (DHT_NODE, PROBER_NODE):
            self.nodes_opened.labels(role)

    def checked(self, outcome: DialOutcome, seconds: float) -> None:
        self._checks.labels(self._vantage, outcome.verdict, outcome.stage, outcome.cause or "none").inc()
        self._duration.labels(outcome.verdict).observe(seconds)
        for stage, duration in outcome.durations.items():
            self._stages.labels(stage).observe(duration)

    def dialled_given(self, outcome: DialOutcome) -> None:
        self._given.labels(outcome.verdict, outcome.cause or "none").inc()

    def addresses_refused(self, by_reason: Mapping[str, int]) -> None:
        for reason, count in by_reason.items():
            self._refused_addresses.labels(reason).inc(count)

    def queued(self, checks: int, oldest_age: float) -> None:
        self._queue.set(checks)
        self._oldest.set(oldest_age)
