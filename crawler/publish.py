"""This module publishes snapshots in Redis, and how each crawl went. Each write names the lease, which fences it.

A failed crawl leaves the last good snapshot in place; only the status beside it changes.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import structlog
from redis.exceptions import RedisError

from crawler.judge import with_since
from shared import tracing
from shared.snapshot import CrawlStatus, Snapshot
from shared.store.fencing import DeposedError

if TYPE_CHECKING:
    from collections.abc import Collection

    from crawler.history.writer import HistoryWriter
    from crawler.inference.rounds import InferenceChecks
    from crawler.leader import Leadership
    from crawler.metrics import CrawlerMetrics
    from shared.snapshot import CrawlProgress
    from shared.store.clock import RedisClock
    from shared.store.snapshots import SnapshotWriter

log = structlog.get_logger()


@dataclass
class Publisher:
    """Writes for one crawler. Only `take_over` and `restore` raise while Redis is away; the others log it."""

    writer: SnapshotWriter
    history: HistoryWriter
    leadership: Leadership
    metrics: CrawlerMetrics
    clock: RedisClock
    inference: InferenceChecks | None = None
    """Gets each snapshot, and adds to it what its checks have found by then."""
    last: Snapshot | None = None
    """The last good snapshot, by this crawler or by the leader before it."""

    async def take_over(self, bootstrap_peers: Collection[str]) -> None:
        """Adopt the snapshot that the previous leader published, if it is newer and of the same swarm.

        Raises `redis.RedisError`.
        """
        published = await self.writer.latest()
        ours = published is not None and any(peer.peer_id in bootstrap_peers for peer in published.bootstrap_peers)
        if published is not None and ours and (self.last is None or published.taken_at > self.last.taken_at):
            self.last = published
            if self.inference is not None:
                self.inference.results.restore(published)
        self.metrics.elections.inc()
        log.info("leading", lease=self.leadership.lease, goes_on_from=self.last.taken_at if self.last else None)

    async def restore(self) -> None:
        """Publish the last snapshot again where Redis has lost it. Raises `redis.RedisError`."""
        if self.last is not None and not await self.writer.published():
            with suppress(DeposedError):
                await self._write(self.last)
                log.info("republished the last snapshot: redis had lost it")

    async def begin(self) -> float:
        """Return when the crawl begins, in Unix seconds by Redis's clock, and delete unusable keys of the crawler."""
        attempted_at = await self.clock.ask()
        await self.delete_unusable_keys()
        return attempted_at

    async def publish(self, snapshot: Snapshot, attempted_at: float) -> None:
        """Publish a snapshot and its status, and add it to the history. It becomes `last` even where Redis is away."""
        await self.clock.ask()
        snapshot = self._dated(snapshot)
        if self.inference is not None:
            snapshot = self.inference.merged(snapshot)
        self.last = snapshot = with_since(snapshot, self.last)
        self.metrics.crawled(snapshot)
        size = None
        try:
            with self.metrics.phase("publish"), tracing.span("publish"):
                size = await self._write(snapshot)
            await self._report(CrawlStatus(attempted_at, ok=True, snapshot_taken_at=snapshot.taken_at))
            with self.metrics.phase("record"), tracing.span("record"):
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

    async def publish_early(self, snapshot: Snapshot) -> None:
        """Publish what a first crawl has seen so far, if anything. History and incidents wait for its end."""
        if not snapshot.num_servers:
            return
        try:
            await self._write(self._dated(snapshot))
        except (DeposedError, RedisError, OSError) as error:
            log.warning("early snapshot not published", error=str(error))

    async def report_progress(self, attempted_at: float, progress: CrawlProgress) -> None:
        """Publish how far a first crawl has come."""
        await self._report(CrawlStatus(attempted_at, ok=True, progress=progress))

    async def report_failure(self, error: Exception, attempted_at: float) -> None:
        """Publish why a crawl failed."""
        peers = getattr(error, "bootstrap_peers", ())
        reason = str(error) or type(error).__name__
        log.warning(
            "crawl failed; the last snapshot stays",
            reason=reason,
            bootstrap_peers={peer.peer_id: peer.error for peer in peers if peer.error},
        )
        tracing.current().fail(reason)
        await self._report(
            CrawlStatus(
                attempted_at,
                ok=False,
                error=reason,
                bootstrap_peers=peers,
                snapshot_taken_at=self.last.taken_at if self.last is not None else None,
            )
        )

    async def delete_unusable_keys(self) -> None:
        """Delete keys of the crawler that have another type than it writes, which would fail every write."""
        with suppress(RedisError, OSError):
            await self.writer.delete_unusable_keys()

    async def _write(self, snapshot: Snapshot) -> int:
        return await self.writer.publish(snapshot, self.leadership.lease or "")

    async def _record(self, snapshot: Snapshot) -> None:
        """Add the snapshot to the history. Whatever goes wrong costs one entry of it, never the crawl."""
        try:
            await self.history.append(snapshot, self.leadership.lease or "")
        except (DeposedError, RedisError, OSError) as error:
            log.warning("history not written", error=str(error))
        except Exception:
            log.exception("history not written")

    async def _report(self, status: CrawlStatus) -> None:
        try:
            await self.writer.report(status, self.leadership.lease or "")
        except DeposedError:
            log.warning("status not published: another crawler leads")
        except (RedisError, OSError) as error:
            log.warning("status not published: redis is away or full", error=str(error))

    def _dated(self, snapshot: Snapshot) -> Snapshot:
        """Return the snapshot with its time, which is by this machine's clock, turned into Redis's."""
        ahead = self.clock.now() - time.time()
        return msgspec.structs.replace(snapshot, taken_at=snapshot.taken_at + ahead)
