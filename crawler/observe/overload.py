"""This module tells whether this process is too busy to trust a timeout.

Where it is, a peer that did not answer may have answered unheard, and nothing is said about it.
"""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

EVERY = 0.2
"""Seconds between two requests."""
MAX_DELAY = 0.5
"""Seconds for a request that takes a millisecond at rest. A probe has ten times as long."""
MAX_DELAY_TO_BEGIN = 0.1
"""Seconds of the same, after which no new probe should begin."""
REQUEST_TIMEOUT = 10.0


class Overload:
    """Measures how late answers are, by a trivial request to the crawler's own daemon, again and again."""

    def __init__(self, request: Callable[[], Awaitable[object]]) -> None:
        self._request = request
        self._requested_at: float | None = None
        self._late_at = -math.inf

    async def watch(self) -> None:
        """Measure until cancelled."""
        while True:
            self._requested_at = time.monotonic()
            await asyncio.sleep(EVERY)
            with suppress(Exception):
                async with asyncio.timeout(REQUEST_TIMEOUT):
                    await self._request()
            self._note()
            self._requested_at = None

    def since(self, moment: float) -> bool:
        """Whether an answer has been late at any time since `moment` (monotonic seconds)."""
        self._note()
        return self._late_at >= moment

    def now(self) -> bool:
        """Whether an answer is late at this moment."""
        return self._requested_at is not None and time.monotonic() - self._requested_at > EVERY + MAX_DELAY_TO_BEGIN

    def _note(self) -> None:
        now = time.monotonic()
        if self._requested_at is not None and now - self._requested_at > EVERY + MAX_DELAY:
            self._late_at = now
