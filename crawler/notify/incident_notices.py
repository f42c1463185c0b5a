"""Tell a webhook of incidents, for those without Alertmanager: once when one opens, once when it ends.

What was told stands in Redis, so a restart or another leader neither repeats nor forgets; a delivery whose
confirmation got lost is repeated with the same `id`. Only incidents that began after the webhook was first seen
are told: the past is on the pages. The end of an incident waits until its beginning was told or given up.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from crawler.notify.notice_queue import Notice
from shared.store import keys, stored
from shared.store.history import HistoryReader
from shared.store.snapshots import DeposedError, deposed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redis.asyncio import Redis

    from crawler.leader import Leadership
    from crawler.notify.notice_queue import NoticeQueue
    from shared.incidents import Incident
    from shared.store.clock import RedisClock

LOOK_EVERY = 5.0
"""Seconds between looks at whether a crawl has been recorded, and whether a notice is due again."""
TOLD_LASTS = 400 * 86400
"""Seconds; longer than an incident is kept."""
SINCE = "since"
"""The field that says when the webhook was first seen; the others are events."""


# KEYS: lease, told. ARGV: the writer's lease, now, field of the beginning, seconds that it lasts. Returns when the
# webhook was first seen, and what it was told. What cannot have been written by a right clock is put right.
_BEGIN = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('DEPOSED') end
local since = tonumber(redis.call('HGET', KEYS[2], ARGV[3]) or '')
if not (since and since >= 0 and since <= tonumber(ARGV[2]) + 60) then
  redis.call('HSET', KEYS[2], ARGV[3], ARGV[2])
end
redis.call('EXPIRE', KEYS[2], ARGV[4])
return {redis.call('HGET', KEYS[2], ARGV[3]), redis.call('HKEYS', KEYS[2])}
"""
# KEYS: lease, told. ARGV: the writer's lease, fields that are not needed any more.
_FORGET = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('DEPOSED') end
return redis.call('HDEL', KEYS[2], unpack(ARGV, 2))
"""
FORGOTTEN_AT_ONCE = 1_000


class IncidentNotices:
    """One a crawler; only the leading one tells, and its lease fences what it writes."""

    def __init__(
        self, redis: Redis, leadership: Leadership, queue: NoticeQueue, clock: RedisClock, *, official_only: bool
    ) -> None:
        self._redis = redis
        self._begin = redis.register_script(_BEGIN)
        self._forget = redis.register_script(_FORGET)
        self._clock = clock
        self._leadership = leadership
        self._queue = queue
        self._official_only = official_only
        self._history = HistoryReader(redis)
        self._head: Any = None

    async def run(self) -> None:
        """Follow the incidents until cancelled. Redis and the receiver may be away meanwhile."""
        try:
            while True:
                try:
                    if self._leadership.lease is not None:
                        await self.tell()
                except DeposedError:
                    pass  # the crawl loop says so, as it does of an outage
                except (RedisError, OSError) as error:
                    if not stored.is_outage(error):
                        stored.refuse("redis", error)
                        with suppress(RedisError, OSError):
                            await stored.mend(self._redis, keys.of_the_crawler())
                await asyncio.sleep(LOOK_EVERY)
        finally:
            with suppress(RedisError, OSError):
                await asyncio.to_thread(self._queue.close)

    async def tell(self) -> None:
        """Queue what is new since the last crawl, and deliver what is due.

        Raises `DeposedError`, `redis.RedisError`, `OSError`.
        """
        await self._queue_new()
        await asyncio.to_thread(self._queue.work_off)

    async def _queue_new(self) -> None:
        head = await self._redis.get(keys.HISTORY_HEAD)
        if head is not None and head == self._head:
            return
        lease, now = self._leadership.lease or "", await self._clock.ask()
        fenced = [keys.CRAWLER_LEASE, keys.INCIDENTS_TOLD]
        with deposed():
            since, names = await self._begin(keys=fenced, args=[lease, repr(now), SINCE, TOLD_LASTS])
        told: set[bytes] = set(names)
        incidents = await self._history.incidents()
        held_back = False
        for notice in self._due(incidents, told, float(since), now):
            opened = f"{notice.incident.id}:opened"
            if notice.id != opened and await asyncio.to_thread(self._queue.is_on_its_way, opened):
                held_back = True
            else:
                await asyncio.to_thread(self._queue.put, notice, lease)
        kept = {f"{incident.id}:{word}".encode() for incident in incidents for word in ("opened", "closed")}
        gone = list(told - kept - {SINCE.encode()})
        for first in range(0, len(gone), FORGOTTEN_AT_ONCE):
            with deposed():
                await self._forget(keys=fenced, args=[lease, *gone[first : first + FORGOTTEN_AT_ONCE]])
        self._head = None if held_back else head

    def _due(self, incidents: tuple[Incident, ...], told: set[bytes], since: float, now: float) -> Iterator[Notice]:
        for incident in reversed(incidents):  # the oldest first
            if incident.start < since or (self._official_only and not incident.official):
                continue
            for word in ("opened",) if incident.end is None else ("opened", "closed"):
                name = f"{incident.id}:{word}"
                if name.encode() not in told:
                    yield Notice(name, f"incident.{word}", now, incident)
