"""Dial the servers that say they are online, in an order and within a time that no flood of others can spoil."""

from __future__ import annotations

import asyncio
import heapq
import resource
import time
from typing import TYPE_CHECKING

from shared.tasks import awaited, end

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from shared.reachability import DialOutcome

SETTLING_AT_ONCE = 128
"""Dials in their first second, which is when they cost work, here and in the daemon."""
SETTLES_WITHIN = 0.3
"""Seconds after which a dial has answered, or waits for a silent peer and costs nothing but its place."""
BUSY_PAUSE = 0.05
DIALS_AT_ONCE = 3_500
"""Dials in all: under p2pd's limit (`shared.p2p.daemon.SWARM_DIALS_AT_ONCE`). Each takes a file or two, of those
that the system allows."""


class DialQueue:
    """Begins to dial as servers are added, unless this machine is `busy`.

    No dial begins that may not end by `until` (monotonic seconds). Silent peers do not hold up the others: they
    wait together, for one deadline in all.
    """

    def __init__(
        self,
        dial: Callable[[str], Awaitable[DialOutcome]],
        *,
        longest: float,
        until: float,
        busy: Callable[[], bool] = lambda: False,
    ) -> None:
        self._dial = dial
        self._busy = busy
        self._begin_until = until - longest
        self._waiting: list[tuple[bool, int, str]] = []
        self._added: set[str] = set()
        self._starters = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._room = asyncio.Semaphore(min(DIALS_AT_ONCE, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 3))
        self.outcomes: dict[str, DialOutcome] = {}

    @property
    def left_out(self) -> int:
        """Servers that there was no time to dial: nobody looked at them."""
        return len(self._waiting)

    @property
    def added(self) -> int:
        """Servers in all: dialled, being dialled, or waiting for it."""
        return len(self._added)

    def add(self, peer_id: str, *, known: bool, turn: int) -> None:
        """Dial this one too: `known` ones first, then by `turn`, in which each model's servers are counted."""
        if peer_id in self._added:
            return
        self._added.add(peer_id)
        heapq.heappush(self._waiting, (not known, turn, peer_id))
        if self._starters < SETTLING_AT_ONCE:
            self._starters += 1
            self._tasks.append(awaited(self._start_dials()))

    async def _start_dials(self) -> None:
        try:
            while True:
                await self._room.acquire()
                while self._busy():  # noqa: ASYNC110 - nothing tells when it ends
                    await asyncio.sleep(BUSY_PAUSE)
                if not self._waiting or time.monotonic() > self._begin_until:
                    self._room.release()
                    return
                _, _, peer_id = heapq.heappop(self._waiting)
                dial = awaited(self._dial_one(peer_id))
                self._tasks.append(dial)
                await asyncio.wait({dial}, timeout=SETTLES_WITHIN)
        finally:
            self._starters -= 1

    async def _dial_one(self, peer_id: str) -> None:
        try:
            self.outcomes[peer_id] = await self._dial(peer_id)
        finally:
            self._room.release()

    async def finish(self) -> None:
        """Wait for all that can be done in time. Nothing may be added after it."""
        done = 0
        while done < len(self._tasks):
            tasks = self._tasks[done:]
            done += len(tasks)
            await asyncio.gather(*tasks)

    async def close(self) -> None:
        """Give up the dials that have not ended."""
        while tasks := [task for task in self._tasks if not task.done()]:
            await end(*tasks)
