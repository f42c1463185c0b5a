"""This module tells whether this process, its daemon or its network was late, so that a timeout proves nothing.

A peer may have answered unheard then: nobody could look, and nothing is said about the peer.
"""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from shared.reachability import Cause, DialOutcome
from shared.snapshot import Verdict
from shared.tasks import awaited, end

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_LATE = "this monitor was too busy to hear an answer, or its network was away"
_MAYBE_OURS = frozenset(
    {
        Cause.TIMEOUT,
        Cause.FROZEN,
        Cause.RESET,
        Cause.NO_HOST_ROUTE,
        Cause.BACKOFF,
        Cause.RELAY_AWAY,
        Cause.SILENT_BEHIND_RELAY,
        Cause.OTHER,
    }
)
"""Causes of failures that our own side may be responsible for while it is late."""
EVERY = 0.2
"""Seconds between two requests, where the caller does not say otherwise."""
MAX_DELAY = 0.5
"""Seconds for a request that takes a millisecond at rest. A probe has ten times as long."""
MAX_DELAY_TO_BEGIN = 0.1
"""Seconds of the same, after which no new probe should begin."""
REQUEST_TIMEOUT = 10.0


class Lateness:
    """Measures how late answers are, by a trivial request, again and again: while anybody has entered this context."""

    def __init__(
        self, request: Callable[[], Awaitable[object]], *, every: float = EVERY, max_delay: float = MAX_DELAY
    ) -> None:
        """`every`: seconds between two requests. `max_delay`: seconds after which an answer is late."""
        self._request = request
        self._every = every
        self._max_delay = max_delay
        self._requested_at: float | None = None
        self._late_at = -math.inf
        self._users = 0
        self._watching: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._users += 1
        if self._users == 1:
            self._requested_at = time.monotonic()
            self._watching = awaited(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._users -= 1
        if self._users == 0:
            self._note()
            watching, self._watching = self._watching, None
            self._requested_at = None
            await end(watching)

    def since(self, moment: float) -> bool:
        """Whether an answer has been late at any time since `moment` (monotonic seconds)."""
        self._note()
        return self._late_at >= moment

    def now(self) -> bool:
        """Whether an answer is late at this moment."""
        return self._requested_at is not None and time.monotonic() - self._requested_at > (
            self._every + MAX_DELAY_TO_BEGIN
        )

    async def _watch(self) -> None:
        while True:
            self._requested_at = time.monotonic()
            await asyncio.sleep(self._every)
            with suppress(Exception):
                async with asyncio.timeout(REQUEST_TIMEOUT):
                    await self._request()
            self._note()

    def _note(self) -> None:
        now = time.monotonic()
        if self._requested_at is not None and now - self._requested_at > self._every + self._max_delay:
            self._late_at = now


def when_late(outcome: DialOutcome, *, certain: bool = False) -> DialOutcome:
    """Return what an outcome proves where our own side was late: a failure that may be ours is unknown.

    `certain`: the failure is ours, whatever its cause says.
    """
    if outcome.verdict is Verdict.UNREACHABLE and (certain or outcome.cause in _MAYBE_OURS):
        return DialOutcome.unknown(Cause.NODE_UNFIT, stage=outcome.stage, error=_LATE)
    return outcome
