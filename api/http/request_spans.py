"""This module records a span per request that a handler answers, where traces are on, in OpenTelemetry's HTTP terms.

A `traceparent` from TRUSTED_NETWORKS is continued. One from anyone else is only linked, so that strangers can neither
add to our traces nor decide which requests are recorded. `tracestate` and baggage are not read. Health probes and event
streams have no spans.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from api.http.client_address import client_address, is_trusted
from api.http.request_id import current_request_id
from shared import tracing

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from api.settings import Networks

UNTRACED = {"/livez", "/readyz", "/events"}
"""Probes say nothing, event streams last for hours."""
MAX_PATH_CHARS = 256
_METHODS = {"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"}
_SERVER_ERROR = 500


class RequestSpans:
    """ASGI middleware, to be used inside of `RequestId`, whose id it records."""

    def __init__(self, app: ASGIApp, trusted: Networks) -> None:
        self.app = app
        self.trusted = trusted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in UNTRACED:
            await self.app(scope, receive, send)
            return
        given = _traceparent(scope)
        trusted = is_trusted(client_address(scope), self.trusted)
        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
        attributes: tracing.Attributes = {
            "http.request.method": method,
            "url.path": scope["path"][:MAX_PATH_CHARS],
            "url.scheme": scope["scheme"],
            "petals.request_id": current_request_id(),
        }
        with tracing.span(
            method,
            tracing.Kind.SERVER,
            parent=given if trusted else "",
            link="" if trusted else given,
            attributes=attributes,
        ) as span:
            if span.trace_id:
                structlog.contextvars.bind_contextvars(trace_id=span.trace_id)

            async def note(message: Message) -> None:
                if message["type"] == "http.response.start":
                    status: int = message["status"]
                    span.set({"http.response.status_code": status})
                    if status >= _SERVER_ERROR:
                        span.fail("")
                await send(message)

            try:
                await self.app(scope, receive, note)
            except Exception:
                span.set({"http.response.status_code": _SERVER_ERROR})  # which another layer is about to send
                raise
            finally:
                route = getattr(scope.get("route"), "path", None)
                if route is not None:
                    span.name(f"{method} {route}")
                    span.set({"http.route": route})


def _traceparent(scope: Scope) -> str:
    """Return the header where there is exactly one and it is sane."""
    values = [value for name, value in scope["headers"] if name == b"traceparent"]
    return tracing.sane(values[0].decode("latin-1")) if len(values) == 1 else ""
