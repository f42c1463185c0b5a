"""Tell a webhook of incidents, for those without Alertmanager: once when one opens, once when it ends.

What was told stands in Redis, so a restart or another leader neither repeats nor forgets; a delivery whose
confirmation got lost is repeated with the same `id`. Only incidents that began after the webhook was first seen
are told: the past is on the pages.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
from redis.exceptions import RedisError

from crawler.webhook import DeliveryError, Target, post
from shared import keys
from shared.history_store import HistoryReader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redis.asyncio import Redis

    from crawler.leader import Leadership
    from crawler.metrics import CrawlerMetrics
    from shared.incidents import Incident

LOOK_EVERY = 5.0
"""Seconds between looks at whether a crawl has been recorded."""
BACKOFF = (5.0, 15.0, 60.0, 300.0)
"""Seconds after the first, second, … failure in a row; the last one stays."""
TOLD_LASTS = 400 * 86400
"""Seconds; longer than an incident is kept."""
SINCE = "since"
"""The field that says when the webhook was first seen; the others are events."""

log = structlog.get_logger()


class Notice(msgspec.Struct, frozen=True):
    """The document that is sent. `id` is the same when it is sent again."""

    id: str
    event: str
    """incident.opened or incident.closed"""
    sent_at: float
    incident: Incident


class IncidentNotices:
    """One a crawler; only the leading one tells."""

    def __init__(
        self,
        redis: Redis,
        leadership: Leadership,
        metrics: CrawlerMetrics,
        target: Target,
        *,
        secret: bytes | None,
        allow_private: bool,
        official_only: bool,
    ) -> None:
        self._redis = redis
        self._leadership = leadership
        self._metrics = metrics
        self._target = target
        self._secret = secret
        self._allow_private = allow_private
        self._official_only = official_only
        self._history = HistoryReader(redis)
        self._head: Any = None

    async def run(self) -> None:
        """Follow the incidents until cancelled. Redis and the receiver may be away meanwhile."""
        failures = 0
        while True:
            try:
                if self._leadership.lease is not None:
                    await self.tell()
                failures = 0
            except DeliveryError as error:
                delay = BACKOFF[min(failures, len(BACKOFF) - 1)]
                failures += 1
                log.warning("incident not told; trying again", reason=str(error), seconds=delay)
                await asyncio.sleep(delay)
                continue
            except (RedisError, OSError):
                pass  # the crawl loop says so
            await asyncio.sleep(LOOK_EVERY)

    async def tell(self) -> None:
        """Send what is new since the last crawl. Raises `DeliveryError`, `redis.RedisError`, `OSError`."""
        head = await self._redis.get(keys.HISTORY_HEAD)
        if head is not None and head == self._head:
            return
        await self._redis.hsetnx(keys.INCIDENTS_TOLD, SINCE, repr(time.time()))
        await self._redis.expire(keys.INCIDENTS_TOLD, TOLD_LASTS)
        names: Any = await self._redis.hkeys(keys.INCIDENTS_TOLD)
        told: set[str] = {name.decode() for name in names}
        since = float(await self._redis.hget(keys.INCIDENTS_TOLD, SINCE) or 0)
        incidents = await self._history.incidents()
        for notice in self._due(incidents, told, since):
            await self._send(notice)
            await self._redis.hset(keys.INCIDENTS_TOLD, notice.id, "1")
        kept = {f"{incident.id}:{word}" for incident in incidents for word in ("opened", "closed")} | {SINCE}
        if gone := told - kept:
            await self._redis.hdel(keys.INCIDENTS_TOLD, *gone)
        self._head = head

    def _due(self, incidents: tuple[Incident, ...], told: set[str], since: float) -> Iterator[Notice]:
        for incident in reversed(incidents):  # the oldest first
            if incident.start < since or (self._official_only and not incident.official):
                continue
            for word in ("opened",) if incident.end is None else ("opened", "closed"):
                name = f"{incident.id}:{word}"
                if name not in told:
                    yield Notice(name, f"incident.{word}", time.time(), incident)

    async def _send(self, notice: Notice) -> None:
        body = msgspec.json.encode(notice)
        try:
            await asyncio.to_thread(post, self._target, body, secret=self._secret, allow_private=self._allow_private)
        except DeliveryError:
            self._metrics.notices.labels("failed").inc()
            raise
        self._metrics.notices.labels("delivered").inc()
        log.info("incident told", notice=notice.id)
