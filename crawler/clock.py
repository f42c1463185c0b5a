"""Whose clock counts: Redis's, which all crawlers share. A machine whose own clock is wrong, or steps, lends it.

By a clock that is ahead, the page would look fresh for as long after the last crawl; by one that is behind, every
snapshot would be older than the published one, and refused.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec
import structlog
from redis.exceptions import RedisError

if TYPE_CHECKING:
    from shared.snapshot import Snapshot
    from shared.snapshot_store import SnapshotWriter

MAX_CLOCK_SKEW = 5.0
"""Seconds within which this machine's own clock is used: its distance to Redis is known no better on a busy day."""

log = structlog.get_logger()


class SharedClock:
    """The time by Redis's clock, while it can be asked; else by what was known of it last."""

    def __init__(self, writer: SnapshotWriter) -> None:
        self._writer = writer
        self._ahead = 0.0

    async def now(self) -> float:
        """Return Unix seconds."""
        await self._compare()
        return time.time() - self._ahead

    async def dated(self, snapshot: Snapshot) -> Snapshot:
        """Return a snapshot that this machine's clock has just dated with the right time."""
        await self._compare()
        return msgspec.structs.replace(snapshot, taken_at=snapshot.taken_at - self._ahead) if self._ahead else snapshot

    async def _compare(self) -> None:
        try:
            ahead = time.time() - await self._writer.now()
        except (RedisError, OSError):
            return
        if abs(ahead) <= MAX_CLOCK_SKEW:
            ahead = 0.0
        if abs(ahead - self._ahead) > MAX_CLOCK_SKEW:
            log.warning("this machine's clock differs from redis's; redis's counts", seconds=round(ahead, 1))
        self._ahead = ahead
