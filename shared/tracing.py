"""This module makes trace spans. Traces are off, and OpenTelemetry is not loaded, unless an endpoint is set.

The services import only this module. `start` puts OpenTelemetry (`shared.otel`) behind it; until then every span is
`NO_SPAN`. A span's place in its trace crosses processes as a W3C `traceparent`, a string that is empty where there
is none.
"""

from __future__ import annotations

import re
from contextlib import nullcontext
from enum import StrEnum
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    from shared.otel import OtlpTracer

Attributes = dict[str, str | int | float | bool]

log = structlog.get_logger()

# Version 00, which is all that we write. A later version from a caller is not taken over.
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def sane(traceparent: str) -> str:
    """Return a `traceparent` that is one, and nothing for any other text, which is hostile."""
    return traceparent if _TRACEPARENT.fullmatch(traceparent) else ""


class Kind(StrEnum):
    INTERNAL = "internal"
    SERVER = "server"
    PRODUCER = "producer"
    CONSUMER = "consumer"


class Span:
    """A piece of work with a name, a beginning and an end. Its methods never raise.

    Those of this class do nothing: traces are off. `shared.otel.OtlpSpan` is a span that is recorded.
    """

    @property
    def trace_id(self) -> str:
        """32 hex digits, for logs; empty where nothing is traced."""
        return ""

    @property
    def traceparent(self) -> str:
        """What another process needs to go on with this trace; empty where nothing is traced."""
        return ""

    def name(self, name: str) -> None:
        """Rename the span."""

    def set(self, attributes: Attributes) -> None:
        """Add attributes, in OpenTelemetry's names."""

    def fail(self, why: str) -> None:
        """Mark it as an error of ours; that a peer is unreachable is none."""

    def link(self, traceparent: str) -> None:
        """Point to a span of another trace; nothing happens where it is of this one, or is none."""

    def stages(self, durations: Mapping[str, float]) -> None:
        """Add a child for each stage, in seconds, one after the other: the last one ends now."""


NO_SPAN = Span()
_no_span = nullcontext(NO_SPAN)
_tracer: OtlpTracer | None = None


def start(endpoint: str | None, service: str) -> None:
    """Trace this process if there is somewhere to send spans to. Where the extra is missing, say so and go on."""
    global _tracer  # noqa: PLW0603 - a process is traced or it is not
    if not endpoint:
        return
    try:
        from shared import otel  # noqa: PLC0415 - loaded where it is wanted
    except ImportError as error:
        log.warning("OTEL_EXPORTER_OTLP_ENDPOINT is set, but the extra [tracing] is not installed", error=str(error))
        return
    _tracer = otel.OtlpTracer(service)


def stop() -> None:
    """Send what is left, for a short while, and end. Blocks: call it in a thread."""
    global _tracer
    if _tracer is not None:
        tracer, _tracer = _tracer, None
        tracer.stop()


def span(
    name: str, kind: Kind = Kind.INTERNAL, *, parent: str = "", link: str = "", attributes: Attributes | None = None
) -> AbstractContextManager[Span]:
    """Begin a span that is current inside of `with`: a child of `parent`, else of the current one, else a new trace."""
    return _no_span if _tracer is None else _tracer.span(name, kind, parent, link, attributes)


def current() -> Span:
    return NO_SPAN if _tracer is None else _tracer.current()
