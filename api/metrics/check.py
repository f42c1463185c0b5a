"""This module shows a reachability check as metrics, in blackbox_exporter's form."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Gauge

from shared.reachability import decide
from shared.snapshot import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.reachability import Answer


def check_metrics(answers: Sequence[Answer], seconds: float) -> CollectorRegistry:
    """Return the metrics of one check, which took so many seconds; of the decisive answer and of each vantage point."""
    registry = CollectorRegistry()
    decisive = decide(answers)
    outcome = decisive.outcome
    success = Gauge("probe_success", "1 where the peer was reached, 0 where it was not.", registry=registry)
    success.set(outcome.verdict is Verdict.REACHABLE)
    Gauge("probe_duration_seconds", "From request to answer.", registry=registry).set(seconds)
    stages = Gauge(
        "probe_stage_duration_seconds",
        "Duration by stage; `queue` is all that was not looking.",
        ["stage"],
        registry=registry,
    )
    for stage, duration in outcome.durations.items():
        stages.labels(stage).set(duration)
    stages.labels("queue").set(max(0.0, seconds - sum(outcome.durations.values())))
    result = Gauge(
        "probe_result_info", "How far the look came, and why no further.", ["stage", "cause"], registry=registry
    )
    result.labels(outcome.stage, outcome.cause or "none").set(1)
    Gauge("probe_checked_timestamp_seconds", "When a worker looked.", registry=registry).set(decisive.checked_at)
    if outcome.rtt is not None:
        Gauge("probe_connect_duration_seconds", "To connect and prove who it is.", registry=registry).set(outcome.rtt)
    if outcome.relayed is not None:
        Gauge("probe_relayed", "1 where the way leads through a relay.", registry=registry).set(outcome.relayed)
    vantages = Gauge("probe_vantage_success", "The same for each vantage point.", ["vantage"], registry=registry)
    for answer in answers:
        if answer.outcome.verdict is not Verdict.UNKNOWN:
            vantages.labels(answer.vantage).set(answer.outcome.verdict is Verdict.REACHABLE)
    return registry
