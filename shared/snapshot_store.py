"""Snapshots in Redis: written by the crawler that leads, read and followed by every api process.

A snapshot is the one entry of a stream that is trimmed to its newest: writing is one atomic command, a reader
that was away finds what it missed under the same key, and following costs a process one blocking read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import structlog
from redis.exceptions import ResponseError

from shared import keys
from shared.snapshot import CrawlStatus, Snapshot, UnknownSchemaError, decode, encode
from shared.stream_tail import StreamTail

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from redis.asyncio import Redis

log = structlog.get_logger()

# KEYS: snapshots, lease. ARGV: the writer's lease, when the crawl ended, the document.
# A writer whose lease is not the current one was deposed, perhaps while it was frozen. A published snapshot from
# the future was written by a clock that was wrong: it does not bar right ones.
_PUBLISH = """
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return redis.error_reply('DEPOSED') end
local now = tonumber(redis.call('TIME')[1])
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if newest then
  local fields = newest[2]
  for i = 1, #fields, 2 do
    local taken_at = tonumber(fields[i + 1])
    if fields[i] == 'taken_at' and taken_at > tonumber(ARGV[2]) and taken_at <= now + 60 then
      return redis.error_reply('OLDER')
    end
  end
end
return redis.call('XADD', KEYS[1], 'MAXLEN', 1, '*', 'taken_at', ARGV[2], 'snapshot', ARGV[3])
"""


class DeposedError(Exception):
    """Another crawler leads now, or a newer snapshot is already there: this one must not be written."""


class SnapshotWriter:
    """Publishes for one crawler; every write is fenced by the lease that it holds."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._publish = redis.register_script(_PUBLISH)

    async def publish(self, snapshot: Snapshot, lease: str) -> int:
        """Replace the published snapshot; return the document's size in bytes.

        Raises `DeposedError`, `redis.RedisError`.
        """
        document = encode(snapshot)
        try:
            await self._publish(
                keys=[keys.SNAPSHOTS, keys.CRAWLER_LEASE], args=[lease, repr(snapshot.taken_at), document]
            )
        except ResponseError as error:
            if str(error).startswith(("DEPOSED", "OLDER")):
                raise DeposedError(str(error)) from error
            raise
        return len(document)

    async def report(self, status: CrawlStatus) -> None:
        """Say how the latest attempt went, also where it failed. Raises `redis.RedisError`."""
        await self._redis.xadd(keys.CRAWLS, {"status": msgspec.json.encode(status)}, maxlen=1, approximate=False)

    async def latest(self) -> Snapshot | None:
        """Return what is published; None where nothing is that this version can read. Raises `redis.RedisError`."""
        entries: Any = await self._redis.xrevrange(keys.SNAPSHOTS, count=1)
        try:
            return decode(entries[0][1][b"snapshot"]) if entries else None
        except (UnknownSchemaError, ValueError, KeyError):
            return None

    async def now(self) -> float:
        """Return Redis's clock, the one that all crawlers share. Raises `redis.RedisError`."""
        seconds, microseconds = await self._redis.time()
        return float(seconds) + microseconds / 1e6

    async def published(self) -> bool:
        """Whether a snapshot is there: it is not on a Redis that came back empty."""
        return bool(await self._redis.exists(keys.SNAPSHOTS))


class News(NamedTuple):
    """What a follower is given: whichever of the two is new. Neither: Redis was asked, and has nothing new."""

    snapshot: Snapshot | None
    status: CrawlStatus | None
    snapshot_id: str | None = None
    """Names the snapshot for readers (ETag, event id)."""


class SnapshotReader:
    """Reads for one api process."""

    def __init__(self, redis: Redis) -> None:
        self._tail = StreamTail(redis, (keys.SNAPSHOTS, keys.CRAWLS), about="snapshots")

    @property
    def connected(self) -> bool:
        """Whether the last read worked. What was read before stays valid, and ages."""
        return self._tail.connected

    async def follow(self) -> AsyncIterator[News]:
        """Yield what is published now and then each change, for ever. Redis may go and come back meanwhile."""
        async for entries in self._tail.follow():
            snapshot, status, snapshot_id = None, None, None
            for entry in entries:
                try:
                    if entry.key == keys.SNAPSHOTS:
                        snapshot, snapshot_id = decode(entry.fields[b"snapshot"]), entry.entry_id
                    else:
                        status = msgspec.json.decode(entry.fields[b"status"], type=CrawlStatus)
                except (UnknownSchemaError, ValueError, KeyError) as error:
                    # A newer crawler during a rolling upgrade: what we have is better than an error page.
                    log.warning("published document not readable", key=entry.key, error=str(error))
            if snapshot is not None or status is not None or not entries:
                yield News(snapshot, status, snapshot_id)
