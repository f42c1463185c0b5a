"""This module reads `?limit=`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.http.problems import Problem

if TYPE_CHECKING:
    from starlette.requests import Request


def limit_of(request: Request, maximum: int) -> int:
    """Return how many entries are asked for, by default as many as there may be. Raises a 400 `Problem`."""
    given = request.query_params.get("limit")
    if given is None:
        return maximum
    if not given.isascii() or not given.isdigit() or len(given) > len(str(maximum)) or not 1 <= int(given) <= maximum:
        raise Problem(400, f"Bad limit {given[:50]!r}: expected a number from 1 to {maximum}.")
    return int(given)
