"""This module wakes the event streams that wait for something new, a few per turn of the event loop.

Waking 5,000 of them at once would delay every other request by half a second.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import NamedTuple

HEARTBEAT = 15.0
"""Seconds; proxies close connections on which nothing is sent for a minute."""
WOKEN_AT_ONCE = 20
"""Each takes about 0.1 ms."""


class _Waiting(NamedTuple):
    number: int
    until: float
    """When it gets a heartbeat, in seconds of the loop's clock."""
    woken: asyncio.Future[bool]


class Subscribers:
    """The streams that wait now, the longest waiting first. `keep_waking` must run."""

    def __init__(self) -> None:
        self._waiting: deque[_Waiting] = deque()
        self._next_number = 0
        self._wake_below = 0
        """Streams with a lower number are woken; one that began to wait later has seen what is new."""
        self._news = asyncio.Event()

    async def wait(self) -> bool:
        """Wait until there is something new; return False after `HEARTBEAT` seconds without."""
        loop = asyncio.get_running_loop()
        waiting = _Waiting(self._next_number, loop.time() + HEARTBEAT, loop.create_future())
        self._next_number += 1
        self._waiting.append(waiting)
        return await waiting.woken

    def wake_all(self) -> None:
        """Wake all streams that wait now."""
        self._wake_below = self._next_number
        self._news.set()

    async def keep_waking(self) -> None:
        """Wake streams after `wake_all`, and for their heartbeats, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            self._news.clear()
            while self._wake_some(loop.time()):  # noqa: ASYNC110 - lets other requests run; not polling
                await asyncio.sleep(0)
            pause = max(0.0, self._waiting[0].until - loop.time()) if self._waiting else HEARTBEAT
            try:
                async with asyncio.timeout(pause):
                    await self._news.wait()
            except TimeoutError:
                pass

    def _wake_some(self, now: float) -> bool:
        """Wake a few; return whether more may have to be woken."""
        for _ in range(WOKEN_AT_ONCE):
            if not self._waiting:
                return False
            first = self._waiting[0]
            if first.number >= self._wake_below and first.until > now:
                return False
            self._waiting.popleft()
            if not first.woken.done():  # otherwise its client has disconnected
                first.woken.set_result(first.number < self._wake_below)
        return True
