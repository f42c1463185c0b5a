"""The spans of a check, where traces are on: the job in OpenTelemetry's words for messaging, each dial by stage."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import structlog

from shared import tracing
from shared.snapshot import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reachability_worker.job import Check
    from shared.reachability import DialOutcome


@contextmanager
def check_span(check: Check, queue: str) -> Iterator[tracing.Span]:
    """A span that goes on with the trace of the request that began the check, and names it in the logs."""
    with tracing.span(
        f"process {queue}",
        tracing.Kind.CONSUMER,
        parent=check.traceparent,
        attributes={
            "messaging.system": "rq",
            "messaging.operation.type": "process",
            "messaging.operation.name": "process",
            "messaging.destination.name": queue,
            "messaging.message.id": check.job_id,
            "petals.peer_id": check.peer_id,
            "petals.request_id": check.request_id,
        },
    ) as span:
        if span.trace_id:
            structlog.contextvars.bind_contextvars(trace_id=span.trace_id)
        yield span


def note_outcome(span: tracing.Span, outcome: DialOutcome) -> None:
    """Say what a look or a dial found. Only "nobody could look" is an error of ours."""
    span.set(
        {
            "petals.verdict": str(outcome.verdict),
            "petals.stage": str(outcome.stage),
            "petals.cause": str(outcome.cause or "none"),
        }
    )
    if outcome.verdict is Verdict.UNKNOWN:
        span.fail(str(outcome.cause))
