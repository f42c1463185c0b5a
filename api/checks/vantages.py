"""This module finds the vantage points that have a live worker."""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from api.checks.admission import NoVerdictError
from shared.reachability import VANTAGE_PATTERN
from shared.store import keys, stored
from shared.tasks import shared

if TYPE_CHECKING:
    from redis.asyncio import Redis

TTL = 1.0
"""Seconds for which the list is used before Redis is asked again."""


class Vantages:
    """The vantage points, as all requests of this process see them."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._names: list[str] = []
        self._read_at = -TTL
        self._reading: asyncio.Task[list[str]] | None = None

    async def names(self) -> list[str]:
        """Return the names of those that had a live worker within the last second. Raises `redis.RedisError`.

        All callers share one read; whether a worker lives at this moment is decided at each admission.
        """
        if time.monotonic() - self._read_at > TTL and (self._reading is None or self._reading.done()):
            self._reading = shared(self._read())
        if self._reading is not None and not self._reading.done():
            return await asyncio.shield(self._reading)
        return self._names

    async def _read(self) -> list[str]:
        seconds, microseconds = await self._redis.time()
        now_ms = seconds * 1000 + microseconds // 1000
        found: Any = await self._redis.zrangebyscore(keys.VANTAGES, now_ms, "+inf")
        self._names, self._read_at = sorted(stored.read_all("vantage", _vantage, found)), time.monotonic()
        return self._names

    async def live(self, deadline: float, vantage: str | None = None) -> list[str]:
        """Return the live vantage points, or the one that is named. Raises `NoVerdictError` where there is none."""
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                names = await self.names()
        except (RedisError, OSError, TimeoutError) as error:
            raise NoVerdictError("the monitor's queue is away") from error
        names = [name for name in names if vantage in (None, name)]
        if not names:
            raise NoVerdictError("no worker is looking now")
        return names


def _vantage(name: bytes) -> str:
    if re.fullmatch(VANTAGE_PATTERN, text := name.decode()) is None:
        raise ValueError("not the name of a vantage point")
    return text
