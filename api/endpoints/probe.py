"""`GET /probe?target=PEER_ID`: a reachability check in blackbox_exporter's form, where PROBE_ENDPOINT=on.

A verdict is `probe_success` 1 or 0. Where nobody could look, the answer is a 503 and so `up` is 0: an alert on
`probe_success == 0` never fires because the monitor itself was away.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Gauge

from api.endpoints import checks as reachability
from api.http.problems import Problem
from api.metrics.process import exposition
from shared.reachability import decide
from shared.snapshot import Verdict

if TYPE_CHECKING:
    from starlette.requests import Request

    from api.responses.prepared import Body
    from shared.reachability import Answer

TIMEOUT_HEADER = "x-prometheus-scrape-timeout-seconds"
ANSWER_RESERVE = 0.5
"""Seconds of the scrape's time that are kept to bring the answer back."""


async def probe(request: Request) -> Body:
    """The endpoint. `vantage` asks one vantage point only; 400, 429 and 503 problem documents without a verdict."""
    target = request.query_params.get("target")
    if not target:
        raise Problem(400, "Give a peer id: /probe?target=PEER_ID.")
    started = time.monotonic()
    try:
        async with asyncio.timeout(_time_left(request)):
            answers = await reachability.check(request, target)
    except TimeoutError:
        raise Problem(
            503, "Nobody could look within the scrape's time-out. This says nothing about the peer."
        ) from None
    openmetrics = "application/openmetrics-text" in request.headers.get("accept", "")
    return exposition(_metrics(answers, time.monotonic() - started), openmetrics=openmetrics)


def _time_left(request: Request) -> float:
    deadline: float = request.app.state.settings.reachability_deadline
    try:
        scrape_timeout = float(request.headers.get(TIMEOUT_HEADER, ""))
    except ValueError:
        return deadline
    return min(deadline, max(0.1, scrape_timeout - ANSWER_RESERVE))


def _metrics(answers: list[Answer], seconds: float) -> CollectorRegistry:
    registry = CollectorRegistry()
    decisive = decide(answers)
    outcome = decisive.outcome
    success = Gauge("probe_success", "1 where the peer was reached, 0 where it was not.", registry=registry)
    success.set(outcome.verdict is Verdict.REACHABLE)
    Gauge("probe_duration_seconds", "From question to answer.", registry=registry).set(seconds)
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
