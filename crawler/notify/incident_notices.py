"""This module sends a webhook two notices per incident: one when it opens, one when it ends.

Redis holds which notices were sent, so that a restart or a new leader neither repeats nor loses one; a delivery whose
confirmation got lost is repeated with the same `id`. Only incidents that began after the webhook was first configured
are sent. The notice of an incident's end waits until that of its beginning was delivered or given up.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from crawler.notify.notice_queue import Notice
from shared.store import keys
from shared.store.fencing import DeposedError, FencedScript
from shared.store.history import HistoryReader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redis.asyncio import Redis

    from crawler.leader import Leadership
    from crawler.notify.notice_queue import NoticeQueue
    from shared.incidents import Incident
    from shared.store.clock import RedisClock

POLL_EVERY = 5.0
"""Seconds between checks for a newly recorded crawl and for notices that are due for a retry."""
SENT_KEPT = 400 * 86400
"""Seconds; longer than an incident is kept."""
SINCE = "since"
"""The field with the time when the webhook was first configured; the other fields are sent notices."""


# KEYS: lease, sent notices. ARGV: lease, now, name of the field SINCE, expiry in seconds. Returns when the
# webhook was first configured, and the fields. A time that only a wrong clock can have written is replaced.
_BEGIN = """
local since = tonumber(redis.call('HGET', KEYS[2], ARGV[3]) or '')
if not (since and since >= 0 and since <= tonumber(ARGV[2]) + 60) then
  redis.call('HSET', KEYS[2], ARGV[3], ARGV[2])
end
redis.call('EXPIRE', KEYS[2], ARGV[4])
return {redis.call('HGET', KEYS[2], ARGV[3]), redis.call('HKEYS', KEYS[2])}
"""
# KEYS: lease, sent notices. ARGV: lease, fields that are not needed any more.
_FORGET = """
return redis.call('HDEL', KEYS[2], unpack(ARGV, 2))
"""
FIELDS_PER_DELETE = 1_000


class IncidentNotices:
    """Sends notices for one crawler while it leads. Its lease fences what it writes."""

    def __init__(
        self, redis: Redis, leadership: Leadership, queue: NoticeQueue, clock: RedisClock, *, official_only: bool
    ) -> None:
        self._redis = redis
        self._begin = FencedScript(redis, _BEGIN)
        self._forget = FencedScript(redis, _FORGET)
        self._clock = clock
        self._leadership = leadership
        self._queue = queue
        self._official_only = official_only
        self._history = HistoryReader(redis)
        self._head: Any = None

    async def run(self) -> None:
        """Send notices until cancelled. Outages of Redis and of the receiver are waited out."""
        self._queue.open()
        try:
            while True:
                if self._leadership.lease is not None:
                    # The crawl loop logs these, and deletes keys of a wrong type at each crawl.
                    with suppress(DeposedError, RedisError, OSError):
                        await self.send()
                await asyncio.sleep(POLL_EVERY)
        finally:
            with suppress(RedisError, OSError):
                await asyncio.to_thread(self._queue.close)

    async def send(self) -> None:
        """Queue new notices, and deliver those that are due.

        Raises `DeposedError`, `redis.RedisError`, `OSError`.
        """
        await self._queue_new()
        await asyncio.to_thread(self._queue.deliver_due)

    async def _queue_new(self) -> None:
        head = await self._redis.get(keys.HISTORY_HEAD)
        if head is not None and head == self._head:
            return
        lease, now = self._leadership.lease or "", await self._clock.ask()
        since, names = await self._begin(lease, [keys.INCIDENTS_DELIVERED], repr(now), SINCE, SENT_KEPT)
        sent: set[bytes] = set(names)
        incidents = await self._history.incidents()
        held_back = False
        for notice in self._due(incidents, sent, float(since), now):
            opened = f"{notice.incident.id}:opened"
            if notice.id != opened and await asyncio.to_thread(self._queue.is_pending, opened):
                held_back = True
            else:
                await asyncio.to_thread(self._queue.put, notice, lease)
        kept = {f"{incident.id}:{word}".encode() for incident in incidents for word in ("opened", "closed")}
        gone = list(sent - kept - {SINCE.encode()})
        for first in range(0, len(gone), FIELDS_PER_DELETE):
            await self._forget(lease, [keys.INCIDENTS_DELIVERED], *gone[first : first + FIELDS_PER_DELETE])
        self._head = None if held_back else head

    def _due(self, incidents: tuple[Incident, ...], sent: set[bytes], since: float, now: float) -> Iterator[Notice]:
        for incident in reversed(incidents):  # the oldest first
            if incident.start < since or (self._official_only and not incident.official):
                continue
            for word in ("opened",) if incident.end is None else ("opened", "closed"):
                name = f"{incident.id}:{word}"
                if name.encode() not in sent:
                    yield Notice(name, f"incident.{word}", now, incident)
