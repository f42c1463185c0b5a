"""The history as this process knows it: read from Redis when it is asked for, at most every some seconds.

However many requests come, each thing is read once in `FRESH_SECONDS`, and by one request for all that wait. While
Redis is away, what was read before goes on being served. Nothing is read ahead: most histories nobody asks for.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from api.bodies import Body
from api.headers import CORS, JSON
from api.problems import Problem
from shared.history import Resolution
from shared.tasks import awaited

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

    from shared.history_store import HistoryReader, ModelHistory, ServerHistory
    from shared.incidents import Incident

FRESH_SECONDS = 15.0
MAX_ENTRIES = 128
"""Of each kind, least recently used out first. A model's minutes take about 0.3 MB, the rest far less."""
READ_SECONDS = 2.0
READS_AT_ONCE = 4
"""As many as its client has connections."""
RETRY_AFTER = 5


class HistoryAwayError(Exception):
    """Redis does not answer, and this was not read before."""


class ReadThrough:
    """Values by key, loaded when they are asked for and older than `fresh` seconds."""

    def __init__(self, fresh: float = FRESH_SECONDS, max_entries: int = MAX_ENTRIES) -> None:
        self._fresh = fresh
        self._max_entries = max_entries
        self._entries: OrderedDict[Hashable, tuple[float, Any]] = OrderedDict()
        self._loading: dict[Hashable, asyncio.Task[Any]] = {}

    async def get(self, key: Hashable, load: Callable[[], Awaitable[Any]]) -> Any:
        """Return the value, as old as `fresh` at most; while Redis is away, what was known before.

        Raises what `load` raises otherwise.
        """
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
            if time.monotonic() < entry[0]:
                return entry[1]
        task = self._loading.get(key)
        if task is None:
            task = awaited(self._load(key, load))
            self._loading[key] = task
            task.add_done_callback(lambda done: self._loaded(key, done))
        try:
            # A client that hangs up does not take the answer from those that wait for it too.
            return await asyncio.shield(task)
        except HistoryAwayError:
            if entry is None:
                raise
            return entry[1]

    def _loaded(self, key: Hashable, task: asyncio.Task[Any]) -> None:
        self._loading.pop(key, None)
        if not task.cancelled():
            task.exception()  # looked at, also where everybody who waited has left

    async def _load(self, key: Hashable, load: Callable[[], Awaitable[Any]]) -> Any:
        value = await load()
        self._entries[key] = (time.monotonic() + self._fresh, value)
        self._entries.move_to_end(key)
        while len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)
        return value


class HistoryCache:
    """One a process."""

    def __init__(
        self, reader: HistoryReader, *, fresh: float = FRESH_SECONDS, now: Callable[[], float] = time.time
    ) -> None:
        self._reader = reader
        self._now = now
        self._values = ReadThrough(fresh)
        self._bodies = ReadThrough(fresh)
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

    async def body(self, key: Hashable, make: Callable[[], Awaitable[bytes]], media_type: str = JSON) -> Body:
        """Return a body that was made of what is kept here. Raises what `make` raises."""

        async def load() -> Body:
            content = await make()
            headers = {**CORS, "cache-control": f"public, max-age={FRESH_SECONDS:.0f}"}
            return await asyncio.to_thread(Body.make, content, media_type, headers=headers)

        body: Body = await self._bodies.get(key, load)
        return body

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
