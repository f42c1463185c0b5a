"""This module crawls on schedule while this process leads: observe the swarm, judge what was observed, publish it."""

from __future__ import annotations

import asyncio
import gc
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import structlog
from redis.exceptions import RedisError

from crawler.judge import judge
from crawler.leader import RENEW_EVERY
from crawler.observe.observation import SwarmUnavailableError
from shared import heap, tracing
from shared.p2p.daemon import NodeError
from shared.tasks import awaited, end, raise_if_cancelled

if TYPE_CHECKING:
    from crawler.leader import Leadership
    from crawler.metrics import CrawlerMetrics
    from crawler.observe.observation import Observation
    from crawler.observe.observer import Observer
    from crawler.publish import Publisher
    from crawler.settings import CrawlerSettings
    from shared.snapshot import Snapshot

EMPTY_CRAWLS_BELIEVED = 3
"""Number of crawls in a row that must see no server, after one that saw some, before an empty swarm is published."""

log = structlog.get_logger()


@dataclass
class CrawlLoop:
    """Runs a crawler process: keeps the lease, and crawls on schedule while it holds it."""

    settings: CrawlerSettings
    observer: Observer
    publisher: Publisher
    leadership: Leadership
    metrics: CrawlerMetrics
    _attempted: bool = False
    """Whether this process has crawled before, successfully or not."""
    _empty_crawls: int = 0
    _leads: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Run until cancelled, then release the lease and close the node. Raises what ended one of the two loops."""
        loops = [awaited(self._keep_lease(), "lease"), awaited(self._crawl_on_schedule(), "crawls")]
        try:
            ended, _ = await asyncio.wait(loops, return_when=asyncio.FIRST_COMPLETED)
            for loop in ended:
                loop.result()
        finally:
            await end(*loops)
            with suppress(RedisError, OSError, TimeoutError):
                async with asyncio.timeout(1):
                    await self.leadership.release()
            await self.observer.close()

    async def _keep_lease(self) -> None:
        """Take the lease or renew it every second. A Redis that is away, or comes back empty, is waited out."""
        redis_away = False
        taken_over: str | None = None
        while True:
            try:
                if await self.leadership.hold():
                    # A new lease of one that led before, too: another crawler may have led while it stood still.
                    if self.leadership.lease != taken_over:
                        await self.publisher.take_over(self.settings.bootstrap_peers)
                        taken_over = self.leadership.lease
                    self._leads.set()
                    await self.publisher.restore()
                else:
                    if self._leads.is_set():
                        log.warning("another crawler leads")
                    self._leads.clear()
                if redis_away:
                    log.info("redis is back")
                redis_away = False
            except (RedisError, OSError) as error:
                if not redis_away:
                    log.warning("redis is away; trying again every second", error=str(error))
                redis_away = True
                await self.publisher.delete_unusable_keys()
            self.metrics.leading.set(self._leads.is_set())
            raise_if_cancelled()
            await asyncio.sleep(RENEW_EVERY)

    async def _crawl_on_schedule(self) -> None:
        """Crawl once per period while this process leads. Missed periods are skipped, not caught up."""
        while True:
            await self._leads.wait()
            started = time.monotonic()
            with tracing.span("crawl") as span:
                if span.trace_id:
                    structlog.contextvars.bind_contextvars(trace_id=span.trace_id)
                await self._crawl()
            raise_if_cancelled()
            gc.collect()  # a crawl's objects refer to one another in circles, which would live on into the next crawl
            await asyncio.to_thread(heap.trim)
            elapsed = time.monotonic() - started
            if elapsed > self.settings.crawl_period:
                log.warning("the crawl took longer than its period", seconds=round(elapsed, 1))
            await asyncio.sleep(self.settings.crawl_period - elapsed % self.settings.crawl_period)

    async def _crawl(self) -> None:
        """Observe the swarm, judge what was observed, publish the snapshot; report the failure where there is none."""
        attempted_at = await self.publisher.begin()
        try:
            snapshot = await self._observe_and_judge(attempted_at)
            self._doubt_emptiness(snapshot)
        except Exception as error:
            if not isinstance(error, SwarmUnavailableError | NodeError):
                log.exception("crawl failed")
            self.metrics.failed()
            await self.observer.close()  # also after a crawl whose emptiness was doubted
            await self.publisher.report_failure(error, attempted_at)
            return
        await self.publisher.publish(snapshot, attempted_at)

    async def _observe_and_judge(self, attempted_at: float) -> Snapshot:
        observation = await self._observe(attempted_at)
        self.metrics.observed(observation)
        return self._judge(observation)  # the observation, which takes more memory, ends here

    async def _observe(self, attempted_at: float) -> Observation:
        """Return one observation. The first one is published while it goes on: progress, then an early snapshot."""
        if self.publisher.last is not None or self._attempted:
            return await self.observer.observe(self.publisher.last)
        self._attempted = True
        progress = partial(self.publisher.report_progress, attempted_at)
        return await self.observer.observe(early=self._publish_early, progress=progress)

    async def _publish_early(self, observation: Observation) -> None:
        await self.publisher.publish_early(self._judge(observation))

    def _judge(self, observation: Observation) -> Snapshot:
        return judge(observation, self.settings.crawl_period, self.settings.geo_database)

    def _doubt_emptiness(self, snapshot: Snapshot) -> None:
        """Raise `SwarmUnavailableError` for a first empty snapshot after a swarm: a DHT node may have restarted."""
        self._empty_crawls = 0 if snapshot.num_servers else self._empty_crawls + 1
        last = self.publisher.last
        seen = last.num_servers if last is not None else 0
        if seen and not snapshot.num_servers and self._empty_crawls < EMPTY_CRAWLS_BELIEVED:
            raise SwarmUnavailableError(
                f"the swarm announced no server at all, where it had {seen} before", snapshot.bootstrap_peers
            )
