"""This module lists media types, and the headers that several responses have in common."""

from __future__ import annotations

HTML = "text/html; charset=utf-8"
TEXT = "text/plain; charset=utf-8"
SVG = "image/svg+xml"
PNG = "image/png"
ATOM = "application/atom+xml; charset=utf-8"
EVENT_STREAM = "text/event-stream"
PROBLEM_JSON = "application/problem+json"
JSON = "application/json"
METRICS_TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
CORS = {
    "access-control-allow-origin": "*",
    "access-control-expose-headers": "ETag, Link, Retry-After, RateLimit, RateLimit-Policy, X-Request-ID",
}
"""Of every answer of the API, errors too: anyone's page may read it."""
PREFLIGHT = {
    **CORS,
    "access-control-allow-methods": "GET, HEAD",
    "access-control-allow-headers": "*",
    "access-control-max-age": "86400",
    "allow": "GET, HEAD, OPTIONS",
}
_API_STARTS = ("/api/", "/badge/", "/data/")
_API_PATHS = frozenset({"/swarm.txt", "/events", "/incidents.atom", "/reports.atom", "/openapi.json"})
SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "geolocation=(), camera=(), microphone=()",
}


def is_api(path: str) -> bool:
    """Whether programs, and so other sites' pages, are served there."""
    return path.startswith(_API_STARTS) or path in _API_PATHS
