"""Does this machine keep up? If not, silence may be its own fault, and says nothing about a server."""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

EVERY = 0.2
TOLERATED = 0.5
"""Seconds for a question that takes a millisecond at rest. A dial has ten times as long."""
BUSY = 0.1
"""Seconds of the same, after which nothing new should be begun."""
GIVEN_UP = 10.0


class Strain:
    """Asks the crawler's own daemon something trivial, again and again: waits for the daemon and for this process."""

    def __init__(self, ask: Callable[[], Awaitable[object]]) -> None:
        self._ask = ask
        self._asked_at: float | None = None
        self._late_at = -math.inf

    async def watch(self) -> None:
        """Run until cancelled."""
        while True:
            self._asked_at = time.monotonic()
            await asyncio.sleep(EVERY)
            with suppress(Exception):
                async with asyncio.timeout(GIVEN_UP):
                    await self._ask()
            self._note()
            self._asked_at = None

    def since(self, moment: float) -> bool:
        """Whether an answer has been late at any time since then (monotonic seconds)."""
        self._note()
        return self._late_at >= moment

    def now(self) -> bool:
        """Whether an answer is late at this moment."""
        return self._asked_at is not None and time.monotonic() - self._asked_at > EVERY + BUSY

    def _note(self) -> None:
        now = time.monotonic()
        if self._asked_at is not None and now - self._asked_at > EVERY + TOLERATED:
            self._late_at = now
