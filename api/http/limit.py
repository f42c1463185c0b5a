"""This module parses the query parameter `limit`."""

from __future__ import annotations

from api.http.problems import Problem


def parse_limit(given: str | None, maximum: int, default: int | None = None) -> int:
    """Return the number of entries to send: `default`, else `maximum`, where none is given. Raises a 400 `Problem`."""
    if given is None:
        return maximum if default is None else default
    if not given.isascii() or not given.isdigit() or len(given) > len(str(maximum)) or not 1 <= int(given) <= maximum:
        raise Problem(400, f"Bad limit {given[:50]!r}: expected a number from 1 to {maximum}.")
    return int(given)
