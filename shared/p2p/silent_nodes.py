"""This module remembers which nodes of the swarm were silent a moment ago, so that their silence is paid for once.

A silent node costs whoever asks it a whole time-out. On the Internet some nodes always are: behind a firewall, gone
without a word, frozen.
"""

from __future__ import annotations

import time

REMEMBERED_FOR = 60.0
"""Seconds for which a silent node is not waited for."""
MAX_REMEMBERED = 10_000


class SilentNodes:
    """Peer ids, in whatever form the caller uses, and until when each is left out."""

    def __init__(self, remembered_for: float = REMEMBERED_FOR) -> None:
        self._remembered_for = remembered_for
        self._until: dict[object, float] = {}

    def __contains__(self, peer: object) -> bool:
        return self._until.get(peer, 0.0) > time.monotonic()

    def __len__(self) -> int:
        now = time.monotonic()
        return sum(until > now for until in self._until.values())

    def add(self, peer: object) -> None:
        """Leave this node out for a while."""
        if len(self._until) >= MAX_REMEMBERED:
            del self._until[next(iter(self._until))]
        self._until.pop(peer, None)
        self._until[peer] = time.monotonic() + self._remembered_for

    def discard(self, peer: object) -> None:
        """Ask this node again: it answered."""
        self._until.pop(peer, None)
