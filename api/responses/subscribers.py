"""This module wakes the event streams that wait for news, a few per turn of the event loop.

All at once, 5,000 of them would keep every other request waiting for half a second.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import NamedTuple

HEARTBEAT = 15.0
"""Seconds; proxies cut connections that say nothing for a minute."""
WOKEN_AT_ONCE = 20
"""Each takes about 0.1 ms."""


class _Waiting(NamedTuple):
    number: int
    until: float
    """When it gets a heartbeat, in seconds of the loop's clock."""
    woken: asyncio.Future[bool]


class Subscribers:
    """Those who wait now, the one that waits longest first. `keep_waking` has to run."""

    def __init__(self) -> None:
        self._waiting: deque[_Waiting] = deque()
        self._next_number = 0
        self._told = 0
        """The news are for those with a lower number: who waits later knows them."""
        self._news = asyncio.Event()

    async def wait(self) -> bool:
        """Wait for news. Return whether there are any: after `HEARTBEAT` seconds without, there are none."""
        loop = asyncio.get_running_loop()
        waiting = _Waiting(self._next_number, loop.time() + HEARTBEAT, loop.create_future())
        self._next_number += 1
        self._waiting.append(waiting)
        return await waiting.woken

    def tell(self) -> None:
        """Wake all that wait now."""
        self._told = self._next_number
        self._news.set()

    async def keep_waking(self) -> None:
        """Wake those that have something to be woken for, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            self._news.clear()
            while self._wake_some(loop.time()):  # noqa: ASYNC110 - the turn of other requests, not polling
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
            if first.number >= self._told and first.until > now:
                return False
            self._waiting.popleft()
            if not first.woken.done():  # else its reader has left
                first.woken.set_result(first.number < self._told)
        return True
