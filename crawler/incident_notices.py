"""Tell a webhook of incidents, for those without Alertmanager: once when one opens, once when it ends.

What was told stands in Redis, so a restart or another leader neither repeats nor forgets; a delivery whose
confirmation got lost is repeated with the same `id`. Only incidents that began after the webhook was first seen
are told: the past is on the pages. The end of an incident waits until its beginning was told or given up.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from crawler.notice_queue import Notice
from shared import keys
from shared.history_store import HistoryReader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redis.asyncio import Redis

    from crawler.leader import Leadership
    from crawler.notice_queue import NoticeQueue
    from shared.incidents import Incident

LOOK_EVERY = 5.0
"""Seconds between looks at whether a crawl has been recorded, and whether a notice is due again."""
TOLD_LASTS = 400 * 86400
"""Seconds; longer than an incident is kept."""
SINCE = "since"
"""The field that says when the webhook was first seen; the others are events."""


class IncidentNotices:
    """One a crawler; only the leading one tells."""

    def __init__(self, redis: Redis, leadership: Leadership, queue: NoticeQueue, *, official_only: bool) -> None:
        self._redis = redis
        self._leadership = leadership
        self._queue = queue
        self._official_only = official_only
        self._history = HistoryReader(redis)
        self._head: Any = None

    async def run(self) -> None:
        """Follow the incidents until cancelled. Redis and the receiver may be away meanwhile."""
        try:
            while True:
                with suppress(RedisError, OSError):  # the crawl loop says so
                    if self._leadership.lease is not None:
                        await self.tell()
                await asyncio.sleep(LOOK_EVERY)
        finally:
            with suppress(RedisError, OSError):
                await asyncio.to_thread(self._queue.close)

    async def tell(self) -> None:
        """Queue what is new since the last crawl, and deliver what is due. Raises `redis.RedisError`, `OSError`."""
        await self._queue_new()
        await asyncio.to_thread(self._queue.work_off)

    async def _queue_new(self) -> None:
        head = await self._redis.get(keys.HISTORY_HEAD)
        if head is not None and head == self._head:
            return
        await self._redis.hsetnx(keys.INCIDENTS_TOLD, SINCE, repr(time.time()))
        await self._redis.expire(keys.INCIDENTS_TOLD, TOLD_LASTS)
        names: Any = await self._redis.hkeys(keys.INCIDENTS_TOLD)
        told: set[str] = {name.decode() for name in names}
        since = float(await self._redis.hget(keys.INCIDENTS_TOLD, SINCE) or 0)
        incidents = await self._history.incidents()
        held_back = False
        for notice in self._due(incidents, told, since):
            opened = f"{notice.incident.id}:opened"
            if notice.id != opened and await asyncio.to_thread(self._queue.is_on_its_way, opened):
                held_back = True
            else:
                await asyncio.to_thread(self._queue.put, notice)
        kept = {f"{incident.id}:{word}" for incident in incidents for word in ("opened", "closed")} | {SINCE}
        if gone := told - kept:
            await self._redis.hdel(keys.INCIDENTS_TOLD, *gone)
        self._head = None if held_back else head

    def _due(self, incidents: tuple[Incident, ...], told: set[str], since: float) -> Iterator[Notice]:
        for incident in reversed(incidents):  # the oldest first
            if incident.start < since or (self._official_only and not incident.official):
                continue
            for word in ("opened",) if incident.end is None else ("opened", "closed"):
                name = f"{incident.id}:{word}"
                if name not in told:
                    yield Notice(name, f"incident.{word}", time.time(), incident)
