"""This module makes the trace spans of a check, with OpenTelemetry's attribute names for messaging."""

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
    """Open a span in the trace of the request that began the check; log lines inside carry its trace id."""
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
    """Add a probe's outcome to its span. Only an unknown verdict ("nobody could look") marks the span as failed."""
    span.set(
        {
            "petals.verdict": str(outcome.verdict),
            "petals.stage": str(outcome.stage),
            "petals.cause": str(outcome.cause or "none"),
        }
    )
    if outcome.verdict is Verdict.UNKNOWN:
        span.fail(str(outcome.cause))
