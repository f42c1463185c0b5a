"""This module stores snapshots in Redis: the leading crawler writes them, every api process follows them.

The snapshot is the only entry of a stream that is trimmed to its newest. So writing is one atomic command, a reader
that was disconnected finds the newest under the same key, and following takes one blocking read per process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from shared.snapshot import CrawlStatus, Snapshot, decode, decode_status, encode
from shared.store import keys, stored
from shared.store.fencing import FencedScript
from shared.store.streams import StreamTail

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from redis.asyncio import Redis

# KEYS: lease, snapshots. ARGV: lease, when the crawl ended, the document.
# A published snapshot from the future was dated by a wrong clock, and does not prevent newer ones.
_PUBLISH = """
local now = tonumber(redis.call('TIME')[1])
local newest = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
local taken_at = newest and newest[2][1] == 'taken_at' and tonumber(newest[2][2])
if taken_at and taken_at > tonumber(ARGV[2]) and taken_at <= now + 60 then return redis.error_reply('OLDER') end
return redis.call('XADD', KEYS[2], 'MAXLEN', 1, '*', 'taken_at', ARGV[2], 'snapshot', ARGV[3])
"""

# KEYS: lease, crawls. ARGV: lease, the status.
_REPORT = """
return redis.call('XADD', KEYS[2], 'MAXLEN', 1, '*', 'status', ARGV[2])
"""


class SnapshotWriter:
    """Writes for one crawler. Every write names the crawler's lease, which fences it."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._publish = FencedScript(redis, _PUBLISH)
        self._report = FencedScript(redis, _REPORT)

    async def publish(self, snapshot: Snapshot, lease: str) -> int:
        """Replace the published snapshot; return the document's size in bytes.

        Raises `DeposedError`, `redis.RedisError`.
        """
        document = encode(snapshot)
        await self._publish(lease, [keys.SNAPSHOTS], repr(snapshot.taken_at), document)
        return len(document)

    async def report(self, status: CrawlStatus, lease: str) -> None:
        """Replace the status of the latest crawl. Raises `DeposedError`, `redis.RedisError`."""
        await self._report(lease, [keys.CRAWLS], msgspec.json.encode(status))

    async def latest(self) -> Snapshot | None:
        """Return the published snapshot; None without one that this version can read. Raises `redis.RedisError`."""
        entries: Any = await self._redis.xrevrange(keys.SNAPSHOTS, count=1)
        return stored.read("snapshot", lambda fields: decode(fields[b"snapshot"]), entries[0][1]) if entries else None

    async def delete_unusable_keys(self) -> None:
        """Delete those of the crawler's keys that have a wrong type. Raises `redis.RedisError`."""
        await stored.delete_unusable(self._redis, keys.of_the_crawler())

    async def published(self) -> bool:
        """Whether a snapshot is published. Raises `redis.RedisError`."""
        return bool(await self._redis.exists(keys.SNAPSHOTS))


class Update(NamedTuple):
    """A new snapshot, a new status, or both; neither where Redis answered that nothing is new."""

    snapshot: Snapshot | None
    status: CrawlStatus | None
    snapshot_id: str | None = None
    """Stream id of the snapshot, used as ETag and event id."""


class SnapshotReader:
    """Reads for one api process."""

    def __init__(self, redis: Redis) -> None:
        self._tail = StreamTail(redis, (keys.SNAPSHOTS, keys.CRAWLS), about="snapshots")

    @property
    def connected(self) -> bool:
        """Whether the last read succeeded. What was read before stays valid."""
        return self._tail.connected

    async def follow(self) -> AsyncIterator[Update]:
        """Yield what is published now, then each change, for ever. Outages of Redis are waited out."""
        async for entries in self._tail.follow():
            snapshot, status, snapshot_id = None, None, None
            for entry in entries:
                # A newer crawler's during a rolling upgrade cannot be read: the previous one stays.
                if entry.key == keys.SNAPSHOTS:
                    read = stored.read("snapshot", lambda fields: decode(fields[b"snapshot"]), entry.fields)
                    if read is not None:
                        snapshot, snapshot_id = read, entry.entry_id
                else:
                    status = stored.read("status", lambda fields: decode_status(fields[b"status"]), entry.fields)
            if snapshot is not None or status is not None or not entries:
                yield Update(snapshot, status, snapshot_id)
