"""Crawl on schedule while leading, publish what was seen, and say so where nothing was.

A failed crawl leaves the last good snapshot in place; only the status beside it changes.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Self

import msgspec
import structlog
from redis.exceptions import RedisError

from crawler.judge import build_snapshot
from crawler.leader import RENEW_EVERY
from crawler.observe.swarm import Crawl, SwarmUnavailableError
from shared import heap, tracing
from shared.p2p.connect import ProberNode
from shared.p2p.daemon import NodeError
from shared.p2p.dht_node import DHTClientNode
from shared.snapshot import CrawlStatus, Snapshot
from shared.store.snapshots import DeposedError, SnapshotWriter
from shared.tasks import awaited, end

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from crawler.history.writer import HistoryWriter
    from crawler.inference.rounds import InferenceChecks
    from crawler.leader import Leadership
    from crawler.metrics import CrawlerMetrics
    from crawler.observe.swarm import Observation
    from crawler.settings import CrawlerSettings
    from shared.snapshot import CrawlProgress
    from shared.store.clock import RedisClock

MAX_CRAWL_SECONDS = 300.0
"""A crawl that takes longer is given up: something in it hangs that its own deadlines do not cover."""
PROGRESS_EVERY = 0.5
"""Seconds between two looks at how far a first crawl has come."""
EMPTY_CRAWLS_BELIEVED = 3
"""After a swarm was seen, so many crawls in a row must see no server at all before that is published."""

log = structlog.get_logger()


async def crawl_once(
    settings: CrawlerSettings,
    dht_node: DHTClientNode,
    metrics: CrawlerMetrics | None = None,
    *,
    last: Snapshot | None = None,
    early: Callable[[Snapshot], Awaitable[None]] | None = None,
    progress: Callable[[CrawlProgress], Awaitable[None]] | None = None,
) -> Snapshot:
    """One pass: observe, judge. Who was reached in the `last` snapshot is dialled first.

    `early` is given a snapshot in which slow servers still count as undialled, `progress` how far the crawl has come.
    Raises `SwarmUnavailableError`, `NodeError`.
    """
    started = time.monotonic()

    def judge(observation: Observation) -> Snapshot:
        ended = time.time()
        snapshot = build_snapshot(
            observation,
            started_at=ended - (time.monotonic() - started),
            ended_at=ended,
            update_period=settings.crawl_period,
            private_swarm=settings.private_swarm,
        )
        return snapshot if settings.geo_database is None else settings.geo_database.with_locations(snapshot)

    async def judge_early(observation: Observation) -> None:
        assert early is not None  # noqa: S101 - called where it is given
        await early(judge(observation))

    try:
        # A fresh prober node for each crawl: a daemon remembers failed dials for up to five minutes, and would go on
        # calling a server unreachable that came back meanwhile.
        async with asyncio.timeout(MAX_CRAWL_SECONDS), await ProberNode.open() as prober_node:
            crawl = Crawl(
                dht_node,
                prober_node,
                settings.bootstrap_peers,
                settings.official_models,
                settings.private_swarm,
                settings.dial_timeout,
                settings.lookup_timeout,
                last,
                None if early is None else judge_early,
            )
            telling = None if progress is None else awaited(_tell(crawl, progress))
            try:
                observation = await crawl.run()
            finally:
                await end(telling)
    except TimeoutError:
        raise SwarmUnavailableError(f"the crawl did not end within {MAX_CRAWL_SECONDS:g} s") from None
    if metrics is not None:
        metrics.observed(observation)
    return judge(observation)


async def _tell(crawl: Crawl, progress: Callable[[CrawlProgress], Awaitable[None]]) -> None:
    """Call `progress` whenever there is some."""
    told = None
    while True:
        if (now := crawl.progress()) != told:
            await progress(now)
            told = now
        await asyncio.sleep(PROGRESS_EVERY)


class Crawler:
    """Crawls with a node that is kept from crawl to crawl, and replaced after one that failed."""

    def __init__(self, settings: CrawlerSettings, metrics: CrawlerMetrics | None = None) -> None:
        self._settings = settings
        self._metrics = metrics
        self._dht_node: DHTClientNode | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def crawl(
        self,
        last: Snapshot | None = None,
        *,
        early: Callable[[Snapshot], Awaitable[None]] | None = None,
        progress: Callable[[CrawlProgress], Awaitable[None]] | None = None,
    ) -> Snapshot:
        """One pass, as `crawl_once`. Raises `SwarmUnavailableError`, `NodeError`."""
        try:
            if self._dht_node is None:
                self._dht_node = await DHTClientNode.open(self._settings.dial_private_addresses)
            return await crawl_once(
                self._settings, self._dht_node, self._metrics, last=last, early=early, progress=progress
            )
        except BaseException:
            await self.close()  # it may itself be what failed
            raise

    async def close(self) -> None:
        """End the node; the next crawl opens another."""
        dht_node, self._dht_node = self._dht_node, None
        if dht_node is not None:
            await dht_node.close()


class CrawlLoop:
    """The life of a crawler process."""

    def __init__(
        self,
        settings: CrawlerSettings,
        writer: SnapshotWriter,
        leadership: Leadership,
        metrics: CrawlerMetrics,
        *,
        clock: RedisClock,
        history: HistoryWriter | None = None,
        inference: InferenceChecks | None = None,
    ) -> None:
        self._inference = inference
        self._settings = settings
        self._writer = writer
        self._leadership = leadership
        self._metrics = metrics
        self._history = history
        self._crawler = Crawler(settings, metrics)
        self._last: Snapshot | None = None
        self._attempted = False
        """Whether this process has crawled before, were it in vain."""
        self._empty_crawls = 0
        self._clock = clock
        self._leads = asyncio.Event()

    async def run(self) -> None:
        """Run until cancelled; then let go of the lease and end the node. Raises what ended one of the two loops."""
        loops = [awaited(self._keep_lease(), "lease"), awaited(self._crawl_on_schedule(), "crawls")]
        try:
            ended, _ = await asyncio.wait(loops, return_when=asyncio.FIRST_COMPLETED)
            for loop in ended:
                loop.result()
        finally:
            await end(*loops)
            with suppress(RedisError, OSError, TimeoutError):
                async with asyncio.timeout(1):
                    await self._leadership.release()
            await self._crawler.close()

    async def _keep_lease(self) -> None:
        redis_away = False
        while True:
            try:
                led = self._leads.is_set()
                if await self._leadership.hold():
                    if not led:
                        await self._take_over()
                    self._leads.set()
                    await self._restore()
                else:
                    if led:
                        log.warning("another crawler leads")
                    self._leads.clear()
                if redis_away:
                    log.info("redis is back")
                redis_away = False
            except (RedisError, OSError) as error:
                if not redis_away:
                    log.warning("redis is away; trying again every second", error=str(error))
                redis_away = True
                await self._mend()
            self._metrics.leading.set(self._leads.is_set())
            await asyncio.sleep(RENEW_EVERY)

    async def _take_over(self) -> None:
        """Go on from what the leader before published: the facts of the last good crawl are not this process's own."""
        published = await self._writer.latest()
        ours = published is not None and any(
            peer.peer_id in self._settings.bootstrap_peers for peer in published.bootstrap_peers
        )
        if published is not None and ours and (self._last is None or published.taken_at > self._last.taken_at):
            self._last = published
            if self._inference is not None:
                self._inference.restore(published)
        self._metrics.elections.inc()
        log.info("leading", lease=self._leadership.lease, goes_on_from=self._last.taken_at if self._last else None)

    async def _restore(self) -> None:
        """Put the last snapshot back at once where Redis came back empty."""
        if self._last is not None and not await self._writer.published():
            with suppress(DeposedError):
                await self._publish(self._last)
                log.info("republished the last snapshot: redis had lost it")

    async def _crawl_on_schedule(self) -> None:
        while True:
            await self._leads.wait()
            started = time.monotonic()
            with tracing.span("crawl") as span:
                if span.trace_id:
                    structlog.contextvars.bind_contextvars(trace_id=span.trace_id)
                await self._crawl()
            await asyncio.to_thread(heap.give_back)
            elapsed = time.monotonic() - started
            if elapsed > self._settings.crawl_period:
                log.warning("the crawl took longer than its period", seconds=round(elapsed, 1))
            # Periods missed meanwhile are skipped, not caught up.
            await asyncio.sleep(self._settings.crawl_period - elapsed % self._settings.crawl_period)

    async def _crawl(self) -> None:
        attempted_at = await self._clock.ask()
        await self._mend()
        try:
            # Who opens the page of a new monitor sees what is done, and servers before the slowest of them answered.
            first = self._last is None and not self._attempted
            self._attempted = True
            snapshot = await self._crawler.crawl(
                self._last,
                early=self._publish_early if first else None,
                progress=partial(self._report_progress, attempted_at) if first else None,
            )
            self._doubt_emptiness(snapshot)
        except (SwarmUnavailableError, NodeError) as error:
            await self._failed(error, attempted_at)
            return
        except Exception as error:
            log.exception("crawl failed")
            await self._failed(error, attempted_at)
            return
        await self._clock.ask()
        snapshot = _dated(snapshot, self._clock.now() - time.time())
        if self._inference is not None:
            snapshot = self._inference.merged(snapshot)
        self._last = snapshot
        self._metrics.crawled(snapshot)
        size = None
        try:
            with self._metrics.phase("publish"), tracing.span("publish"):
                size = await self._publish(snapshot)
            await self._report(CrawlStatus(attempted_at, ok=True, snapshot_taken_at=snapshot.taken_at))
            with self._metrics.phase("record"), tracing.span("record"):
                await self._record(snapshot)
        except DeposedError as error:
            log.warning("snapshot not published: another crawler leads", reason=str(error))
        except (RedisError, OSError) as error:
            log.warning("snapshot not published: redis is away or full", error=str(error))
        tracing.current().set({"petals.servers": snapshot.num_servers, "petals.models": len(snapshot.models)})
        log.info(
            "crawled",
            seconds=round(snapshot.update_duration, 2),
            models=len(snapshot.models),
            servers=snapshot.num_servers,
            unreachable=len(snapshot.reachability_issues),
            refused=snapshot.refused.total,
            unanswered_keys=snapshot.unanswered_keys,
            bytes=size,
        )

    def _doubt_emptiness(self, snapshot: Snapshot) -> None:
        """An empty answer where a swarm was: more likely a DHT node that restarted than a swarm that left."""
        self._empty_crawls = 0 if snapshot.num_servers else self._empty_crawls + 1
        seen = self._last.num_servers if self._last is not None else 0
        if seen and not snapshot.num_servers and self._empty_crawls < EMPTY_CRAWLS_BELIEVED:
            raise SwarmUnavailableError(
                f"the swarm announced no server at all, where it had {seen} before", snapshot.bootstrap_peers
            )

    async def _publish_early(self, snapshot: Snapshot) -> None:
        """Publish what a first crawl saw up to now; history and incidents wait for its end."""
        if not snapshot.num_servers:
            return
        try:
            await self._publish(_dated(snapshot, self._clock.now() - time.time()))
        except (DeposedError, RedisError, OSError) as error:
            log.warning("early snapshot not published", error=str(error))

    async def _report_progress(self, attempted_at: float, progress: CrawlProgress) -> None:
        await self._report(CrawlStatus(attempted_at, ok=True, progress=progress))

    async def _publish(self, snapshot: Snapshot) -> int:
        return await self._writer.publish(snapshot, self._leadership.lease or "")

    async def _record(self, snapshot: Snapshot) -> None:
        """The past is worth less than the present: whatever goes wrong with it costs one entry of it."""
        try:
            if self._history is not None:
                await self._history.append(snapshot, self._leadership.lease or "")
        except (DeposedError, RedisError, OSError) as error:
            log.warning("history not written", error=str(error))
        except Exception:
            log.exception("history not written")

    async def _failed(self, error: Exception, attempted_at: float) -> None:
        peers = getattr(error, "bootstrap_peers", ())
        reason = str(error) or type(error).__name__
        log.warning(
            "crawl failed; the last snapshot stays",
            reason=reason,
            bootstrap_peers={peer.peer_id: peer.error for peer in peers if peer.error},
        )
        self._metrics.failed()
        tracing.current().fail(reason)
        await self._crawler.close()  # also after a crawl that was not believed
        await self._report(
            CrawlStatus(
                attempted_at,
                ok=False,
                error=reason,
                bootstrap_peers=peers,
                snapshot_taken_at=self._last.taken_at if self._last is not None else None,
            )
        )

    async def _report(self, status: CrawlStatus) -> None:
        try:
            await self._writer.report(status, self._leadership.lease or "")
        except DeposedError:
            log.warning("status not published: another crawler leads")
        except (RedisError, OSError) as error:
            log.warning("status not published: redis is away or full", error=str(error))

    async def _mend(self) -> None:
        """Delete what stands under the crawler's names and is of another type, before it is in anything's way."""
        with suppress(RedisError, OSError):
            await self._writer.mend()


def _dated(snapshot: Snapshot, ahead: float) -> Snapshot:
    """Return a snapshot that this machine's clock has dated, by one that is so many seconds ahead of it."""
    return msgspec.structs.replace(snapshot, taken_at=snapshot.taken_at + ahead)
