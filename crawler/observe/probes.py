"""This module probes the servers that announce they are online, in an order and a time that no flood can spoil."""

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

MAX_STARTING = 128
"""Probes in their first moments, when they cost work here and in the daemon."""
STARTING_SECONDS = 0.3
"""Seconds after which a probe has ended, or waits for a silent peer and costs only its place."""
LATE_PAUSE = 0.05
SETTLED_EVERY = 0.05
MAX_IN_FLIGHT = 3_500
"""Probes at once: under p2pd's limit (`shared.p2p.daemon.SWARM_DIALS_AT_ONCE`). Each takes one or two of the open files
that the system allows."""


class ProbeQueue:
    """Probes servers as they are added, except while this process is `late`.

    No probe begins that may not end by `until` (monotonic seconds). Silent peers delay nobody: all of them wait at
    the same time, for one timeout in all.
    """

    def __init__(
        self,
        probe: Callable[[str], Awaitable[DialOutcome]],
        *,
        timeout: float,
        until: float,
        late: Callable[[], bool] = lambda: False,
    ) -> None:
        """`probe` takes a peer id and returns within `timeout` seconds."""
        self._probe = probe
        self._late = late
        self._begin_until = until - timeout
        self._waiting: list[tuple[bool, int, str]] = []
        self._added: dict[str, float] = {}
        """By peer id, when it was added (monotonic seconds)."""
        self._starters = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._room = asyncio.Semaphore(min(MAX_IN_FLIGHT, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 3))
        self.outcomes: dict[str, DialOutcome] = {}
        """By peer id, of the probes that have ended."""

    @property
    def added(self) -> int:
        """Number of servers that were probed, are being probed, or wait for it."""
        return len(self._added)

    def add(self, peer_id: str, *, known: bool, rank: int) -> None:
        """Probe this server too, once: `known` ones first, then by `rank`, its number among its model's servers."""
        if peer_id in self._added:
            return
        self._added[peer_id] = time.monotonic()
        heapq.heappush(self._waiting, (not known, rank, peer_id))
        if self._starters < MAX_STARTING:
            self._starters += 1
            self._tasks.append(awaited(self._start_probes()))

    async def _start_probes(self) -> None:
        try:
            while True:
                await self._room.acquire()
                while self._late() and time.monotonic() <= self._begin_until:  # noqa: ASYNC110 - nothing signals its end
                    await asyncio.sleep(LATE_PAUSE)
                if not self._waiting or time.monotonic() > self._begin_until:
                    self._room.release()
                    return
                _, _, peer_id = heapq.heappop(self._waiting)
                task = awaited(self._probe_one(peer_id))
                self._tasks.append(task)
                await asyncio.wait({task}, timeout=STARTING_SECONDS)
        finally:
            self._starters -= 1

    async def _probe_one(self, peer_id: str) -> None:
        try:
            self.outcomes[peer_id] = await self._probe(peer_id)
        finally:
            self._room.release()

    async def finish(self) -> None:
        """Wait for all probes that there is time for. Nothing may be added after it."""
        done = 0
        while done < len(self._tasks):
            tasks = self._tasks[done:]
            done += len(tasks)
            await asyncio.gather(*tasks)

    async def settled(self, seconds: float) -> None:
        """Wait until each probe has ended, or has had so many seconds since its server was added."""
        while any(  # noqa: ASYNC110 - most of it is waiting for time to pass
            peer_id not in self.outcomes and time.monotonic() < added + seconds
            for peer_id, added in self._added.items()
        ):
            await asyncio.sleep(SETTLED_EVERY)

    async def close(self) -> None:
        """Cancel the probes that have not ended."""
        while tasks := [task for task in self._tasks if not task.done()]:
            await end(*tasks)
