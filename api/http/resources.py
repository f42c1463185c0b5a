"""This module returns the key of a requested resource: the path, and the query parameters that change the answer.

All other parameters are ignored, so `?utm_source=x` does not render a page again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote

if TYPE_CHECKING:
    from starlette.types import Scope

PARAMETERS: dict[str, tuple[str, ...]] = {
    "/swarm.txt": ("color",),
    "/api/v1/incidents": ("limit", "model"),
    "/api/v1/changes": ("limit", "server", "model", "contributor"),
    "/changes.atom": ("server", "model", "contributor"),
    "/api/v1/history/models/": ("resolution",),
    "/badge/": ("metric",),
    "/help": ("gpu",),
    "/search": ("q",),
    "/api/v1/search": ("q",),
    "/check": ("q",),
}
"""By path, or by the start of the paths below it."""
MAX_QUERY = 2_000
"""Bytes of a query that are read."""


def resource(scope: Scope) -> str:
    """Return the path and the parameters that matter, in a fixed order: the key of prepared responses."""
    path: str = scope["path"]
    query: bytes = scope["query_string"]
    if not query:
        return path
    known = _parameters(path)
    if not known:
        return path
    given = dict(reversed(parse_qsl(query[:MAX_QUERY].decode("latin-1"), keep_blank_values=True)))
    chosen = "&".join(f"{name}={quote(given[name], safe='')}" for name in known if name in given)
    return f"{path}?{chosen}" if chosen else path


def _parameters(path: str) -> tuple[str, ...]:
    for start, names in PARAMETERS.items():
        if path == start or (start.endswith("/") and path.startswith(start)):
            return names
    return ()
