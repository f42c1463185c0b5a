"""This module makes a prepared response of each kind (page, JSON, feed, picture, …), with the headers it needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from api.http.headers import ATOM, CORS, HTML, JSON, METRICS_TEXT, OPENMETRICS, PNG, SECURITY_HEADERS, SVG, TEXT
from api.responses.prepared import PreparedResponse
from api.responses.read_through import FRESH_SECONDS
from shared.text_picture import text_picture

if TYPE_CHECKING:
    from shared.judgement.freshness import Freshness
    from shared.snapshot import Snapshot

BY_ACCEPT = "Accept, Accept-Encoding"
"""`Vary` of what has a second form."""
BADGE_SECONDS, UNKNOWN_BADGE_SECONDS = 60, 5
"""For which caches may keep a badge."""
BADGE_ROUTE = "/badge/{dht_prefix}.svg"
TEXT_PATH, COLORED = "/swarm.txt", "color=1 /swarm.txt"
"""Resources (`api.http.resources`)."""


def page(html: str) -> PreparedResponse:
    """Return a page. Call it in a thread, like the others here: compressing takes milliseconds."""
    headers = {**SECURITY_HEADERS, "cache-control": "no-cache"}
    return PreparedResponse.make(html.encode(), HTML, headers=headers)


def document(content: msgspec.Struct) -> PreparedResponse:
    """Return a JSON document, which caches may keep for as long as this process does."""
    headers = {**CORS, "cache-control": f"public, max-age={FRESH_SECONDS:.0f}"}
    return PreparedResponse.make(msgspec.json.encode(content), JSON, headers=headers)


def picture(png: bytes) -> PreparedResponse:
    """Return a picture that any site may show."""
    return PreparedResponse.make(png, PNG, headers=badge_headers(BADGE_SECONDS))


def framed_page(html: str) -> PreparedResponse:
    """Return a page that any site may show in a frame, and that runs no script."""
    headers = {
        **SECURITY_HEADERS,
        "content-security-policy": (
            "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; frame-ancestors *"
        ),
        "cache-control": f"public, max-age={BADGE_SECONDS}",
    }
    return PreparedResponse.make(html.encode(), HTML, headers=headers)


def feed(xml: str, coding: str | None = None) -> PreparedResponse:
    """Return an Atom feed, which names the address that it was asked for under; compressed in one coding, if given."""
    headers = {**CORS, "cache-control": f"public, max-age={FRESH_SECONDS:.0f}"}
    return PreparedResponse.make(xml.encode(), ATOM, headers=headers, vary="Host, Accept-Encoding", coding=coding)


def badge(svg: str) -> PreparedResponse:
    """Return a badge of a model."""
    return PreparedResponse.make(svg.encode(), SVG, headers=badge_headers(BADGE_SECONDS), route=BADGE_ROUTE)


def badge_headers(seconds: int) -> dict[str, str]:
    """Return the headers of a picture that any site may show and caches may keep for so long."""
    return {
        **CORS,
        "cache-control": f"public, max-age={seconds}",
        "content-security-policy": "default-src 'none'",
        "x-content-type-options": "nosniff",
    }


def swarm_text(snapshot: Snapshot, freshness: Freshness, *, color: bool) -> PreparedResponse:
    """Return the swarm as a picture of text."""
    content = text_picture(snapshot, freshness, color=color).encode()
    return PreparedResponse.make(content, TEXT, headers=CORS, vary=BY_ACCEPT, route=TEXT_PATH)


def metrics(content: bytes, *, openmetrics: bool) -> PreparedResponse:
    """Return metrics in one of Prometheus's text formats."""
    return PreparedResponse.make(
        content,
        OPENMETRICS if openmetrics else METRICS_TEXT,
        # Never from a proxy's cache: an age that stands still would hide that the monitor is down.
        headers={"cache-control": "no-store"},
        vary=BY_ACCEPT,
    )
