"""Snapshots in Redis: written by the crawler that leads, read and followed by every api process.

A snapshot is the one entry of a stream that is trimmed to its newest: writing is one atomic command, a reader
that was away finds what it missed under the same key, and following costs a process one blocking read.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from redis.exceptions import ResponseError

from shared.snapshot import CrawlStatus, Snapshot, decode, decode_status, encode
from shared.store import keys, stored
from shared.store.streams import StreamTail

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from redis.asyncio import Redis

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
    if fields[i] == 'taken_at' and taken_at and taken_at > tonumber(ARGV[2]) and taken_at <= now + 60 then
      return redis.error_reply('OLDER')
    end
  end
end
return redis.call('XADD', KEYS[1], 'MAXLEN', 1, '*', 'taken_at', ARGV[2], 'snapshot', ARGV[3])
"""

# KEYS: crawls, lease. ARGV: the writer's lease, the status.
_REPORT = """
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return redis.error_reply('DEPOSED') end
return redis.call('XADD', KEYS[1], 'MAXLEN', 1, '*', 'status', ARGV[2])
"""


class DeposedError(Exception):
    """Another crawler leads now, or a newer snapshot is already there: this one must not be written."""


@contextmanager
def deposed() -> Iterator[None]:
    """Raise the refusals of a fenced script as `DeposedError`."""
    try:
        yield
    except ResponseError as error:
        if str(error).startswith(("DEPOSED", "OLDER", "STALE")):
            raise DeposedError(str(error)) from error
        raise


class SnapshotWriter:
    """Publishes for one crawler; every write is fenced by the lease that it holds."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._publish = redis.register_script(_PUBLISH)
        self._report = redis.register_script(_REPORT)

    async def publish(self, snapshot: Snapshot, lease: str) -> int:
        """Replace the published snapshot; return the document's size in bytes.

        Raises `DeposedError`, `redis.RedisError`.
        """
        document = encode(snapshot)
        with deposed():
            await self._publish(
                keys=[keys.SNAPSHOTS, keys.CRAWLER_LEASE], args=[lease, repr(snapshot.taken_at), document]
            )
        return len(document)

    async def report(self, status: CrawlStatus, lease: str) -> None:
        """Say how the latest attempt went, also where it failed. Raises `DeposedError`, `redis.RedisError`."""
        with deposed():
            await self._report(keys=[keys.CRAWLS, keys.CRAWLER_LEASE], args=[lease, msgspec.json.encode(status)])

    async def latest(self) -> Snapshot | None:
        """Return what is published; None where nothing is that this version can read. Raises `redis.RedisError`."""
        entries: Any = await self._redis.xrevrange(keys.SNAPSHOTS, count=1)
        return stored.read("snapshot", lambda fields: decode(fields[b"snapshot"]), entries[0][1]) if entries else None

    async def mend(self) -> None:
        """Delete what stands under the crawler's names and cannot be written to. Raises `redis.RedisError`."""
        await stored.mend(self._redis, keys.of_the_crawler())

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
                # Of a newer crawler during a rolling upgrade, say: what we have is better than an error page.
                if entry.key == keys.SNAPSHOTS:
                    read = stored.read("snapshot", lambda fields: decode(fields[b"snapshot"]), entry.fields)
                    if read is not None:
                        snapshot, snapshot_id = read, entry.entry_id
                else:
                    status = stored.read("status", lambda fields: decode_status(fields[b"status"]), entry.fields)
            if snapshot is not None or status is not None or not entries:
                yield News(snapshot, status, snapshot_id)
