"""This module returns the key of a requested resource: the path, and the query parameters that change the answer.

All other parameters are ignored, so `?utm_source=x` does not render a page again. Lists, searches and checks read their
whole query themselves: they are never found by their resource.
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
}
"""By path, or by the start of the paths below it."""
MAX_QUERY = 2_000
"""Bytes of a query that are read."""


def resource(scope: Scope) -> str:
    """Return the key of prepared responses: the path, and before it the parameters that matter, in a fixed order."""
    given = parameters(scope)
    path: str = scope["path"]
    if not given:
        return path
    chosen = "&".join(f"{name}={quote(value, safe='')}" for name, value in given.items())
    return f"{chosen} {path}"  # a path can hold any character, `?` too; what stands before the first space cannot


def parameters(scope: Scope) -> dict[str, str]:
    """Return the parameters that matter; of several with one name, the last.

    Handlers whose response is prepared read no others: everybody who asks for that resource gets the response.
    """
    query: bytes = scope["query_string"]
    known = _known(scope["path"]) if query else ()
    if not known:
        return {}
    given = dict(parse_qsl(query[:MAX_QUERY].decode("latin-1"), keep_blank_values=True))
    return {name: given[name] for name in known if name in given}


def _known(path: str) -> tuple[str, ...]:
    for start, names in PARAMETERS.items():
        if path == start or (start.endswith("/") and path.startswith(start)):
            return names
    return ()
