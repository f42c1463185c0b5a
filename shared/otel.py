"""This module is the only one that imports OpenTelemetry. `shared.tracing` loads it where traces are on.

Spans leave over OTLP/HTTP from a thread of its own with a bounded queue; a collector that is away costs spans and
nothing else. The SDK reads its standard variables itself (OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME,
OTEL_RESOURCE_ATTRIBUTES, OTEL_EXPORTER_OTLP_HEADERS, OTEL_BSP_…). No global of OpenTelemetry is set.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import structlog
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.environment_variables import OTEL_SERVICE_NAME
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shared.tracing import Kind, Span, sane

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from opentelemetry.context import Context

    from shared.tracing import Attributes

FLUSH_SECONDS = 2.0
"""Seconds for which an ending process waits for the collector. Spans not sent by then are lost."""

_KINDS = {
    Kind.INTERNAL: trace.SpanKind.INTERNAL,
    Kind.SERVER: trace.SpanKind.SERVER,
    Kind.PRODUCER: trace.SpanKind.PRODUCER,
    Kind.CONSUMER: trace.SpanKind.CONSUMER,
}
# W3C's context only: no baggage, which would carry a stranger's text on.
_propagator = TraceContextTextMapPropagator()
log = structlog.get_logger()


class OtlpTracer:
    """One per process."""

    def __init__(self, service: str) -> None:
        attributes = {SERVICE_INSTANCE_ID: f"{socket.gethostname()}-{os.getpid()}"}
        if OTEL_SERVICE_NAME not in os.environ:
            attributes[SERVICE_NAME] = f"petals-monitor-{service.replace('_', '-')}"
        # The exporter logs each failure several times; `_Exporter` logs the first, and when it is over.
        for name in ("opentelemetry.exporter.otlp.proto.http", "opentelemetry.sdk._shared_internal"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._provider = TracerProvider(resource=Resource.create(attributes), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(_Exporter(OTLPSpanExporter())))
        self._tracer = self._provider.get_tracer("petals-health-monitor")

    @contextmanager
    def span(self, name: str, kind: Kind, parent: str, link: str, attributes: Attributes | None) -> Iterator[OtlpSpan]:
        links = [trace.Link(place)] if (place := _place(link)) is not None else None
        with self._tracer.start_as_current_span(
            name, _context(parent) if parent else None, _KINDS[kind], attributes, links
        ) as begun:
            yield OtlpSpan(self._tracer, begun)

    def current(self) -> OtlpSpan:
        return OtlpSpan(self._tracer, trace.get_current_span())

    def stop(self) -> None:
        flushing = threading.Thread(target=self._provider.shutdown, daemon=True)
        flushing.start()
        flushing.join(FLUSH_SECONDS)


class OtlpSpan(Span):
    """A span that OpenTelemetry records."""

    def __init__(self, tracer: trace.Tracer, span: trace.Span) -> None:
        self._tracer = tracer
        self._span = span

    @property
    def trace_id(self) -> str:
        place = self._span.get_span_context()
        return trace.format_trace_id(place.trace_id) if place.is_valid else ""

    @property
    def traceparent(self) -> str:
        carrier: dict[str, str] = {}
        _propagator.inject(carrier, trace.set_span_in_context(self._span))
        return carrier.get("traceparent", "")

    def name(self, name: str) -> None:
        self._span.update_name(name)

    def set(self, attributes: Attributes) -> None:
        self._span.set_attributes(attributes)

    def fail(self, why: str) -> None:
        self._span.set_status(trace.Status(trace.StatusCode.ERROR, why))

    def link(self, traceparent: str) -> None:
        place = _place(traceparent)
        if place is not None and place.trace_id != self._span.get_span_context().trace_id:
            self._span.add_link(place)

    def stages(self, durations: Mapping[str, float]) -> None:
        at = time.time() - sum(durations.values())
        parent = trace.set_span_in_context(self._span)
        for stage, seconds in durations.items():
            span = self._tracer.start_span(stage, parent, start_time=int(at * 1e9))
            at += seconds
            span.end(int(at * 1e9))


class _Exporter(SpanExporter):
    """Exports spans, and logs one line when the collector becomes unavailable, and one when it is back."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._away = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        away = result is not SpanExportResult.SUCCESS
        if away and not self._away:
            log.warning("the trace collector does not take spans; they are dropped until it does")
        elif self._away and not away:
            log.info("the trace collector takes spans again")
        self._away = away
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


def _context(traceparent: str) -> Context:
    return _propagator.extract({"traceparent": sane(traceparent)})


def _place(traceparent: str) -> trace.SpanContext | None:
    if not traceparent:
        return None
    place = trace.get_current_span(_context(traceparent)).get_span_context()
    return place if place.is_valid else None
