"""This module tells the time by Redis's clock, the one that crawlers, workers and apis share.

A machine whose own clock is wrong, or steps, lends it: between two questions its monotonic clock goes on from the
last answer. So no age is negative, nothing stale looks fresh, and what one process dates another can compare.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import structlog
from redis.exceptions import RedisError

if TYPE_CHECKING:
    from redis.asyncio import Redis

TOLD_FROM = 5.0
"""Seconds of difference from which this machine's own clock is spoken of in the log."""
MAX_ROUND_TRIP = 1.0
"""Seconds. A slower answer says less than what was known before."""

log = structlog.get_logger()


class RedisClock:
    """One a process. Until Redis first answers it is this machine's own clock."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._ahead_of_monotonic: float | None = None
        self._told = 0.0

    def now(self) -> float:
        """Return Unix seconds."""
        if self._ahead_of_monotonic is None:
            return time.time()
        return time.monotonic() + self._ahead_of_monotonic

    async def ask(self) -> float:
        """Ask Redis, and return Unix seconds; while it is away, by what was known of it last."""
        asked = time.monotonic()
        try:
            seconds, microseconds = await self._redis.time()
        except (RedisError, OSError):
            return self.now()
        answered = time.monotonic()
        if self._ahead_of_monotonic is None or answered - asked <= MAX_ROUND_TRIP:
            self._ahead_of_monotonic = seconds + microseconds / 1e6 - (asked + answered) / 2
            self._compare()
        return self.now()

    def _compare(self) -> None:
        ahead = time.time() - self.now()
        if abs(ahead - self._told) > TOLD_FROM:
            log.warning("this machine's clock differs from redis's; redis's counts", seconds=round(ahead, 1))
            self._told = ahead
