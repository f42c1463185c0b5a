"""This module shows a reachability check as metrics, in blackbox_exporter's form."""

from __future__ import annotations

from functools import partial
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
    gauge = partial(Gauge, registry=registry)
    decisive = decide(answers)
    outcome = decisive.outcome
    success = gauge("probe_success", "1 where the peer was reached, 0 where it was not.")
    success.set(outcome.verdict is Verdict.REACHABLE)
    gauge("probe_duration_seconds", "From request to answer.").set(seconds)
    stages = gauge("probe_stage_duration_seconds", "Duration by stage; `queue` is all that was not probing.", ["stage"])
    for stage, duration in outcome.durations.items():
        stages.labels(stage).set(duration)
    stages.labels("queue").set(max(0.0, seconds - sum(outcome.durations.values())))
    result = gauge("probe_result_info", "How far the probe came, and why no further.", ["stage", "cause"])
    result.labels(outcome.stage, outcome.cause or "none").set(1)
    gauge("probe_checked_timestamp_seconds", "When a worker probed.").set(decisive.checked_at)
    if outcome.rtt is not None:
        gauge("probe_connect_duration_seconds", "To connect and prove who it is.").set(outcome.rtt)
    if outcome.relayed is not None:
        gauge("probe_relayed", "1 where the connection leads through a relay.").set(outcome.relayed)
    vantages = gauge("probe_vantage_success", "The same for each vantage point.", ["vantage"])
    for answer in answers:
        if answer.outcome.verdict is not Verdict.UNKNOWN:
            vantages.labels(answer.vantage).set(answer.outcome.verdict is Verdict.REACHABLE)
    return registry
