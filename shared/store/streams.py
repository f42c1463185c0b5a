"""This module follows Redis streams with one blocking read for all of them.

It goes on after lost connections, after a Redis that comes back empty, and despite keys that are not streams.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog
from redis.exceptions import RedisError, ResponseError

from shared.store import stored
from shared.tasks import raise_if_cancelled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from redis.asyncio import Redis

BLOCK_MS = 2_000
"""Less than redis-py's socket timeout of 5 s: a longer block ends in its retries, not in an answer."""
RETRY_SECONDS = 0.25
ENTRIES_AT_ONCE = 1_000
SKIP_SECONDS = 2.0
"""Seconds after which a key that is not a stream is read again: its owner may have deleted it."""
START = "0"


class Entry(NamedTuple):
    """One stream entry; `fields` are as bytes."""

    key: str
    entry_id: str
    fields: dict[bytes, bytes]


class StreamTail:
    """Follows streams for one reader. It starts at their oldest entry; after `at_end`, at the next new one."""

    def __init__(self, redis: Redis, keys: Iterable[str], *, about: str) -> None:
        self._redis = redis
        self._about = about
        self.cursors = dict.fromkeys(keys, START)
        self.connected = False
        """Whether the last read worked."""
        self.last_error: str | None = None
        self._skipped: dict[str, float] = {}
        """Keys that cannot be read, and until when (monotonic seconds) they are skipped, so that the others can be."""

    async def at_end(self) -> None:
        """Skip the entries that exist now. Raises `redis.RedisError`."""
        for key in self.cursors:
            self.cursors[key] = await self._newest_id(key) or START

    async def follow(self) -> AsyncIterator[list[Entry]]:
        """Yield new entries, for ever. Outages are waited out and logged.

        After the first read, and after each outage, it yields at once, even where there is no new entry.
        """
        log = structlog.get_logger()
        while True:
            try:
                streams: Any = await self._read()
                raise_if_cancelled()
            except (RedisError, OSError) as error:
                if self.connected or self.last_error is None:
                    log.warning("redis is away", reading=self._about, error=str(error))
                self.connected, self.last_error = False, str(error)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            reconnected = not self.connected
            if reconnected:
                if self.last_error is not None:
                    log.info("redis is back", reading=self._about)
                    with suppress(RedisError, OSError):
                        await self._rewind_if_lost()
                self.connected, self.last_error = True, None
            entries = [
                Entry(key.decode(), entry_id.decode(), fields)
                for key, rows in streams or []
                for entry_id, fields in rows
            ]
            for entry in entries:
                self.cursors[entry.key] = entry.entry_id
            if entries or reconnected:
                yield entries

    async def _read(self) -> Any:
        now = time.monotonic()
        self._skipped = {key: until for key, until in self._skipped.items() if until > now}
        positions: Any = {key: cursor for key, cursor in self.cursors.items() if key not in self._skipped}
        if not positions:
            await asyncio.sleep(RETRY_SECONDS)
            return None
        block = BLOCK_MS if self.connected else None
        try:
            streams = await self._redis.xread(positions, count=ENTRIES_AT_ONCE, block=block)
        except ResponseError as error:
            if stored.is_outage(error):
                raise
            await self._skip_unreadable(positions)
            return None
        if not streams:
            await self._rewind_if_lost()
        return streams

    async def _skip_unreadable(self, positions: dict[str, str]) -> None:
        for key, cursor in positions.items():
            try:
                await self._redis.xread({key: cursor}, count=1)
            except ResponseError as error:
                if stored.is_outage(error):
                    raise
                stored.refuse("stream", error)
                self._skipped[key] = time.monotonic() + SKIP_SECONDS
                self.cursors[key] = START

    async def _rewind_if_lost(self) -> None:
        """Start again where Redis lost its data: its new ids are below the cursor, so a read would wait for ever."""
        for key, cursor in self.cursors.items():
            if cursor == START:
                continue
            newest = await self._newest_id(key)
            if newest is None or stream_position(newest.encode()) < stream_position(cursor.encode()):
                self.cursors[key] = START

    async def _newest_id(self, key: str) -> str | None:
        try:
            info: Any = await self._redis.xinfo_stream(key)
        except ResponseError as error:
            if stored.is_outage(error):
                raise
            return None  # no such key, or no stream
        newest: bytes = info["last-generated-id"]
        return newest.decode()


def stream_position(entry_id: bytes) -> tuple[int, int]:
    """Return the numbers of an entry's id, which order it in its stream. Raises `ValueError` where it is none."""
    milliseconds, _, sequence = entry_id.decode().partition("-")
    return int(milliseconds), int(sequence)
