"""Dial the servers that say they are online, in an order and within a time that no flood of others can spoil."""

from __future__ import annotations

import asyncio
import heapq
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from shared.reachability import DialOutcome

DIALS_AT_ONCE = 512


class DialQueue:
    """Begins to dial as servers are added. No dial begins that may not end by `until` (monotonic seconds)."""

    def __init__(self, dial: Callable[[str], Awaitable[DialOutcome]], *, longest: float, until: float) -> None:
        self._dial = dial
        self._begin_until = until - longest
        self._waiting: list[tuple[bool, int, str]] = []
        self._added: set[str] = set()
        self._workers = 0
        self._tasks: list[asyncio.Task[None]] = []
        self.outcomes: dict[str, DialOutcome] = {}

    @property
    def left_out(self) -> int:
        """Servers that there was no time to dial: nobody looked at them."""
        return len(self._waiting)

    def add(self, peer_id: str, *, known: bool, turn: int) -> None:
        """Dial this one too: `known` ones first, then by `turn`, in which each model's servers are counted."""
        if peer_id in self._added:
            return
        self._added.add(peer_id)
        heapq.heappush(self._waiting, (not known, turn, peer_id))
        if self._workers < DIALS_AT_ONCE:
            self._workers += 1
            self._tasks.append(asyncio.create_task(self._work()))

    async def _work(self) -> None:
        try:
            while self._waiting and time.monotonic() <= self._begin_until:
                _, _, peer_id = heapq.heappop(self._waiting)
                self.outcomes[peer_id] = await self._dial(peer_id)
        finally:
            self._workers -= 1

    async def finish(self) -> None:
        """Wait for all that can be done in time. Nothing may be added after it."""
        await asyncio.gather(*self._tasks)

    def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()
