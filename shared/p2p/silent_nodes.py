"""This module remembers for a minute which nodes did not answer in time, so that each costs one timeout.

Some nodes of a swarm on the Internet never answer: they are behind a firewall, frozen, or stopped without leaving.
"""

from __future__ import annotations

import time

REMEMBERED_FOR = 60.0
"""Seconds for which no request is sent to a silent node."""
MAX_REMEMBERED = 10_000


class SilentNodes:
    """Peer ids, in the form that the caller uses, and until when each is left out."""

    def __init__(self) -> None:
        self._until: dict[object, float] = {}

    def __contains__(self, peer: object) -> bool:
        return self._until.get(peer, 0.0) > time.monotonic()

    def __len__(self) -> int:
        now = time.monotonic()
        return sum(until > now for until in self._until.values())

    def add(self, peer: object) -> None:
        """Leave this node out for a minute."""
        if len(self._until) >= MAX_REMEMBERED:
            del self._until[next(iter(self._until))]
        self._until.pop(peer, None)
        self._until[peer] = time.monotonic() + REMEMBERED_FOR

    def discard(self, peer: object) -> None:
        """Send requests to this node again: it answered."""
        self._until.pop(peer, None)
