"""This module returns the time by Redis's clock, which crawlers, workers and apis share.

It corrects timestamps where the machine's own clock is wrong or steps: between two requests its monotonic clock goes on
from Redis's last answer. So no age is negative, and times written by different processes can be compared.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import structlog
from redis.exceptions import RedisError

if TYPE_CHECKING:
    from redis.asyncio import Redis

LOGGED_FROM = 5.0
"""Seconds of difference of this machine's own clock that are logged."""
MAX_ROUND_TRIP = 1.0
"""Seconds. A slower answer is less exact than the one before, and is not used."""

log = structlog.get_logger()


class RedisClock:
    """The clock of one process. Until Redis first answers it is this machine's own clock."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._ahead_of_monotonic: float | None = None
        self._logged = 0.0

    def now(self) -> float:
        """Return Unix seconds."""
        if self._ahead_of_monotonic is None:
            return time.time()
        return time.monotonic() + self._ahead_of_monotonic

    async def ask(self) -> float:
        """Request the time from Redis, and return Unix seconds; while it is away, by its last answer."""
        requested = time.monotonic()
        try:
            seconds, microseconds = await self._redis.time()
        except (RedisError, OSError):
            return self.now()
        answered = time.monotonic()
        if self._ahead_of_monotonic is None or answered - requested <= MAX_ROUND_TRIP:
            self._ahead_of_monotonic = seconds + microseconds / 1e6 - (requested + answered) / 2
            self._compare()
        return self.now()

    def _compare(self) -> None:
        ahead = time.time() - self.now()
        if abs(ahead - self._logged) > LOGGED_FROM:
            log.warning("this machine's clock differs from redis's; redis's counts", seconds=round(ahead, 1))
            self._logged = ahead
