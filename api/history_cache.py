"""The history as this process knows it: read from Redis when it is asked for, at most every some seconds.

However many requests come, each thing is read once in `FRESH_SECONDS`, and by one request for all that wait. While
Redis is away, what was read before goes on being served. Nothing is read ahead: most histories nobody asks for.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from api.headers import CORS
from api.problems import Problem
from api.read_through import FRESH_SECONDS, OldValueError, ReadThrough
from shared.store.rings import Resolution

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

    from shared.incidents import Incident
    from shared.store.history import HistoryReader, ModelHistory, ServerHistory

MAX_ENTRIES = 128
"""Of each kind, least recently used out first. A model's minutes take about 0.3 MB, the rest far less."""
READ_SECONDS = 2.0
READS_AT_ONCE = 4
"""As many as its client has connections."""
RETRY_AFTER = 5


class HistoryAwayError(OldValueError):
    """Redis does not answer, and this was not read before."""


class HistoryCache:
    """One a process."""

    def __init__(
        self, reader: HistoryReader, *, fresh: float = FRESH_SECONDS, now: Callable[[], float] = time.time
    ) -> None:
        self._reader = reader
        self._now = now
        self._values = ReadThrough(fresh, MAX_ENTRIES)
        self._slots = asyncio.Semaphore(READS_AT_ONCE)

    async def model(self, dht_prefix: str, resolution: Resolution = Resolution.HOUR) -> ModelHistory:
        """Raises `HistoryAwayError`, as the others do."""
        found: ModelHistory = await self._read(
            ("model", dht_prefix, resolution), lambda: self._reader.model(dht_prefix, resolution, self._now())
        )
        return found

    async def server(self, peer_id: str) -> ServerHistory | None:
        found: ServerHistory | None = await self._read(
            ("server", peer_id), lambda: self._reader.server(peer_id, self._now())
        )
        return found

    async def incidents(self) -> tuple[Incident, ...]:
        """Open and ended ones, the newest first."""
        found: tuple[Incident, ...] = await self._read(("incidents",), self._reader.incidents)
        return found

    async def _read(self, key: Hashable, read: Callable[[], Awaitable[Any]]) -> Any:
        async def load() -> Any:
            try:
                async with asyncio.timeout(READ_SECONDS), self._slots:
                    return await read()
            except (RedisError, OSError) as error:  # TimeoutError is an OSError
                raise HistoryAwayError(str(error)) from error

        return await self._values.get(key, load)


def history_is_away() -> Problem:
    """What is said where Redis does not answer and nothing was read before."""
    return Problem(
        503, "The history cannot be read now: Redis is away.", headers={**CORS, "retry-after": str(RETRY_AFTER)}
    )
